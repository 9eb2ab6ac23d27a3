"""Syncs, evicts and writes files with the system's own calls."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from pathlib import Path

_BLOCK_BYTES = 4096


def durable(path: Path, *, files: bool = True) -> None:
    """Syncs a file, or a directory with all in it, and then the directory that names it.

    Args:
        path: what has been saved.
        files: sync the regular files too, and not the directories alone.
    """
    if path.is_dir():
        for folder, _, names in os.walk(path, topdown=False):
            for name in names if files else ():
                _sync(os.path.join(folder, name))
            _sync(folder)
    elif files:
        _sync(path)
    _sync(path.parent)


def _sync(path: str | Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def evict(path: str | Path) -> None:
    """Drops a file from the page cache; it must be durable, and no process may have mapped it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def empty(directory: Path) -> None:
    """Removes everything in a directory and syncs that, so that the disk has nothing to do for it later."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    os.sync()


def buffer(size: int) -> mmap.mmap:
    """Memory that the disk can read from directly, filled, so that none of it is touched first by a write."""
    memory = mmap.mmap(-1, size)
    memory.write(os.urandom(size))
    return memory


def write_raw(path: Path, memory: mmap.mmap, length: int) -> None:
    """Writes `length` bytes past the page cache and makes them durable: no save can be faster.

    Raises:
        OSError: the file system has no O_DIRECT.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o644)
    try:
        with contextlib.suppress(OSError):
            os.posix_fallocate(fd, 0, length)
        rest = -(-length // _BLOCK_BYTES) * _BLOCK_BYTES
        with memoryview(memory) as view:
            while rest:
                with view[: min(rest, len(view))] as piece:
                    rest -= os.write(fd, piece)
        os.ftruncate(fd, length)
        os.fsync(fd)
    finally:
        os.close(fd)
    durable(path, files=False)


def write_through_cache(path: Path, memory: mmap.mmap, length: int) -> None:
    """Writes about `length` bytes to a file system that is memory: no save can be faster."""
    with path.open("wb", buffering=0) as file:
        for _ in range(length // len(memory)):
            file.write(memory)


def read_raw(path: Path, memory: mmap.mmap) -> None:
    """Reads a file past the page cache: no load can be faster, of a file that is in no memory."""
    _read(path, memory, os.O_DIRECT)


def read_through_cache(path: Path, memory: mmap.mmap) -> None:
    """Reads a file: no load can be faster, of one that is in the page cache."""
    _read(path, memory, 0)


def _read(path: Path, memory: mmap.mmap, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        while os.readv(fd, [memory]) == len(memory):
            pass
    finally:
        os.close(fd)
