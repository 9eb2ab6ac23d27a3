"""What a look at a directory finds: names and sizes, before any file is opened."""

from __future__ import annotations

from dataclasses import dataclass

from marlin_ckpt import naming


@dataclass(frozen=True)
class Entry:
    """One file of a directory, known by its name and its inode alone.

    Attributes:
        path: directory and name.
        name: the file's name read by the grammar, or None where it does not fit.
        size_bytes: the file's length.
        modified_ns: the time of its last change, in nanoseconds since 1970.
        inode: its device and inode.
        is_link: whether a symbolic link has the name, and all else is of the file that it leads to.
    """

    path: str
    name: naming.FileName | None
    size_bytes: int
    modified_ns: int
    inode: tuple[int, int] = (0, 0)
    is_link: bool = False

    @property
    def index(self) -> int | None:
        """The index in the file's name, or None."""
        return None if self.name is None else self.name.index
