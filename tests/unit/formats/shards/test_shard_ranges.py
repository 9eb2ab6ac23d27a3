"""Bytes of an item are read and compared in whole blocks, and no others are touched."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin_ckpt.errors import CorruptCheckpointError, UnknownFormatError, UnsafeCheckpointError
from marlin_ckpt.formats.shards import trailer
from marlin_ckpt.formats.shards.items import BLOCK_BYTES, Place
from marlin_ckpt.formats.shards.reader import read_range, read_shard
from marlin_ckpt.formats.shards.trailer import Extent, Shard
from tests.support.memory_store import MemorySource, MemoryTarget
from tests.support.shards import ABOUT, memory_of, saved, shard_of

SIZE = 3 * BLOCK_BYTES + 100
TENSOR = torch.randint(256, (SIZE,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Noting(MemorySource):
    """A source that notes which bytes are asked for."""

    def __init__(self, data: bytes, path: str = "") -> None:
        super().__init__(data, path)
        self.read_ranges: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.read_ranges.append((offset, offset + len(buffer)))
        return super().read_into(offset, buffer)


@pytest.fixture(scope="module")
def shard() -> tuple[bytes, Shard, Extent]:
    data, plan = shard_of([saved(1), TENSOR, torch.ones(3)])
    found = read_shard(MemorySource(data, ""))
    return data, found, found.items[plan.places[1].start]


def read(source, shard, item, start, end):
    place = memoryview(bytearray(end - start))
    read_range(source, shard, item, start, place)
    return bytes(place)


@settings(max_examples=80, deadline=None)
@given(
    bounds=st.lists(st.integers(0, SIZE) | st.sampled_from([0, BLOCK_BYTES, SIZE]), min_size=2, max_size=2)
)
def test_any_range_is_read_by_the_blocks_that_it_is_in_alone(shard, bounds):
    data, found, item = shard
    start, end = sorted(bounds)
    source = Noting(data)
    assert read(source, found, item, start, end) == bytes(memory_of(TENSOR)[start:end])
    numbers = range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)) if end > start else ()
    wanted = [(one * BLOCK_BYTES, min(SIZE, (one + 1) * BLOCK_BYTES)) for one in numbers]
    assert [(a - item.data_start, b - item.data_start) for a, b in source.read_ranges] == wanted


def test_a_flip_is_found_by_every_range_in_its_block_and_by_no_other(shard):
    data, found, item = shard
    bad = bytearray(data)
    bad[item.data_start + BLOCK_BYTES + 7] ^= 1
    source = MemorySource(bytes(bad), "__3_0.distcp")
    start = item.data_start + BLOCK_BYTES
    for bounds in ((BLOCK_BYTES, BLOCK_BYTES + 1), (2 * BLOCK_BYTES - 1, SIZE), (0, SIZE)):
        with pytest.raises(CorruptCheckpointError, match=re.escape(f"1,048,576 bytes at {start:,} does not")):
            read(source, found, item, *bounds)
    for bounds in ((0, BLOCK_BYTES), (2 * BLOCK_BYTES, SIZE)):
        assert read(source, found, item, *bounds) == bytes(memory_of(TENSOR)[slice(*bounds)])


def test_a_value_is_read_as_its_whole_padded_file(shard):
    data, found, _ = shard
    value = found.items[min(found.items)]
    assert value.start == value.data_start
    whole = read(MemorySource(data, ""), found, value, 0, value.data_bytes)
    assert whole == data[value.start :][: value.data_bytes]


def test_a_shard_that_became_shorter_is_damaged(shard):
    data, found, item = shard
    with pytest.raises(CorruptCheckpointError, match="truncated"):
        read(MemorySource(data[: item.data_start + 5], ""), found, item, 0, 6)


def test_a_range_that_an_item_has_not_is_the_callers_fault(shard):
    data, found, item = shard
    with pytest.raises(ValueError, match="of 3,145,828"):
        read(MemorySource(data, ""), found, item, 0, SIZE + 1)


def test_a_zip_of_another_tool_says_nothing_of_itself():
    assert read_shard(MemorySource(saved(torch.ones(3)), "")) is None


def places(*sizes: int) -> list[Place]:
    return [Place(number * 100, size, number * 100, size) for number, size in enumerate(sizes)]


def hostile(**changes: object) -> bytes:
    whole = trailer.encode(ABOUT, places(10, 20), [1, 2])
    head = {**json.loads(whole[:256]), **changes}
    return json.dumps(head).encode().ljust(255) + b"\n" + whole[256:]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"x" * 256, b"[" * 256, b"\xff" * 300, hostile(items=3), hostile(items=1),
        hostile(items=-1), hostile(items=True), hostile(items=1 << 61), hostile(items="2"),
        hostile(block_bytes=0), hostile(block_bytes=5), hostile(rank=None), hostile(save_id=1),
        hostile() + b"\0", hostile()[:-1],
        trailer.encode(ABOUT, [*places(10), *places(10)], [1, 2]),
        trailer.encode(ABOUT, [Place(100, 10, 90, 10)], [1]),
    ],
)  # fmt: skip
def test_a_record_that_does_not_hold_is_damage(data):
    with pytest.raises(ValueError):
        trailer.decode(data)


def test_the_record_is_read_as_it_was_written():
    found = trailer.decode(
        trailer.encode(ABOUT, places(10, 0, 3 * BLOCK_BYTES + 1), [5, 6, 7, 8, (1 << 32) - 1])
    )
    assert found.about == ABOUT
    assert list(found.items.values()) == [
        Extent(0, 0, 10, 0), Extent(100, 100, 0, 1), Extent(200, 200, 3 * BLOCK_BYTES + 1, 1)
    ]  # fmt: skip
    assert list(found.crcs) == [5, 6, 7, 8, (1 << 32) - 1]


def test_a_record_of_a_newer_version_is_no_damage():
    with pytest.raises(UnknownFormatError, match="format 2"):
        trailer.decode(hostile(format_version=2))


def zip_with(record: bytes) -> MemorySource:
    from marlin_ckpt.formats.zip.writer import ContainerWriter

    target = MemoryTarget()
    container = ContainerWriter(target)
    container.add(trailer.NAME, record)
    container.close()
    return MemorySource(bytes(target.data), "__0_0.distcp")


def test_items_outside_of_the_file_and_huge_blocks_are_refused():
    for record in (
        trailer.encode(ABOUT, [Place(0, 5000, 0, 5000)], [1]),
        hostile(block_bytes=65 << 20),
    ):
        with pytest.raises(CorruptCheckpointError, match="not of this file"):
            read_shard(zip_with(record))


def test_a_damaged_record_is_reported_with_its_file():
    with pytest.raises(CorruptCheckpointError, match=r"what the shard says of itself: .*: __0_0\.distcp"):
        read_shard(zip_with(b"{}"))


def test_no_record_is_read_that_is_longer_than_its_file(monkeypatch):
    monkeypatch.setattr(trailer, "MOST_BYTES", 100)
    with pytest.raises(UnsafeCheckpointError, match="too large"):
        read_shard(zip_with(b"x" * 101))
