"""A record of the system calls that change the files below one directory."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable

import pytest

from marlin_ckpt.storage.local import cloning, staging, system_calls
from tests.support.power_loss import ROOT, Call, Enter, Mark, Resize, Share, Sync, Write


class Recorder:
    """Writes down the calls of `os` that change what lies below one directory."""

    def __init__(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trace: list[Call] = []
        self.names: set[str] = set()
        self.root = root
        self._nodes = {root: ROOT}
        self._descriptors: dict[int, tuple[int, str]] = {}
        self._numbers = itertools.count(ROOT + 1)
        on_descriptors = ("write", "pwrite", "ftruncate", "fsync")
        for name in (*on_descriptors, "open", "close", "dup", "mkdir", "rmdir", "rename", "link", "unlink"):
            method = self._changed if name in on_descriptors else getattr(self, f"_{name}")
            monkeypatch.setattr(os, name, functools.partial(method, name, getattr(os, name)))
        allocate = functools.partial(self._changed, "allocate", system_calls.allocate)
        monkeypatch.setattr(system_calls, "allocate", allocate)
        share = functools.partial(self._share, cloning.clone_range)
        monkeypatch.setattr(cloning, "clone_range", share)
        monkeypatch.setattr(staging, "exchange", functools.partial(self._exchange, staging.exchange))

    def mark(self, path: str, save: int, *, is_reported: bool) -> None:
        self.trace.append(Mark(os.path.relpath(path, self.root), save, is_reported))

    def _changed(self, name: str, real: Callable, fd: int, *args):
        result = real(fd, *args)
        if fd not in self._descriptors:
            return result
        self.names.add(name)
        node, path = self._descriptors[fd]
        if name == "fsync":
            self.trace.append(Sync(node, os.path.relpath(path, self.root)))
        elif name in {"allocate", "ftruncate"}:
            self.trace.append(Resize(node, os.fstat(fd).st_size))
        else:
            offset = args[1] if name == "pwrite" else os.lseek(fd, 0, os.SEEK_CUR) - result
            self.trace.append(Write(node, offset, bytes(memoryview(args[0])[:result])))
        return result

    def _share(self, real: Callable, fd: int, offset: int, source: int, start: int, size: int) -> None:
        real(fd, offset, source, start, size)
        if fd in self._descriptors:
            self.names.add("share")
            node, from_node = self._descriptors[fd][0], self._descriptors[source][0]
            self.trace.append(Share(node, offset, from_node, start, size))

    def _open(self, _: str, real: Callable, path, flags: int, *args, **kwargs) -> int:
        fd = real(path, flags, *args, **kwargs)
        where = _absolute(path, kwargs.get("dir_fd"))
        self._descriptors.pop(fd, None)
        if f"{where}/".startswith(f"{self.root}/"):
            if where not in self._nodes:
                node = next(self._numbers)
                self.trace.append(Resize(node, 0))  # says that it is a file
                self._enter((where, node))
            elif flags & os.O_TRUNC:
                self.trace.append(Resize(self._nodes[where], 0))
            self._descriptors[fd] = (self._nodes[where], where)
        return fd

    def _close(self, _: str, real: Callable, fd: int) -> None:
        self._descriptors.pop(fd, None)
        real(fd)

    def _dup(self, _: str, real: Callable, fd: int) -> int:
        copy = real(fd)
        if fd in self._descriptors:
            self._descriptors[copy] = self._descriptors[fd]
        return copy

    def _mkdir(self, _: str, real: Callable, path, *args, **kwargs) -> None:
        real(path, *args, **kwargs)
        where = _absolute(path, kwargs.get("dir_fd"))
        if where.startswith(f"{self.root}/"):
            self._enter((where, next(self._numbers)))

    def _rmdir(self, _: str, real: Callable, path, **kwargs) -> None:
        where = _absolute(path, kwargs.get("dir_fd"))
        real(path, **kwargs)
        if where in self._nodes:
            self._enter((where, None))

    def _rename(self, name: str, real: Callable, source, target, **kwargs) -> None:
        old = _absolute(source, kwargs.get("src_dir_fd"))
        new = _absolute(target, kwargs.get("dst_dir_fd"))
        real(source, target, **kwargs)
        if old in self._nodes:
            self.names.add(name)
            self._move_below({old: new})
            self._enter((new, self._nodes[old]), (old, None))

    def _exchange(self, real: Callable, directory_fd: int, one: str, other: str) -> None:
        real(directory_fd, one, other)
        before, after = (_absolute(name, directory_fd) for name in (one, other))
        nodes = self._nodes[before], self._nodes[after]
        self.names.add("exchange")
        self._move_below({before: after, after: before})
        self._enter((after, nodes[0]), (before, nodes[1]))

    def _move_below(self, moves: dict[str, str]) -> None:
        """Gives what is in folders that are renamed its new paths."""
        moved = {
            new + path[len(old) :]: self._nodes.pop(path)
            for path in list(self._nodes)
            for old, new in moves.items()
            if path.startswith(f"{old}/")
        }
        self._nodes.update(moved)

    def _link(self, name: str, real: Callable, source, target, **kwargs) -> None:
        real(source, target, **kwargs)
        old = _absolute(source, kwargs.get("src_dir_fd"))
        if old in self._nodes:
            self.names.add(name)
            self._enter((_absolute(target, kwargs.get("dst_dir_fd")), self._nodes[old]))

    def _unlink(self, name: str, real: Callable, path, **kwargs) -> None:
        where = _absolute(path, kwargs.get("dir_fd"))
        real(path, **kwargs)
        if where in self._nodes:
            self.names.add(name)
            self._enter((where, None))

    def _enter(self, *entries: tuple[str, int | None]) -> None:
        for path, node in entries:
            if node is None:
                del self._nodes[path]
            else:
                self._nodes[path] = node
        for directory in dict.fromkeys(os.path.dirname(path) for path, _ in entries):  # two, of some renames
            own = (
                (os.path.basename(path), node) for path, node in entries if os.path.dirname(path) == directory
            )
            self.trace.append(Enter(self._nodes[directory], tuple(own)))


def _absolute(path, dir_fd: int | None) -> str:
    base = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
    return os.path.normpath(os.path.join(base, os.fsdecode(path)))
