"""Trainings with other packages that are forked, killed at a step of a save or at any time, and resumed.

A step is a call by which Python changes what is on the disk; before the one that is asked for the process
kills itself. A file that other packages write by one call, such as `torch.save` to a path, has three steps:
before it, when half of it is there, and after it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_CALLS = [
    *("fsync", "ftruncate", "link", "mkdir", "pwrite", "remove", "rename", "replace"),
    *("rmdir", "symlink", "unlink", "write"),
]


class Steps:
    """Counts the steps of this process, and kills it before one of them."""

    def __init__(self, kill_at: int) -> None:
        self.taken = 0
        self._kill_at = kill_at

    def step(self) -> None:
        self.taken += 1
        if self.taken == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_system_calls(self) -> None:
        """Counts the calls that Python makes; those of the file objects that are open already it cannot."""
        for name in _CALLS:
            setattr(os, name, self._counted(getattr(os, name)))

    def watch_writer(self, module: Any, name: str, path_of: Callable[..., Any]) -> None:
        """Counts before, within and after a function that writes a file by its path."""
        write = getattr(module, name)

        @functools.wraps(write)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step()
            result = write(*args, **kwargs)
            path = path_of(*args, **kwargs)
            if isinstance(path, (str, os.PathLike)):
                if self.taken + 1 == self._kill_at:
                    os.truncate(path, os.path.getsize(path) // 2)
                self.step()
            self.step()
            return result

        setattr(module, name, counted)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if args[:1] not in [(1,), (2,)]:  # what is printed
                self.step()
            return call(*args, **kwargs)

        return counted


def forked(
    run: Callable[[], Any], watch: Callable[[Steps], None], kill_at: int = 0, kill_after_s: float = 0
) -> dict[str, Any]:
    """Forks a process that runs once.

    Returns:
        "status", how it ended, "steps" and "result" where it came to its end, and "error", its last line.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        steps = Steps(kill_at)
        answer: dict[str, Any] = {}
        code = 1
        try:
            watch(steps)
            answer["result"] = run()
            code = 0
        except BaseException as error:  # noqa: BLE001 - the parent tells of it
            answer["error"] = "".join(traceback.format_exception_only(error)).strip()
            if os.environ.get("PEER_KILLS_VERBOSE"):
                traceback.print_exc()
        answer["steps"] = steps.taken
        with open(writing, "w") as file:
            json.dump(answer, file)
        os._exit(code)
    os.close(writing)
    if kill_after_s:
        time.sleep(kill_after_s)  # the time of the kill itself
        os.kill(pid, signal.SIGKILL)
    with open(reading) as file:
        said = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"status": status, "steps": 0, "result": None, "error": "", **json.loads(said or "{}")}


def kills(
    directory: Path,
    train: Callable[[str], str],
    watch: Callable[[Steps], None],
    count: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Trains again and again, each time killed once and resumed until it ends.

    Args:
        directory: of the trainings, one sub-directory each.
        train: trains in a directory, from what is there, to the end; returns a digest of the weights.
        watch: tells which steps count.
        count: how many kills; half of them at steps that are drawn evenly, the others at any time.
        seed: of what is drawn.

    Returns:
        "expected" and "steps" of the undisturbed run, "killed", how many kills hit, and for each of them that
        ended badly a line in "unresumable", where the next start failed, and in "different", where the
        weights at the end differ.
    """
    began = time.perf_counter()
    whole = forked(lambda: train(str(directory / "whole")), watch)
    took_s = time.perf_counter() - began
    assert whole["status"] == 0, whole["error"]
    draw = random.Random(seed)
    found: dict[str, Any] = {"expected": whole["result"], "steps": whole["steps"], "killed": 0}
    found |= {"unresumable": [], "different": []}
    for number in range(count):
        where = str(directory / str(number))
        run = functools.partial(train, where)
        if number % 2:
            how = {"kill_after_s": draw.uniform(0.02, 0.8 * took_s)}
        else:
            even = (number // 2 + draw.random()) / ((count + 1) // 2)
            how = {"kill_at": 1 + int(even * whole["steps"])}
        ended = forked(run, watch, **how)
        found["killed"] += ended["status"] == -signal.SIGKILL
        if ended["status"] != 0:
            ended = forked(run, watch)
        if ended["status"] != 0:
            found["unresumable"].append(f"{how}: {ended['error']}")
        elif ended["result"] != whole["result"]:
            found["different"].append(f"{how}: {ended['result']}")
    return found


def digest(state: dict[str, torch.Tensor]) -> str:
    """Of names and bytes."""
    found = hashlib.sha256()
    for name, tensor in state.items():
        found.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def answer(runs: dict[str, Callable[..., Any]]) -> None:
    """The main function of a script: `python SCRIPT NAME DIRECTORY ARGUMENTS`, each a JSON value."""
    name, directory, *arguments = sys.argv[1:]
    sys.stdout.write(json.dumps(runs[name](Path(directory), *map(json.loads, arguments))))
