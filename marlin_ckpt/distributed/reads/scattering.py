"""Copies bytes of a piece of a tensor to where they belong in memory."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from marlin_ckpt.distributed.reads.boxes import Runs

_WIDTHS = (8, 4, 2, 1)  # bytes of what numpy copies at once


def straight(runs: Sequence[Runs], starts: Sequence[int], start: int, end: int) -> int | None:
    """Where in the target all bytes from `start` to `end` of a piece belong; None: not to one stretch."""
    at = bisect.bisect_right(starts, start) - 1
    if at < 0:
        return None
    one = runs[at]
    number = min((start - one.source) // one.source_step, one.number - 1)
    first = one.source + number * one.source_step
    if end > first + one.size:
        return None
    return one.target + number * one.target_step + start - first


def scatter(
    runs: Sequence[Runs], starts: Sequence[int], start: int, piece: memoryview, memory: memoryview
) -> None:
    """Copies what belongs to the target of the bytes of a piece from `start` on."""
    end = start + len(piece)
    at = max(0, bisect.bisect_right(starts, start) - 1)
    while at < len(runs) and runs[at].source < end:
        one = runs[at]
        # Those that are whole are copied at once; the first and the last may be cut.
        first = max(0, -(-(start - one.source) // one.source_step))
        last = min(one.number, (end - one.source - one.size) // one.source_step + 1)
        for number in {first - 1, max(first, last)}:
            if 0 <= number < one.number:
                begin = one.source + number * one.source_step
                cut, rest = max(begin, start), min(begin + one.size, end)
                if cut < rest:
                    to = one.target + number * one.target_step + cut - begin
                    memory[to : to + rest - cut] = piece[cut - start : rest - start]
        if last > first:
            _copy(one, first, last, start, piece, memory)
        at += 1


def _copy(one: Runs, first: int, last: int, start: int, piece: memoryview, memory: memoryview) -> None:  # noqa: PLR0913, PLR0917
    """Copies the runs from number `first` to before `last`, which are all within the piece."""
    here = one.source + first * one.source_step - start
    there = one.target + first * one.target_step
    numbers = here, there, one.size, one.source_step, one.target_step
    width = next(width for width in _WIDTHS if all(number % width == 0 for number in numbers))
    shape = last - first, one.size // width
    kind = np.dtype(f"u{width}")
    own = np.ndarray(shape, kind, piece, here, (one.source_step, width))
    np.ndarray(shape, kind, memory, there, (one.target_step, width))[...] = own
