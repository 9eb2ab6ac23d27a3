"""A file that this process writes."""

import functools
from collections.abc import Callable
from typing import Any

from marlin_ckpt.formats.pickle.storages import tensor_names
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.formats.torch.pickler import Encoded, encode
from marlin_ckpt.formats.torch.writer import Written
from marlin_ckpt.saving.job import Job
from marlin_ckpt.saving.writing.content import Piece
from marlin_ckpt.storage.local.direct import BLOCK_BYTES


class FileContent:
    """A state that becomes a file; see `Content`."""

    def __init__(self, job: Job, state: Any, path: str) -> None:
        """Takes what is saved.

        Args:
            job: the save.
            state: what is pickled.
            path: of the file, absolute where it is written behind a program that may go elsewhere.
        """
        self._job, self._state, self._path = job, state, path

    def write(self) -> Written:
        """Pickles the state, and writes it."""
        job = self._job
        return writer.write_file(self._path, self._state, job.manifest, job.overwrite, job.how.statistics)

    def image(self) -> "FileImage":
        """Pickles the state."""
        return FileImage(self._job, encode(self._state), self._path)


class FileImage:
    """A pickled state, of whose storages a copy is written; see `Image`."""

    def __init__(self, job: Job, encoded: Encoded, path: str) -> None:
        """Takes the state."""
        self._job, self._encoded, self._path = job, encoded, path
        self._plan = writer.plan_image(encoded, has_statistics=job.how.statistics)

    @property
    def size_bytes(self) -> int:
        """The length of the state."""
        return self._encoded.size_bytes

    @property
    def image_bytes(self) -> int:
        """The length of the file, and a block."""
        return self._plan.size_bytes + BLOCK_BYTES

    @functools.cached_property
    def pieces(self) -> list[Piece]:
        """The storages."""
        offsets = self._plan.offsets
        return [
            Piece(key, storage, 0, storage.nbytes(), offsets[f"data/{key}"])
            for key, storage in self._encoded.storages.items()
        ]

    def names(self, key: str) -> list[str]:
        """The names of the tensors in a storage."""
        return tensor_names(self._encoded.pickle).get(key, [f"storage {key}"])

    def fill(self, memory: memoryview) -> None:
        """Does nothing: all is in the pieces."""

    def write(self, memory: memoryview, before_renaming: Callable[[], None]) -> Written:
        """Writes the file from its image."""
        job, image = self._job, writer.Image(memory, self._plan)
        how = (before_renaming, job.overwrite, job.how.statistics)
        return writer.write_image(self._path, self._encoded, job.manifest, image, *how)
