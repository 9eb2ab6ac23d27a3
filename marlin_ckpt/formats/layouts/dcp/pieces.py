"""What a `.metadata` says of a tensor, of its pieces, and of where they are."""

from __future__ import annotations

from typing import NamedTuple

Sizes = tuple[int, ...]
Path = tuple[str | int, ...]
MOST_IN_PATH = 100  # keys above a value; deeper ones are shown by their flat names


class Chunk(NamedTuple):
    """A part of a tensor.

    Attributes:
        offsets: where its first element is in the tensor.
        shape: its sizes.
    """

    offsets: Sizes
    shape: Sizes


class Described(NamedTuple):
    """A tensor as the metadata describes it.

    Attributes:
        dtype: in torch's spelling.
        shape: of the whole.
        chunks: that it was saved in.
    """

    dtype: str
    shape: Sizes
    chunks: tuple[Chunk, ...]


class Place(NamedTuple):
    """Where an item is.

    Attributes:
        file: its name in the folder.
        start: of the item's first byte; a hostile file may say anything.
        size_bytes: how many bytes it takes.
        packing: the names of what it was put through on its way to the file, such as `zstd`.
    """

    file: str
    start: int
    size_bytes: int
    packing: tuple[str, ...] = ()


def leads_outside(name: str) -> bool:
    """Whether a name that is written in a file is not the plain name of a file beside it."""
    return name in ("", ".", "..") or "/" in name or "\0" in name
