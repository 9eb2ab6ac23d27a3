"""Ends runs that save asynchronously, and lets some save often; see async_child.py."""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import random
import resource
import signal
import sys
import threading
import types
from typing import Any

from marlin_ckpt import MarlinError
from marlin_ckpt.saving import background
from marlin_ckpt.saving.copying.arena import Arena
from marlin_ckpt.storage.local import writer
from tests.support.async_child import (
    MESSAGE,
    NEW_NAMES,
    PATIENCE_S,
    Training,
    checkpointer_for,
    checksum,
    held_by,
    name_of,
    run,
)

SMALL_FILES_BYTES = 1 << 20
FEW = 6  # saves: the most memory after the first ones is compared with the least after the last ones
FAILED_SAVE = 120  # the exit code of a process whose last save failed in the background
KEPT: list[Any] = []


class Ended(Exception):
    """A child is to end as a script does at its end."""


def end(directory: str, tell: int, rng: random.Random, how: str, *, fails: bool, is_daemon: bool) -> None:
    """Saves a few times and ends while the last save is under way."""
    signal.alarm(PATIENCE_S)
    os.dup2(os.open(os.path.join(directory, "stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    writer._LARGE_BYTES = 0 if is_daemon else rng.choice([0, sys.maxsize])
    if is_daemon:
        thread = functools.partial(threading.Thread, daemon=True)
        background.threading = types.SimpleNamespace(Thread=thread, Condition=threading.Condition)
        os.fsync = lambda _: threading.Event().wait()  # else the save may be done before the process ends
    if fails:
        limit = (SMALL_FILES_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    training, one = Training(rng.randrange(1000)), checkpointer_for(directory, log_level="ERROR")
    if rng.random() < 0.5:  # else it is dropped while it saves
        KEPT.append(one)
    for number in range(1 if fails or is_daemon else rng.randint(1, 3)):
        training.step()
        checkpoint = training.checkpoint(number)
        os.write(tell, MESSAGE.pack(False, number, checksum(checkpoint)))
        one.save(checkpoint, number)
    for _ in range(rng.choice([0, rng.randrange(10)])):  # so that the exit meets each part of the save
        training.step()
    if how == "exit":
        sys.exit(3)
    raise Ended if how == "end" else ZeroDivisionError


def end_again_and_again(directory: str, times: int, *, is_daemon: bool) -> dict[str, Any]:
    codes = {"exit": 3, "end": 0, "exception": 1}
    rng = random.Random(20261202)
    found: dict[str, Any] = {"exits": 0, "failing": 0, "faults": []}
    for number in range(times):
        how, fails = list(codes)[number % 3], not is_daemon and number % 5 == 4
        messages, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            end(directory, tell, rng, how, fails=fails, is_daemon=is_daemon)
        rng.seed(number)
        os.close(tell)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with os.fdopen(messages, "rb") as file:
            asked = [MESSAGE.unpack(data) for data in iter(lambda: file.read(MESSAGE.size), b"")]
        found["exits"] += 1
        found["failing"] += fails
        with open(os.path.join(directory, "stderr"), encoding="utf-8") as file:
            said = file.read()
        expected = FAILED_SAVE if fails else codes[how]
        faults = [] if code == expected else [f"ended with {code}: {said}"]
        faults += [] if ("nobody waited for it" in said) == fails else [f"said {said}"]
        sums = {one: its_checksum for _, one, its_checksum in asked}
        names = set() if fails else {name_of(NEW_NAMES, one) for one in sums}
        faults += [fault for name in names if (fault := held_by(directory, name, sums)[1])]
        if (there := set(os.listdir(directory)) - {"stderr"}) != names:
            faults.append(f"there is {there}")
        found["faults"] += [[number, how, fault] for fault in faults]
        for name in there:
            os.unlink(os.path.join(directory, name))
    return found


def resident_kib() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def save_many_times(directory: str, times: int, how: str) -> dict[str, int]:
    training, failed, resident = Training(0), 0, []
    if how == "failing":
        limit = (SMALL_FILES_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    if how == "leaking":
        Arena.room = lambda _, size, **_options: memoryview(KEPT.append(mmap.mmap(-1, size)) or KEPT[-1])
    one = checkpointer_for(directory)
    for number in range(times):
        training.step()
        try:
            one.save(training.checkpoint(number), 0)
        except MarlinError:
            failed += 1
        resident.append(resident_kib())
    return {"saves": times, "failed": failed, "early": max(resident[:FEW]), "later": min(resident[-FEW:])}


def measure_memory(directory: str, times: int, *, how: str) -> dict[str, int]:
    answer, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(PATIENCE_S)
            os.write(tell, json.dumps(save_many_times(directory, times, how)).encode())
        finally:
            os._exit(70)
    os.close(tell)
    os.waitpid(pid, 0)
    with os.fdopen(answer, "rb") as file:
        return json.loads(file.read())


if __name__ == "__main__":
    with contextlib.suppress(Ended):
        run(
            {
                **{
                    how: functools.partial(measure_memory, how=how)
                    for how in ("succeeding", "failing", "leaking")
                },
                "exits": functools.partial(end_again_and_again, is_daemon=False),
                "daemon": functools.partial(end_again_and_again, is_daemon=True),
            }
        )
