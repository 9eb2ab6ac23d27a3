"""Tensors that are to be written, each with what makes its bytes when its turn comes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draft:
    """One tensor of a file to be written.

    Attributes:
        name: in that file.
        dtype: torch's name of it, `float32`.
        item_bytes: the length of one element.
        shape: of any number of dimensions.
        same_as: the name of the draft that it is another name of, or "".
        read: makes its bytes: all elements in row-major order, little-endian.
    """

    name: str
    dtype: str
    item_bytes: int
    shape: tuple[int, ...]
    same_as: str
    read: Callable[[], memoryview]

    @property
    def size_bytes(self) -> int:
        """How many bytes `read` makes."""
        return math.prod(self.shape) * self.item_bytes
