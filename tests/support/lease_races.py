"""Processes that take the lease of a directory in an object store at the same time, again and again.

A process of its own, so that what it forks has imported everything, and no thread runs before the forks:
`python lease_races.py URL PROCESSES BEFORE ...` prints, as JSON, what each race came to, where BEFORE says
what there was: `nothing`, or a lease that was `let-go`, has `expired`, or whose holder was `killed`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import select
import signal
import sys
from typing import Any

from marlin_ckpt import DirectoryInUseError
from marlin_ckpt.directory import lease
from marlin_ckpt.directory.remote import lease as remote
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.target import whole
from tests.support import s3_servers
from tests.support.workers import PATIENCE_S, PR_SET_PDEATHSIG

_TAKE, _LET_GO = b"t", b"l"


class Racer:
    """A forked process that takes the lease when it is told to, and says what came of it."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._commands)
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                self._race(url, commands, answers)
            finally:
                os._exit(70)
        os.close(commands)
        os.close(answers)

    def _race(self, url: str, commands: int, answers: int) -> None:
        with paths.open_remote(url) as store:
            store.head(remote.LEASE)  # it is the race that is to begin at once, and not the client
        os.write(answers, b"\n")
        with contextlib.ExitStack() as stack:
            while command := os.read(commands, 1):
                said: Any = None
                try:
                    if command == _TAKE:
                        stack.enter_context(lease.held(url, self.name))
                        said = ["held", ""]
                    else:
                        stack.close()
                except DirectoryInUseError as error:
                    said = [error.holder.get("run_id"), str(error)]
                except BaseException as error:  # noqa: BLE001 - told to whoever looks at the races
                    said = ["failed", repr(error)]
                os.write(answers, json.dumps(said).encode() + b"\n")

    def tell(self, command: bytes) -> None:
        os.write(self._commands, command)

    def answer(self) -> Any:
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._answers], [], [], PATIENCE_S)[0]:
                raise SystemExit(f"{self.name} does not answer")
            read = os.read(self._answers, 4096)
            if not read:
                raise SystemExit(f"{self.name} has ended")
            line += read
        return json.loads(line or b"null") if line.strip() else None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._commands)
        os.close(self._answers)


def expire(url: str) -> None:
    """Has the lease be one of a process on another machine that was not renewed."""
    with paths.open_remote(url) as store:
        with store.open(remote.LEASE) as source:
            held = json.loads(source.read(0, source.size_bytes))
        held |= {"boot": "another machine's", "run_id": "old", "pid": 1, "expires": store.now_s() - 1}
        data = json.dumps(held).encode()
        store.publish(remote.LEASE, len(data), whole(data), replaces=(source.etag,))


def main(url: str, count: int, races: list[str]) -> list[dict[str, Any]]:
    """Has races, one after the other.

    Returns:
        of each race: `before`; the `winners`; who was named as the holder by the others, as `named`, and what
        was said by those who named somebody else, as `odd`; whom the store names, as `stored`.
    """
    remote._RENEWALS, remote._POLL_S = 240, 0.5  # of 60 s: the others look once more after a renewal
    s3_servers.read_models_once()
    lease.holder(url)  # so that what it takes to make a client is there before the forks
    racers = [Racer(url, f"run-{number}") for number in range(count)]
    made, found = count, []
    for one in racers:
        one.answer()
    for before, after in zip(races, [*races[1:], ""], strict=True):
        if before == "expired":
            expire(url)
        for one in racers:
            one.tell(_TAKE)
        said = {one.name: one.answer() for one in racers}
        winners = [name for name, (holder, _) in said.items() if holder == "held"]
        others = [one for one in said.values() if one[0] != "held"]
        found.append(
            {
                "before": before,
                "winners": winners,
                "named": sorted({str(holder) for holder, _ in others}),
                "odd": [text for holder, text in others if [holder] != winners],
                "stored": lease.holder(url).get("run_id"),
            }
        )
        held = [one for one in racers if one.name in winners]
        for one in held:
            if after == "killed":
                one.kill()
                racers.remove(one)
                racers.append(Racer(url, f"run-{made}"))
                made += 1
                racers[-1].answer()
            else:
                one.tell(_LET_GO)
                one.answer()
    for one in racers:
        one.kill()
    return found


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])))
