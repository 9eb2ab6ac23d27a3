"""Kills processes that save a folder, and prints, as JSON, what each kill left.

A process of its own, without torch, so that forking one to kill takes a millisecond:
`python folder_kills.py DIRECTORY {first,calls,instants} {exchange,renames} NUMBER`. With `calls` processes
replace a folder, and are killed at their first system call, the one NUMBER calls later, ... until one ends by
itself; with `first` there is no folder before. With `instants` NUMBER of them are killed at random instants,
each of which saves one folder after the other.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from marlin_ckpt.directory import catalog, leftovers
from marlin_ckpt.formats import verification
from marlin_ckpt.naming import MANIFEST
from marlin_ckpt.storage.local import staging, temporary
from tests.support.folder_checkpoints import read_all, save
from tests.support.refused_calls import NAMES, place

NAME = "checkpoint-500"
LONGEST_S = 0.1


def content(save_number: int) -> dict[str, bytes]:
    """What save of this number consists of."""
    sizes = {"model.safetensors": 300_000, "optimizer.pt": 100_000, "rank/0/rng.pth": 10, "rank/1/rng.pth": 1}
    return {name: bytes([save_number]) * size for name, size in sizes.items()}


class Killer:
    """Kills its process at a system call that the package makes, by its number."""

    def __init__(self, number: int) -> None:
        self._left = number
        for name in NAMES:
            setattr(os, name, self._around(getattr(os, name)))
        staging.exchange = self._around(staging.exchange)
        temporary.fcntl.flock = self._around(temporary.fcntl.flock)

    def _around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if place():
                if not self._left:
                    os.kill(os.getpid(), signal.SIGKILL)
                self._left -= 1
            return real(*args, **options)

        return call


def forked(work: Callable[[], None]) -> int:
    """Runs something in a process of its own; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - said in the only way that is left
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)
    os._exit(0)


def found(directory: str) -> tuple[int, str]:
    """The number of the save that is there under the name, -1 for none, and what is wrong with it."""
    path = os.path.join(directory, NAME)
    if not os.path.lexists(path):
        return -1, ""
    there = read_all(path)
    if there.pop(MANIFEST, None) is None:
        return -1, f"no manifest beside {sorted(there)}"
    number = there["rank/0/rng.pth"][0] if "rank/0/rng.pth" in there else -1
    if there != content(number):
        return number, "a mixture, or less than was saved"
    entry = catalog.entry(path)
    verdict = entry and verification.verify(entry)
    return number, "" if verdict and verdict.status == "intact" else f"{verdict}"


def judge(directory: str, permitted: set[int], at: str) -> dict[str, Any]:
    """What a kill left, and what the next start makes of it."""
    number, wrong = found(directory)
    faults = [wrong] if wrong else []
    littered = os.listdir(directory) != [NAME]
    leftovers.sweep(directory, leftovers._logger)
    after, wrong = found(directory)
    faults += [f"after the sweep: {wrong}"] * bool(wrong)
    if after not in permitted:
        faults.append(f"save {after} is there, not one of {sorted(permitted)}")
    if number not in (-1, after):
        faults.append(f"the sweep has changed save {number} to {after}")
    if rest := set(os.listdir(directory)) - {NAME}:
        faults.append(f"left after the sweep: {sorted(rest)}")
    is_new = after == max(permitted)
    return {"at": at, "faults": faults, "is_new": is_new, "littered": littered, "found": number}


def kill_at_calls(directory: str, step: int, *, is_first: bool) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    while not results or "ended" not in results[-1]:
        number = len(results) * step
        if is_first:
            shutil.rmtree(directory)
            os.mkdir(directory)
        elif found(directory) != (1, ""):
            save(directory, NAME, content(1))

        def work(number: int = number) -> None:
            Killer(number)
            save(directory, NAME, content(2))

        status = os.waitpid(forked(work), 0)[1]
        results.append(judge(directory, {-1 if is_first else 1, 2}, f"call {number}"))
        if not os.WIFSIGNALED(status):
            results[-1]["ended"] = os.waitstatus_to_exitcode(status)
    return results


def kill_at_instants(directory: str, count: int) -> list[dict[str, Any]]:
    rng, results, last = random.Random(0), [], 0
    save(directory, NAME, content(last))
    for _ in range(count):
        reader, writer = os.pipe()

        def work(first: int = last + 1, writer: int = writer) -> None:
            for number in range(first, 256):
                save(directory, NAME, content(number))
                os.write(writer, bytes([number]))

        pid = forked(work)
        os.close(writer)
        time.sleep(rng.uniform(0, LONGEST_S))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        reported = max([last, *os.read(reader, 256)])
        os.close(reader)
        results.append(judge(directory, {reported, reported + 1}, f"after save {reported}"))
        last = found(directory)[0]
        if last > 150:
            last = 0
            save(directory, NAME, content(last))
    return results


def main() -> None:
    directory, way, how, number = sys.argv[1:]
    if how == "renames":

        def refuse(*_: Any) -> None:
            raise OSError(22, "Invalid argument")

        staging.exchange = refuse
    os.makedirs(directory, exist_ok=True)
    if way == "instants":
        results = kill_at_instants(directory, int(number))
    else:
        results = kill_at_calls(directory, int(number), is_first=way == "first")
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
