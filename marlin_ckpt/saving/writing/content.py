"""What the engine asks of what it saves, whether that becomes a file or the shards of a folder."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

import torch
from torch.storage import UntypedStorage

from marlin_ckpt.formats.torch.memory import identity
from marlin_ckpt.formats.torch.writer import Written

_device_of: Callable[[UntypedStorage], torch.device] = attrgetter("device")


@dataclass(frozen=True)
class Pieces:
    """Stretches of a state's memory that are copied before they are written.

    In columns, which Python goes through several times as fast as through as many objects.

    Attributes:
        keys: what `Image.names` knows each by.
        storages: that they are in.
        starts: where they begin in these; empty where they begin where these do.
        sizes: their lengths in bytes.
        places: where they begin in the copy.
        known_kinds: `kinds`, where these are known already.
    """

    keys: Sequence[str] = ()
    storages: Sequence[UntypedStorage] = ()
    starts: Sequence[int] = ()
    sizes: Sequence[int] = ()
    places: Sequence[int] = ()
    known_kinds: frozenset[str] | None = None

    @functools.cached_property
    def identities(self) -> list[int]:
        """What tells the storages from each other."""
        return list(map(identity, self.storages))

    @functools.cached_property
    def kinds(self) -> frozenset[str]:
        """The types of the devices that the storages are on."""
        if self.known_kinds is not None:
            return self.known_kinds
        return frozenset(one.type for one in set(map(_device_of, self.storages)))


class Image(Protocol):
    """A state that is going to be copied, as an image of the file that it is written to."""

    @property
    def size_bytes(self) -> int:
        """How many bytes of the state are copied."""

    @property
    def image_bytes(self) -> int:
        """How much memory that takes; 0: this process copies nothing."""

    @property
    def pieces(self) -> Pieces:
        """What is copied where."""

    def names(self, key: str) -> list[str]:
        """The names of the tensors that a piece is of."""

    def fill(self, memory: memoryview) -> None:
        """Copies what this process has no pieces of; called once, by the thread that asked for the save."""

    def write(
        self, memory: memoryview, before_renaming: Callable[[], None], sums: Mapping[str, Sequence[int]]
    ) -> Written:
        """Writes the copy.

        Args:
            memory: `image_bytes`, beginning at a page's border, with all pieces in their places.
            before_renaming: called when all of this process is durable but the name; may raise.
            sums: the CRC32 of each block (`formats.shards.items.BLOCK_BYTES`) of pieces in the memory, by
                their keys, as far as they are known.

        Raises:
            UnsavableStateError, StorageError, RankError: as the save does; the old file stands.
        """


class Content(Protocol):
    """A state that is going to be saved. Where ranks save together, each has one, and calls the same."""

    def write(self) -> Written:
        """Writes it from where it is.

        Raises:
            UnsavableStateError, StorageError, RankError: as the save does; the old file stands.
        """

    def image(self) -> Image:
        """Prepares a copy.

        Raises:
            UnsavableStateError: the state cannot be pickled.
        """
