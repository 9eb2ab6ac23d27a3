"""Boxes of a tensor's elements, and where the elements that two of them share are in memory and in a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from marlin_ckpt.formats.values.tensor import contiguous_stride

Sizes = tuple[int, ...]
_Dimension = tuple[int, int, int]  # its size, and the steps of the source and of the target in bytes


class Box(NamedTuple):
    """A part of a tensor.

    Attributes:
        offsets: where its first element is in the tensor, in each dimension.
        shape: its sizes.
    """

    offsets: Sizes
    shape: Sizes


def shared(one: Box, other: Box) -> Box | None:
    """The part that two boxes of one tensor have in common; None where they have none."""
    offsets, shape = [], []
    for start, size, begin, length in zip(*one, *other, strict=True):
        first = max(start, begin)
        count = min(start + size, begin + length) - first
        if count <= 0:
            return None
        offsets.append(first)
        shape.append(count)
    return Box(tuple(offsets), tuple(shape))


class Runs(NamedTuple):
    """Stretches of bytes, all of one length and at equal distances, in a source and in a target.

    Attributes:
        source: where in the source the first begins.
        target: where in the target.
        size: of each.
        number: how many they are.
        source_step: from the start of one to that of the next.
        target_step: the same in the target.
    """

    source: int
    target: int
    size: int
    number: int
    source_step: int
    target_step: int

    @property
    def end(self) -> int:
        """Where in the source the last ends."""
        return self.source + (self.number - 1) * self.source_step + self.size


def is_ordered(shape: Sizes, stride: Sizes) -> bool:
    """Whether elements with these strides follow each other in memory in row-major order, maybe with gaps."""
    sides = [(size, step) for size, step in zip(shape, stride, strict=True) if size > 1]
    return not sides or (
        sides[-1][1] == 1
        and all(outer >= inner * size for (_, outer), (size, inner) in itertools.pairwise(sides))
    )


def runs(piece: Box, place: Box, stride: Sizes, item_bytes: int) -> list[Runs]:
    """Where the elements that a piece and a place share are in both, in the order of the piece.

    Args:
        piece: its data is contiguous, in row-major order.
        place: that is filled.
        stride: of the place's memory, in elements, as `is_ordered` wants it.
        item_bytes: the size of an element.
    """
    common = shared(piece, place)
    if common is None:
        return []
    own = contiguous_stride(piece.shape)
    source = _start(common, piece, own) * item_bytes
    target = _start(common, place, stride) * item_bytes
    dimensions = [
        (size, step * item_bytes, other * item_bytes)
        for size, step, other in zip(common.shape, own, stride, strict=True)
        if size > 1
    ]
    size = item_bytes
    while dimensions and dimensions[-1][1:] == (size, size):
        size *= dimensions.pop()[0]
    dimensions = _merged(dimensions)
    number, source_step, target_step = dimensions.pop() if dimensions else (1, size, size)
    return [
        Runs(source + here, target + there, size, number, source_step, target_step)
        for here, there in _places(dimensions)
    ]


def _start(common: Box, whole: Box, stride: Sizes) -> int:
    return sum(
        (at - start) * step for at, start, step in zip(common.offsets, whole.offsets, stride, strict=True)
    )


def _merged(dimensions: Sequence[_Dimension]) -> list[_Dimension]:
    """Makes one dimension of two that follow each other without gaps in the source and in the target."""
    found: list[_Dimension] = []
    for size, step, other in dimensions:
        if found and found[-1][1:] == (size * step, size * other):
            found[-1] = found[-1][0] * size, step, other
        else:
            found.append((size, step, other))
    return found


def _places(dimensions: Sequence[_Dimension]) -> Iterator[tuple[int, int]]:
    """Where each element of some dimensions begins, in the source and in the target."""
    for indices in itertools.product(*(range(size) for size, _, _ in dimensions)):
        here = there = 0
        for index, (_, step, other) in zip(indices, dimensions, strict=True):
            here += index * step
            there += index * other
        yield here, there
