"""Parts of tensors are read from pieces of files: the right bytes, checked, and no more than are needed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from marlin_ckpt.distributed.reads import filling, tensors
from marlin_ckpt.distributed.reads.boxes import Box, is_ordered, runs, shared
from marlin_ckpt.distributed.reads.filling import Data, Fill, Target, fill_all, fill_now
from marlin_ckpt.errors import CorruptCheckpointError

_BLOCK = 64


class _File:
    """Bytes as a source that counts what is read of them."""

    def __init__(self, data: bytes) -> None:
        self.path, self.size_bytes, self._data = "shard", len(data), data
        self.read_bytes: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = self._data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self.read_bytes.append((offset, offset + len(part)))
        return len(part)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


class _InStretches(_File):
    """The same, which notes as what stretches it is read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.stretches: list[tuple[int, int, bool]] = []

    @contextlib.contextmanager
    def stretch(self, offset: int, size: int, *, is_own: bool = False) -> Iterator[_File]:
        self.stretches.append((offset, offset + size, is_own))
        yield self


@st.composite
def _cases(draw: st.DrawFn) -> tuple[tuple[int, ...], Box, Box, tuple[int, ...], str]:
    """A tensor, a piece of it, a place in it with gaps between its rows, and a dtype."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=0, max_size=4)))

    def box() -> Box:
        offsets = tuple(draw(st.integers(0, size - 1)) for size in shape)
        sizes = tuple(draw(st.integers(1, size - at)) for at, size in zip(offsets, shape, strict=True))
        return Box(offsets, sizes)

    piece, place = box(), box()
    stride, step = [], 1
    for size in reversed(place.shape):
        stride.append(step)
        step *= size + draw(st.integers(0, 2))
    return shape, piece, place, tuple(reversed(stride)), draw(st.sampled_from(["u1", "u2", "u4", "u8"]))


@pytest.mark.parametrize("has_blocks", [False, True])
@given(case=_cases(), piece_bytes=st.sampled_from([16, 32, 64, 1024]))
@settings(max_examples=150, deadline=None)
def test_what_a_piece_and_a_place_share_is_read_to_its_place_and_nothing_else_is_touched(
    has_blocks, case, piece_bytes
):
    shape, piece, place, stride, kind = case
    whole = np.arange(math.prod(shape), dtype=kind).reshape(shape) + np.array(1, kind)
    data = np.ascontiguousarray(_part(whole, piece)).tobytes()
    reach = 1 + sum((size - 1) * step for size, step in zip(place.shape, stride, strict=True))
    memory = np.zeros(reach, kind)
    file, target = _File(b"abc" + data), Target(lambda: memory.view("u1").data)
    found = runs(piece, place, stride, whole.itemsize)
    fill = Fill(_data(file, data, has_blocks=has_blocks), found, target)
    target.expect()
    before = filling._PIECE_BYTES
    filling._PIECE_BYTES = piece_bytes
    try:
        fill_now([fill])
    finally:
        filling._PIECE_BYTES = before

    expected = np.zeros(reach, kind)
    common = shared(piece, place)
    if common is not None:
        steps = tuple(step * whole.itemsize for step in stride)
        view = np.ndarray(place.shape, kind, expected.data, 0, steps)
        within = tuple(at - start for at, start in zip(common.offsets, place.offsets, strict=True))
        _part(view, Box(within, common.shape))[...] = _part(whole, common)
    assert memory.tobytes() == expected.tobytes()
    if has_blocks:
        used = [at for one in found for start in _starts(one) for at in range(start, start + one.size)]
        read = [at - 3 for start, end in file.read_bytes for at in range(start, end)]
        assert {at // _BLOCK for at in read} == {at // _BLOCK for at in used}


def _starts(one):
    return range(one.source, one.source + one.number * one.source_step, one.source_step)


def _part(whole, box: Box):
    return whole[(*(slice(at, at + size) for at, size in zip(*box, strict=True)), ...)]


def _data(file: _File, data: bytes, *, has_blocks: bool) -> Data:
    if not has_blocks:
        return Data("w", file, 3, len(data), isal_zlib.crc32(data))
    blocks = [isal_zlib.crc32(data[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK)]
    return Data("w", file, 3, len(data), None, blocks, _BLOCK)


@pytest.mark.parametrize("has_blocks", [False, True])
def test_each_flip_in_what_is_read_is_found(has_blocks):
    data = bytes(range(256)) * 2
    box, place = Box((0, 0), (16, 32)), Box((0, 8), (16, 8))
    for bit in range(0, len(data) * 8, 7):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        target = Target(lambda: memoryview(bytearray(128)))
        target.expect()
        about = _data(_File(b""), data, has_blocks=has_blocks)
        fill = Fill(about._replace(source=_File(b"abc" + flipped)), runs(box, place, (8, 1), 1), target)
        with pytest.raises(CorruptCheckpointError, match="the CRC of tensor w does not hold") as caught:
            fill_all([fill])
        assert caught.value.tensors == ("w",)


def test_pieces_that_are_near_one_another_in_a_file_are_read_as_one_stretch():
    data, box = bytes(range(100)), Box((0,), (100,))
    far = 200 + filling._NEAR_BYTES + 101
    file, other = _InStretches(bytes(far + 200)), _InStretches(bytes(100))
    places = [
        (file, 0, True),
        (file, 150, True),
        (file, far, True),
        (file, far + 100, False),
        (other, 0, False),
    ]
    fills, targets = [], []
    for source, start, is_own in places:
        source._data = source._data[:start] + data + source._data[start + 100 :]
        targets.append(bytearray(100))
        target = Target(lambda own=targets[-1]: memoryview(own))
        target.expect()
        about = Data("w", source, start, 100, isal_zlib.crc32(data))
        fills.append(Fill(about, runs(box, box, (1,), 1), target, is_own))
    fill_now(fills)
    assert targets == [data] * len(places)
    assert file.stretches == [(0, 250, True), (far, far + 100, True), (far + 100, far + 200, False)]
    assert other.stretches == [(0, 100, False)]


@pytest.mark.parametrize(
    ("place", "is_split", "is_own"),
    [
        (Box((0, 0), (16, 32)), True, True),
        (Box((0, 0), (16, 32)), False, False),  # every rank has the whole tensor
        (Box((0, 0), (16, 16)), True, False),  # the columns of all ranks are in each block
        (Box((4, 0), (8, 32)), True, True),
        (Box((4, 0), (1, 32)), True, False),  # half of the block is another rank's
    ],
)
def test_what_a_rank_needs_of_a_piece_is_its_own_where_it_is_a_part_of_the_tensor_in_whole_blocks(
    place, is_split, is_own
):
    data = bytes(512)
    about = _data(_File(data), data, has_blocks=True)
    target = Target(lambda: memoryview(bytearray(512)))
    stride = place.shape[1], 1
    job = tensors._Job(None, Box((0, 0), (16, 32)), place, stride, 1, target, is_split)
    assert job.fill(about).is_own == is_own


def test_a_file_that_ends_early_is_corrupt():
    data = bytes(100)
    target = Target(lambda: memoryview(bytearray(100)))
    target.expect()
    about = _data(_File(b"abc" + data[:90]), data, has_blocks=False)
    with pytest.raises(CorruptCheckpointError, match="truncated: the file ends within tensor w"):
        fill_all([Fill(about, runs(Box((0,), (100,)), Box((0,), (100,)), (1,), 1), target)])


def test_strides_that_are_not_in_row_major_order_are_known():
    assert is_ordered((3, 4), (4, 1))
    assert is_ordered((3, 4), (9, 1))
    assert is_ordered((1, 4, 1), (1, 1, 7))
    assert is_ordered((), ())
    assert not is_ordered((3, 4), (1, 3))
    assert not is_ordered((3, 4), (3, 1))
    assert not is_ordered((3, 4), (8, 2))
