"""What the engine asks of what it saves, whether that becomes a file or the shards of a folder."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch.storage import UntypedStorage

from marlin_ckpt.formats.torch.writer import Written


class Piece(NamedTuple):
    """Bytes of a state that are copied before they are written.

    Attributes:
        key: what `Image.names` knows it by.
        storage: that they are in.
        start: where they begin in it.
        size_bytes: how many.
        at: where they begin in the copy.
    """

    key: str
    storage: UntypedStorage
    start: int
    size_bytes: int
    at: int


class Image(Protocol):
    """A state that is going to be copied, as an image of the file that it is written to."""

    @property
    def size_bytes(self) -> int:
        """How many bytes of the state are copied."""

    @property
    def image_bytes(self) -> int:
        """How much memory that takes; 0: this process copies nothing."""

    @property
    def pieces(self) -> Sequence[Piece]:
        """What is copied where."""

    def names(self, key: str) -> list[str]:
        """The names of the tensors that a piece is of."""

    def fill(self, memory: memoryview) -> None:
        """Copies what this process has no pieces of; called once, by the thread that asked for the save."""

    def write(self, memory: memoryview, before_renaming: Callable[[], None]) -> Written:
        """Writes the copy.

        Args:
            memory: `image_bytes`, beginning at a page's border, with all pieces in their places.
            before_renaming: called when all of this process is durable but the name; may raise.

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
