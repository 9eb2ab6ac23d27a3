"""Saves under strace, which makes system calls fail, and tells what each save leaves behind.

A process of its own, so that torch is imported once and no test has started its threads before the forks:
`python traced_saves.py DIRECTORY` reads cases, one a line, as JSON: the kind of the save, and what strace is
to inject. It prints a line for each.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from marlin_ckpt import (
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    MarlinError,
    StorageError,
)
from marlin_ckpt.formats import digests
from marlin_ckpt.storage.local import direct, writer
from marlin_ckpt.storage.local.temporary import is_temporary

ELEMENTS = 3000  # with buffers of a block, a save takes several writes
EARLIER, TARGET = ("model_1.pt", "model_2.pt"), "model_3.pt"
CALLS = (
    "openat,flock,fcntl,ioctl,fallocate,pwrite64,write,writev,ftruncate,fsync,close,linkat,unlinkat,/^rename"
)
PR_SET_PTRACER = 0x59616D61  # linux/prctl.h; where Yama lets only parents trace


def state_of(value: float) -> Checkpoint:
    return Checkpoint({"weight": torch.full((ELEMENTS,), value)}, {}, {})


def sharing_state_of(value: float) -> Checkpoint:
    """One with two tensors that are the same in each state, and take several blocks."""
    frozen = {f"frozen.{number}": torch.arange(2.0 * ELEMENTS) + number for number in range(2)}
    return Checkpoint({**frozen, **state_of(value).module_interface_state}, {}, {})


def checkpointer_for(directory: str, **fields: bool) -> DefaultCheckpointer:
    return DefaultCheckpointer(
        DefaultCheckpointerArguments(
            save_dir=directory, load_dir=directory, load_filename=TARGET, log_level="CRITICAL", **fields
        )
    )


def prepare(kind: str, directory: str, value: float, index: int = 3) -> Callable[[], None]:
    """Does what comes before a save, and returns what makes it."""
    if kind == "plain":
        path = os.path.join(directory, f"model_{index}.pt")
        return lambda: torch.save(state_of(value).payload(), path)
    writer._LARGE_BYTES = 0 if kind == "direct" else sys.maxsize
    if kind != "sharing":
        return lambda: checkpointer_for(directory).save(state_of(value), index)
    checkpointer = checkpointer_for(directory, share_unchanged=True)
    checkpointer.run_id = "one"  # always: a directory with files of several gets a note of them
    for earlier in range(1, len(EARLIER) + 1):
        checkpointer.save(sharing_state_of(0.0), earlier)
    return lambda: checkpointer.save(sharing_state_of(value), index)


def fork_when_told(make_ready: Callable[[], Callable[[], None]]) -> tuple[int, int]:
    """Forks a child that waits for a byte; its exit status is then the errno of what it raised."""
    told, tell = os.pipe()
    ready, say_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            os.close(tell)
            do = make_ready()
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, -1, 0, 0, 0)
            os.close(say_ready)  # from here on every call is one of the save
            os.read(told, 1)
            do()
            status = 0
        except StorageError as error:
            status = error.errno
        finally:
            os._exit(status)
    os.close(told)
    os.close(say_ready)
    os.read(ready, 1)
    os.close(ready)
    return pid, tell


def traced(pid: int, tell: int, log: str, inject: str | None) -> tuple[int, str]:
    """Traces a child from the moment that it is told to go on.

    Returns:
        how it ended, and why it could not be traced.
    """
    command = ["strace", "-f", "-y", "-o", log, "-e", f"trace={CALLS}", "-e", "signal=none", "-p", str(pid)]
    command += ["-e", f"inject={inject}"] if inject else []
    said = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        attached = any("attached" in (said.append(line) or line) for line in strace.stderr)
        if attached:
            os.write(tell, b".")
        else:
            os.kill(pid, signal.SIGKILL)
        os.close(tell)
        strace.stderr.read()
    return os.waitpid(pid, 0)[1], "" if attached else "".join(said) or "strace said nothing"


def contents(directory: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.is_file()}


def what_is_there(directory: str, old: bytes) -> str:
    """What the file of the name holds, in a word."""
    with open(os.path.join(directory, TARGET), "rb") as file:
        if file.read() == old:
            return "old"
    try:
        found = checkpointer_for(directory).load().module_interface_state
    except MarlinError:
        return "torn"
    made = sharing_state_of if "frozen.0" in found else state_of
    new = made(2.0).module_interface_state
    is_new = found.keys() == new.keys() and all(torch.equal(found[name], new[name]) for name in new)
    return "new" if is_new else "torn"


def run(directory: str, kind: str, inject: str | None) -> dict:
    os.mkdir(directory)
    prepare(kind, directory, 1.0)()
    pid, tell = fork_when_told(lambda: prepare(kind, directory, 2.0))
    before = contents(directory)
    status, refused = traced(pid, tell, f"{directory}.log", inject)
    if refused:
        return {"refused": refused}
    with open(f"{directory}.log", encoding="utf-8", errors="replace") as log:
        lines = log.read().splitlines()
    after = contents(directory)
    found = {
        "errno": os.waitstatus_to_exitcode(status),
        "holds": what_is_there(directory, before[TARGET]),
        "litter": sorted(set(os.listdir(directory)) - set(before)),
        "changed": [name for name in EARLIER if after.get(name) != before.get(name)],
        "log": lines,
    }
    prepare(kind, directory, 3.0, index=4)()
    found["left"] = [name for name in os.listdir(directory) if is_temporary(name)]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    digests.LEAST_BYTES = 4096
    direct._PIECE_BYTES = writer._CACHED_PIECE_BYTES = 4096
    for number, case in enumerate(sys.stdin):
        result = run(os.path.join(sys.argv[1], str(number)), *json.loads(case))
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
