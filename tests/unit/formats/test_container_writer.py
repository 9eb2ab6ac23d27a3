"""A container holds what was put into it, and its checksums hold, whatever other threads do meanwhile."""

from __future__ import annotations

import io
import os
import types
import zipfile

import pytest
from isal import isal_zlib

from marlin_ckpt.formats.zip import structures, writer
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.formats.zip.writer import ContainerWriter
from marlin_ckpt.storage.target import OnStored, Span


class Memory:
    """A target that keeps the bytes."""

    def __init__(self) -> None:
        self.content = bytearray()

    def put(
        self,
        data: bytes | memoryview,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,
    ) -> int:
        stored = bytes(data)
        self.content += stored
        if on_stored is not None:
            on_stored(memoryview(stored))
        return isal_zlib.crc32(stored)

    def records(self) -> dict[str, bytes]:
        with zipfile.ZipFile(io.BytesIO(self.content)) as container:
            assert container.testzip() is None
            return {name.partition("/")[2]: container.read(name) for name in container.namelist()}


def test_small_and_large_records_follow_each_other_in_the_order_in_which_they_are_added() -> None:
    sizes = [0, 1, 16 << 10, (16 << 10) + 1, 300 << 10, 5, *[9_000] * 60, 70_000, 3]
    wanted = {f"data/{number}": os.urandom(size) for number, size in enumerate(sizes)}
    target = Memory()
    container = ContainerWriter(target)
    for name, data in wanted.items():
        container.add(name, data)
    container.close()
    assert target.records() == wanted
    assert list(target.records()) == list(wanted)


@pytest.mark.parametrize("size", [8, 16 << 10, 1 << 20])
def test_the_checksum_holds_of_a_record_whose_memory_changes_once_it_is_summed(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    source = bytearray(size)

    def changed_at_once(data: bytes | memoryview, *start: int) -> int:
        found = isal_zlib.crc32(data, *start)
        source[:] = b"\1" * size
        return found

    monkeypatch.setattr(
        writer,
        "isal_zlib",
        types.SimpleNamespace(crc32=changed_at_once, crc32_combine=isal_zlib.crc32_combine),
    )
    target = Memory()
    container = ContainerWriter(target)
    container.add("data/0", memoryview(source))
    container.close()
    assert target.records() == {"data/0": bytes(size)}


def test_sizes_and_places_from_4_gib_less_a_byte_on_take_the_form_for_large_ones() -> None:
    # The value that 32 bits end with says itself that the other form follows.
    limit = 0xFFFF_FFFF
    shown = slice(18, 26)  # of a local header: the two sizes
    assert structures.local_header("a", limit - 1, 0)[shown] == bytes(8)
    assert structures.local_header("a", limit, 0)[shown] == b"\xff" * 8
    for size, place in ((limit, 0), (0, limit)):
        assert structures.end_records(1, size, place).startswith(structures.END64_SIGNATURE)
        assert Record("a", size, 0, place).is_zip64
    assert structures.end_records(1, limit - 1, limit - 1).startswith(structures.END_SIGNATURE)
    assert not Record("a", limit - 1, 0, limit - 1).is_zip64
