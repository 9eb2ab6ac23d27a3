"""Syncs, evicts and writes files with the system's own calls."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from marlin_ckpt.storage.pages import private_memory

_BLOCK_BYTES = 4096
_RANDOM_BYTES = 1 << 20


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


def buffer(size: int, *, is_huge: bool = True) -> memoryview:
    """Memory that the disk can use directly, filled, so that none of it is touched first by what is measured.

    Args:
        size: how much.
        is_huge: in huge pages, where the disk is fastest; else as an allocator gives it, in small ones.
    """
    memory = private_memory(size) if is_huge else memoryview(mmap.mmap(-1, size))
    some = os.urandom(min(size, _RANDOM_BYTES))
    for start in range(0, size, _RANDOM_BYTES):
        memory[start : start + _RANDOM_BYTES] = some[: size - start]
    return memory


def in_blocks(size: int) -> int:
    """A size rounded up to whole blocks, as O_DIRECT wants it."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


@contextlib.contextmanager
def _written_past_the_cache(path: Path, length: int) -> Iterator[int]:
    """A new file for writes past the page cache, which in the end has that length and is durable."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o644)
    try:
        with contextlib.suppress(OSError):
            os.posix_fallocate(fd, 0, length)
        yield fd
        os.ftruncate(fd, length)
        os.fsync(fd)
    finally:
        os.close(fd)
    durable(path, files=False)


def write_raw(path: Path, memory: memoryview, length: int) -> None:
    """Writes `length` bytes past the page cache and makes them durable.

    Raises:
        OSError: the file system has no O_DIRECT.
    """
    rest = in_blocks(length)
    with _written_past_the_cache(path, length) as fd, memoryview(memory) as view:
        while rest:
            with view[: min(rest, len(view))] as piece:
                rest -= os.write(fd, piece)


def write_by_two(path: Path, memory: memoryview, length: int, piece_bytes: int) -> None:
    """Writes past the page cache as `write_raw`, two pieces at a time.

    Args:
        path: of the file.
        memory: what is written: all of the file, or what is written again and again.
        length: of the file.
        piece_bytes: of one write.

    Raises:
        OSError: the file system has no O_DIRECT.
    """
    whole = in_blocks(length)
    with _written_past_the_cache(path, length) as fd, memoryview(memory) as view:

        def write(offset: int) -> None:
            start, size = offset % len(view), min(piece_bytes, whole - offset)
            with view[start : start + size] as piece:
                if os.pwrite(fd, piece, offset) != size:
                    raise OSError("short write")

        _by_two(write, range(0, whole, piece_bytes))


def _by_two(work: Callable[[int], None], offsets: Iterable[int]) -> None:
    """Does work for each offset on two threads; raises what one of them has failed with."""
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(work, offsets):
            continue


def read_by_two(
    path: str | Path,
    memory: memoryview,
    piece_bytes: int,
    *,
    is_direct: bool = False,
    look: Callable[[memoryview], object] = lambda _: None,
) -> None:
    """Reads a file into memory that takes all of it, two pieces at a time.

    Args:
        path: of the file.
        memory: as long as the file, in whole blocks.
        piece_bytes: of one read.
        is_direct: past the page cache.
        look: called with each piece that has been read.
    """
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if is_direct else 0))
    try:
        size = os.fstat(fd).st_size
        with memoryview(memory) as view:

            def read(offset: int) -> None:
                done, most = offset, min(offset + piece_bytes, len(view))
                while done < min(most, size):
                    with view[done:most] as piece:
                        read_bytes = os.preadv(fd, [piece], done)
                        look(piece[:read_bytes])
                        done += read_bytes

            _by_two(read, range(0, size, piece_bytes))
    finally:
        os.close(fd)


def write_through_cache(path: Path, memory: memoryview, length: int) -> None:
    """Writes about `length` bytes to a file system that is memory: no save can be faster."""
    with path.open("wb", buffering=0) as file:
        for _ in range(length // len(memory)):
            file.write(memory)


def read_raw(path: Path, memory: memoryview) -> None:
    """Reads a file past the page cache: no load can be faster, of a file that is in no memory."""
    _read(path, memory, os.O_DIRECT)


def read_through_cache(path: Path, memory: memoryview) -> None:
    """Reads a file: no load can be faster, of one that is in the page cache."""
    _read(path, memory, 0)


def _read(path: Path, memory: memoryview, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        while os.readv(fd, [memory]) == len(memory):
            pass
    finally:
        os.close(fd)
