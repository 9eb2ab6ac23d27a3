"""Files of which parts are shared with another file, written in each of the ways there are."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import NamedTuple

import pytest
from isal import isal_zlib

from marlin_ckpt.storage.local import direct, writer
from marlin_ckpt.storage.local.direct import DirectPieces
from marlin_ckpt.storage.local.writer import CachedPieces, PassedOnPieces
from marlin_ckpt.storage.target import Span
from marlin_ckpt.storage.writer import Writer
from tests.support.clones import BLOCK


class Put(NamedTuple):
    """Bytes to put: how many, whether from a block's border on, and whether the source has them at one."""

    size: int
    is_aligned: bool = True
    is_same: bool = True
    is_source_aligned: bool = True


SHARED = [Put(300), Put(5 * BLOCK), Put(9 * BLOCK + 5), Put(10, is_same=False), Put(2 * BLOCK), Put(BLOCK)]


class Case(NamedTuple):
    """What a file is to hold: its bytes, and how they are put; and what the other file holds."""

    content: bytes
    parts: list[tuple[int, int, int | None]]  # from, to, and where in the other file
    source: bytes
    shared: list[tuple[int, int]]


def case_of(puts: list[Put]) -> Case:
    content, source, parts, shared = bytearray(), bytearray(), [], []

    def pad(data: bytearray, *, is_aligned: bool) -> None:
        data += os.urandom(-len(data) % BLOCK + (0 if is_aligned else 7))

    for put in puts:
        before = len(content)
        pad(content, is_aligned=put.is_aligned)
        parts.append((before, len(content), None))
        start = len(content)
        content += os.urandom(put.size)
        pad(source, is_aligned=put.is_source_aligned)
        parts.append((start, len(content), len(source) if put.is_same else None))
        source += content[start:]
        if put.is_same and put.is_aligned and put.is_source_aligned and put.size >= BLOCK:
            shared.append((start, put.size // BLOCK * BLOCK))
    return Case(bytes(content), parts, bytes(source), shared)


def image_of(case: Case) -> memoryview:
    image = memoryview(mmap.mmap(-1, len(case.content) + direct.BLOCK_BYTES))
    image[: len(case.content)] = case.content
    return image


Make = Callable[[int, memoryview], "CachedPieces | PassedOnPieces | DirectPieces"]
WAYS: dict[str, Make] = {
    "cached": lambda fd, _: CachedPieces(fd, 1 << 20),
    "passed on": lambda fd, _: PassedOnPieces(fd),
    "direct": lambda fd, _: DirectPieces(fd, 1, None, shared_bytes=0),
    "direct, of an image": lambda fd, image: DirectPieces(fd, 1, image, shared_bytes=0),
    "direct, with space set aside": lambda fd, _: DirectPieces(fd, 100_000, None),
}


def fill(fd: int, case: Case, source: int, make: Make, piece_bytes: int = BLOCK) -> bytes:
    """Writes a file in small pieces, checks the checksums that are given back, and returns what was told."""
    image, told = image_of(case), bytearray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "_PIECE_BYTES", piece_bytes)
        patch.setattr(writer, "_CACHED_PIECE_BYTES", piece_bytes)
        filling = Writer(make(fd, image))
        try:
            put_all(filling, case, image, source, told)
        finally:
            filling.stop()
    return bytes(told)


def put_all(filling: Writer, case: Case, image: memoryview, source: int, told: bytearray) -> None:
    for start, end, at in case.parts:
        data = image[start:end]
        wanted = isal_zlib.crc32(case.content[start:end])
        same = None if at is None else Span(source, at, end - start)
        assert filling.put(data, told.extend, None if same is None else wanted, same) == wanted
    assert filling.finish() == len(case.content)


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)
