"""Reads objects whole, several at a time, for their lengths and CRC32s."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

from isal import isal_zlib

from marlin_ckpt.storage.source import Source, stretch
from marlin_ckpt.storage.threads import in_order

_PIECE_BYTES = 512 << 10  # fits the second-level cache, where the CRC costs least
_PART_BYTES = 16 << 20  # that a thread takes at once


class Sum(NamedTuple):
    """What one object holds.

    Attributes:
        name: of the object.
        size_bytes: how many bytes were read.
        crc32: of these bytes.
    """

    name: str
    size_bytes: int
    crc32: int


class _Part(NamedTuple):
    source: Source
    start: int
    size: int
    is_last: bool


def sums(
    named: Iterable[tuple[str, AbstractContextManager[Source]]],
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Iterator[Sum]:
    """Reads objects whole, of each as many bytes as it had when it was opened.

    Args:
        named: the objects, each with its name and what opens it; a few are open at a time.
        on_bytes: called, from several threads, with each further number of bytes that were read.

    Yields:
        what each of them holds, in their order.

    Raises:
        StorageError: one cannot be opened or read.
    """
    opened: deque[tuple[str, contextlib.ExitStack]] = deque()

    def parts() -> Iterator[_Part]:
        for name, opening in named:
            with contextlib.ExitStack() as stack:
                source = stack.enter_context(opening)
                opened.append((name, stack.pop_all()))
            size = source.size_bytes
            for start in range(0, size, _PART_BYTES) or (0,):
                end = min(start + _PART_BYTES, size)
                yield _Part(source, start, end - start, end == size)

    def read(part: _Part) -> tuple[_Part, int, int]:
        read_bytes, crc32 = _read(part)
        on_bytes(read_bytes)
        return part, read_bytes, crc32

    size_bytes = crc32 = 0
    try:
        with contextlib.closing(
            in_order(read, parts())
        ) as found:  # its reads end before what they read is closed
            for part, read_bytes, own in found:
                crc32 = isal_zlib.crc32_combine(crc32, own, read_bytes) if part.start else own
                size_bytes += read_bytes
                if part.is_last:
                    name, stack = opened.popleft()
                    stack.close()
                    yield Sum(name, size_bytes, crc32)
                    size_bytes = 0
    finally:
        for _, stack in opened:
            stack.close()


def read_whole(source: Source, on_bytes: Callable[[int], None] = lambda _: None) -> None:
    """Reads all of an open object, since a disk says of a bad block only when it is read.

    Args:
        source: the object.
        on_bytes: called as by `sums`.

    Raises:
        StorageError: it cannot be read.
    """
    for _ in sums([(source.path, contextlib.nullcontext(source))], on_bytes):
        pass


def _read(part: _Part) -> tuple[int, int]:
    """Reads a part; returns how many bytes were still there, and their CRC32."""
    memory = memoryview(bytearray(min(part.size, _PIECE_BYTES)))
    done = crc32 = 0
    with stretch(part.source, part.start, part.size) as source:
        while done < part.size:
            piece = memory[: min(_PIECE_BYTES, part.size - done)]
            read = source.read_into(part.start + done, piece)
            crc32 = isal_zlib.crc32(piece[:read], crc32)
            done += read
            if read < len(piece):
                break
    return done, crc32
