"""Saves while system calls fail, and judges what is then there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, StorageError
from marlin_ckpt.storage.local import (
    descent,
    direct,
    files,
    publishing,
    store,
    system_calls,
    temporary,
    threads,
    writer,
)
from tests.support.leftovers import open_descriptors
from tests.support.workers import PATIENCE_S

CALLS = {"open", "close", "dup", "fstat", "stat", "scandir", "fcntl", "flock", "write", "pwrite"}
CALLS |= {"allocate", "ftruncate", "fsync", "link", "rename", "unlink"}
INDEX = 3
TARGET = f"model_{INDEX}.pt"
LEFT = f".{TARGET}.elsewhere.1.0123abcd{temporary.SUFFIX}"
SAVES = "marlin-ckpt save"  # the name of the thread that saves behind the loop
CODES = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EINTR]
REFUSALS = [errno.EINVAL, errno.EOPNOTSUPP]
ALL = frozenset(CODES + REFUSALS)

# What a save does without. A refusal of O_DIRECT, of space set aside, of locks or of a directory's fsync is a
# file system's answer and no failure; of the others none is needed for a new file that is whole and durable.
ABSORBED = {
    **dict.fromkeys(["open mountinfo", "open old", "flock old", "link", "unlink"], ALL),
    **dict.fromkeys(["close lock", "close old", "close directory"], ALL),
    **dict.fromkeys(["fcntl on", "allocate temporary"], frozenset(REFUSALS)),
    **dict.fromkeys(["pwrite threads", "fsync directory"], frozenset([errno.EINVAL])),
    "flock temporary": {errno.EOPNOTSUPP},
}


@dataclass(frozen=True)
class Fault:
    """The number of the call that fails, and from which one on others do."""

    number: int = -1
    code: int = 0
    later: int = 0
    later_from: int = 0
    short_bytes: int = 0

    def strikes(self, number: int) -> int:
        if number == self.number >= 0:
            return self.code
        return self.later if number > max(self.number, self.later_from - 1) else 0


@functools.cache
def _calls_of(module: ModuleType) -> set[str]:
    return CALLS & set(dir(module))


class System:
    """Makes the system calls of a save, but for those that fail."""

    def __init__(self, fault: Fault) -> None:
        self.labels: list[str] = []
        self.struck: list[tuple[str, int]] = []
        self.fsync_repeated = False
        self._fault = fault
        self.stage = (
            "sweep"  # what goes on before the new file is made: "sweep", or "look" for what is shared
        )
        self._roles: dict[int, str] = {}
        self._unsynced: set[int] = set()

    def call(self, module, name: str, real: Callable, *args, **kwargs):
        # The look at the directory comes before the sweep; test_errno.py refuses it.
        if module is publishing and name == "stat" and "dir_fd" not in kwargs:
            return real(*args, **kwargs)
        code = self._fault.strikes(len(self.labels))
        self.stage = "" if module is publishing else self.stage
        self.labels.append(label := self._label(module, name, args))
        inode = os.fstat(args[0]).st_ino if name == "fsync" else 0
        self.fsync_repeated |= inode in self._unsynced
        if code:
            self.struck.append((label, code))
            if self._fault.short_bytes:
                return self._write_less(name, *args) if "write" in name else real(*args, **kwargs)
            if name == "close":  # Linux closes a descriptor even when it reports an error
                real(*args, **kwargs)
            if name == "fsync":
                self._unsynced.add(inode)
            raise OSError(code, os.strerror(code))
        # Only a loss of power shows what an fsync does, and it takes most of the time of a save.
        result = None if name == "fsync" else real(*args, **kwargs)
        if name in {"open", "dup"} and isinstance(result, int):
            self._roles[result] = "threads" if module is threads else label.split()[-1]
            if name == "dup" and module is publishing:
                self._roles[args[0]] = "lock"
        return result

    def _label(self, module, name: str, args: tuple) -> str:
        if self.stage:
            return f"{self.stage} {name}"
        if name == "open":
            role = {publishing: "directory", writer: "mountinfo"}.get(module)
            return f"open {role or ('temporary' if temporary.is_temporary(args[0]) else 'old')}"
        if name == "fcntl":
            return "fcntl off" if "pwrite threads" in self.labels else "fcntl on"
        if isinstance(args[0], int):
            return f"{name} {self._roles[args[0]]}"
        return f"{name} back" if name != "link" and "rename" in self.labels and TARGET in args else name

    def _write_less(self, name: str, fd: int, data: memoryview, *offset: int) -> int:
        data = data[: self._fault.short_bytes]
        if name == "write":
            return os.write(fd, data)
        with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as through_the_cache:  # takes any length
            return os.pwrite(through_the_cache.fileno(), data, *offset)

    def stand_in(self, module, of) -> object:
        stand_in = type("StandIn", (), {"__getattr__": lambda _, name: getattr(of, name)})()
        for name in _calls_of(of):
            setattr(stand_in, name, functools.partial(self.call, module, name, getattr(of, name)))
        return stand_in


class Campaign:
    """Saves as a new process does while calls fail, and judges what is then there.

    Attributes:
        kept: the files that are there after a save.
        absorbed: by what is called, the errors that a save does without.
        is_in_order: whether each save makes the same calls in the same order.
    """

    kept = frozenset([TARGET])
    absorbed: Mapping[str, Collection[int]] = ABSORBED
    system = System
    is_in_order = True

    def __init__(
        self,
        directory: Path,
        *,
        past_the_cache: bool = True,
        over_an_older: bool = True,
        behind: bool = False,
        **fields: bool | str,
    ) -> None:
        self.directory = directory
        self.found: list[str] = []
        self.tried = 0
        self._past_the_cache = past_the_cache
        where = {"save_dir": str(directory), "load_dir": str(directory)}
        self._arguments = DefaultCheckpointerArguments(
            **where, log_level="CRITICAL", async_save=behind, **fields
        )
        self._old = b""
        if over_an_older:
            self._save(1.0, self.system(Fault()))
            self._old = self._content()
        for _ in range(2):  # the first save with leftovers finds out what later ones know
            self._start_again()
            self.labels = self._save(1.0, self.system(Fault())).labels
        self._start_again()
        self.sweep = [number for number, label in enumerate(self.labels) if label.startswith("sweep")]
        self.own = range(len(self.sweep), len(self.labels))

    def strike(self, fault: Fault) -> None:
        self.tried += 1
        self.found += [f"{self.labels[fault.number]}, {fault}: {one}" for one in self._faults(fault)]
        self._start_again()

    def _start_again(self) -> None:
        for name in os.listdir(self.directory):
            os.unlink(self.directory / name)
        (self.directory / LEFT).touch()
        if self._old:
            (self.directory / TARGET).write_bytes(self._old)

    def _save(self, value: float, system: System, checkpointer: DefaultCheckpointer | None = None) -> System:
        with pytest.MonkeyPatch.context() as patch:
            self.put_in(patch, system)
            if checkpointer is None:
                checkpointer = self._last = DefaultCheckpointer(self._arguments)
            checkpointer.save(Checkpoint(self.state(value), {}, {}), INDEX)
            checkpointer.wait()
        return system

    def state(self, value: float) -> dict[str, torch.Tensor]:
        return {"weight": torch.full((3000,), value)}

    def put_in(self, patch: pytest.MonkeyPatch, system: System) -> None:
        # No mounts are listed, so that in a tmpfs, too, the page cache is gone past where that works.
        mounts = functools.partial(system.call, writer, "open", lambda *_, **__: io.StringIO())
        patch.setattr(writer, "_LARGE_BYTES", 0 if self._past_the_cache else 1 << 40)
        patch.setattr(writer, "_CACHED_PIECE_BYTES", 4096)  # a dozen KB of state then take several writes
        patch.setattr(direct, "_PIECE_BYTES", 4096)
        patch.setattr(writer, "open", mounts, raising=False)
        allocate = functools.partial(system.call, system_calls, "allocate", system_calls.allocate)
        patch.setattr(system_calls, "allocate", allocate)
        for module in (store, descent, files, temporary, publishing, writer, direct, threads, system_calls):
            patch.setattr(module, "os", system.stand_in(module, os))
        for module in (temporary, system_calls):
            patch.setattr(module, "fcntl", system.stand_in(module, fcntl))

    def _faults(self, fault: Fault) -> Iterator[str]:
        descriptors, threads = open_descriptors(), set(threading.enumerate())
        system = self.system(fault)
        found = 0
        try:
            self._save(2.0, system)
        except StorageError as error:
            found = error.errno
            if os.path.join(self.directory, TARGET) not in str(error):
                yield f"no path in {error}"
        except OSError as error:
            found = error.errno
            yield f"a bare {error!r}"
        fatal = [one for one in system.struck if not (fault.short_bytes or self._absorbs(*one))]
        labels = [label for label, _ in system.struck]
        if found != (fatal[0][1] if fatal else 0):
            yield f"errno {found} after {system.struck}"
        if not labels or (self.is_in_order and labels[0] != self.labels[fault.number]):
            yield f"struck were {labels}"
        if system.fsync_repeated:
            yield "fsync repeated after it failed"
        if open_descriptors() != descriptors:
            yield "a descriptor is left"
        left = set(threading.enumerate()) - threads
        for one in (one for one in left if one.name == SAVES):
            one.join(PATIENCE_S)  # which ends by itself, and perhaps just after `wait` has returned
        if any(one.is_alive() for one in left):
            yield "a thread is left"
        yield from self._faults_of_the_files(fatal[0][0] if fatal else "", labels)
        if self._arguments.async_save:
            yield from self._faults_of_going_on(self._last)

    def _faults_of_going_on(self, checkpointer: DefaultCheckpointer) -> Iterator[str]:
        try:
            checkpointer.wait()
            checkpointer.take_reports()
            self._save(2.0, self.system(Fault()), checkpointer)
            checkpointer.close()
        except (StorageError, OSError) as error:
            yield f"told again, or not able to save any more: {error!r}"
        if len(checkpointer.take_reports()) != 1 or not self._is_new():
            yield "the next save does not work"

    def _faults_of_the_files(self, fatal: str, struck: list[str]) -> Iterator[str]:
        # Nothing puts the old file back where it could not be kept, or cannot be renamed back.
        unkept = {"open old", "flock old", "link", "rename back", "unlink back"} & set(struck)
        is_new = self._is_new()
        if fatal and self._content() != self._old:
            if not (is_new and unkept and fatal == "fsync directory"):
                yield "the old file is gone"
        elif not fatal and not is_new:
            yield "no new file"
        litter = set(os.listdir(self.directory)) - self.kept
        permitted = {LEFT} if struck and "sweep" in struck[0] else set()
        if litter - permitted and not {"unlink", "look unlink"} & set(struck):
            yield f"litter: {litter}"
        if litter:
            self._save(3.0, self.system(Fault()))
            if set(os.listdir(self.directory)) != self.kept:
                yield "litter that the next start does not clear away"

    def _absorbs(self, label: str, code: int) -> bool:
        return label.startswith(("sweep", "look")) or code in self.absorbed.get(label, ())

    def _content(self) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / TARGET).read_bytes()
        return b""

    def _is_new(self) -> bool:
        with contextlib.suppress(Exception):  # whatever a torn file makes torch raise
            state = DefaultCheckpointer(self._arguments).load().module_interface_state
            return torch.equal(state["weight"], torch.full((3000,), 2.0))
        return False
