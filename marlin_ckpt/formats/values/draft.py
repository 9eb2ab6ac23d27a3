"""A tensor that is to be written; its bytes are read only when its turn comes."""

from collections.abc import Callable
from typing import NamedTuple


class Draft(NamedTuple):
    """One tensor of a file that is to be written.

    Attributes:
        name: in that file.
        dtype: torch's name of it, `float32`.
        size_bytes: how many bytes `read` returns.
        shape: of any number of dimensions.
        same_as: the first name of the tensor, where this is a further name of it; else "".
        read: returns its bytes: all elements in row-major order, little-endian.
    """

    name: str
    dtype: str
    size_bytes: int
    shape: tuple[int, ...]
    same_as: str
    read: Callable[[], memoryview]
