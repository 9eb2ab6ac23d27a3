"""A file that rank 0 writes for all: its ends are those of every rank."""

from collections.abc import Callable, Mapping, Sequence

from marlin_ckpt.distributed.failures import told_by_main
from marlin_ckpt.formats.torch.writer import Written
from marlin_ckpt.saving.writing.content import Content, Image, Pieces
from marlin_ckpt.saving.writing.crew import Crew


class OfMain:
    """What rank 0 saves, as each rank has it; see `Content`."""

    def __init__(self, content: Content | None, crew: Crew) -> None:
        """Takes what is saved, which rank 0 has alone, and the ranks."""
        self._content, self._crew = content, crew

    def write(self) -> Written:
        """Writes it at rank 0."""
        return told_by_main(self._crew.here, self._content.write if self._content else _at_main)

    def image(self) -> "ImageOfMain":
        """Prepares a copy at rank 0."""
        made: list[Image] = []

        def prepare() -> None:
            if self._content is not None:
                made.append(self._content.image())

        told_by_main(self._crew.here, prepare)
        return ImageOfMain(made[0] if made else None, self._crew)


class ImageOfMain:
    """A copy that rank 0 writes; see `Image`."""

    def __init__(self, image: Image | None, crew: Crew) -> None:
        """Takes the copy, which rank 0 has alone, and the ranks."""
        self._image, self._crew = image, crew

    @property
    def size_bytes(self) -> int:
        """How many bytes are copied here."""
        return self._image.size_bytes if self._image else 0

    @property
    def image_bytes(self) -> int:
        """How much memory that takes here."""
        return self._image.image_bytes if self._image else 0

    @property
    def pieces(self) -> Pieces:
        """What is copied here."""
        return self._image.pieces if self._image else Pieces()

    def names(self, key: str) -> list[str]:
        """The names of the tensors that a piece is of."""
        return self._image.names(key) if self._image else []

    def fill(self, memory: memoryview) -> None:
        """Copies what rank 0 has no pieces of."""
        if self._image is not None:
            self._image.fill(memory)

    def write(
        self, memory: memoryview, before_renaming: Callable[[], None], sums: Mapping[str, Sequence[int]]
    ) -> Written:
        """Writes the copy at rank 0."""
        image = self._image
        work = _at_main if image is None else lambda: image.write(memory, before_renaming, sums)
        return told_by_main(self._crew.behind, work)


def _at_main() -> Written:
    """Stands for the work of rank 0 at the others, which do not call it."""
    raise AssertionError
