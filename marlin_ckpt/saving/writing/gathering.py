"""A file that rank 0 writes of tensors of which each rank has a part: one after the other is gathered."""

from typing import Any

from marlin_ckpt.distributed.failures import share
from marlin_ckpt.distributed.gathering import Gathering, write_gathered
from marlin_ckpt.errors import RankError
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.formats.torch.writer import Written
from marlin_ckpt.saving.job import Job
from marlin_ckpt.saving.writing.content import Pieces
from marlin_ckpt.saving.writing.crew import Crew
from marlin_ckpt.saving.writing.file import FileImage, about
from marlin_ckpt.saving.writing.of_main import ImageOfMain


class GatheredContent:
    """A state of which each rank has parts, and which becomes one file; see `Content`."""

    def __init__(self, job: Job, state: Any, path: str, crew: Crew) -> None:
        """Takes what this rank has."""
        self._job, self._state, self._path, self._crew = job, state, path, crew

    def write(self) -> Written:
        """Writes the file while it is gathered."""
        job, how = self._job, (self._job.overwrite, self._job.how.statistics)
        return write_gathered(self._path, self._state, job.manifest, self._crew.here, *how)

    def image(self) -> "GatheredImage":
        """Prepares a copy, which rank 0 has alone."""
        job, path, ranks = self._job, self._path, self._crew.here
        gathering = Gathering(self._state, ranks)

        def prepare() -> FileImage | None:
            if not ranks.is_main:
                return None
            encoded = encode(gathering.state)
            return FileImage(job, encoded, about(job).plan(encoded), path)

        image = self._crew.done(prepare)
        return GatheredImage(image, gathering, self._crew)


class GatheredImage(ImageOfMain):
    """A copy that rank 0 gathers while the caller waits, and writes in the background."""

    def __init__(self, image: FileImage | None, gathering: Gathering, crew: Crew) -> None:
        """Takes the copy, which rank 0 has alone, and what is gathered into it."""
        super().__init__(image, crew)
        self._gathering: Gathering | None = gathering

    @property
    def pieces(self) -> Pieces:
        """What is left for the engine to copy: nothing."""
        return Pieces()

    def fill(self, memory: memoryview) -> None:
        """Gathers the state, into its places."""
        gathering, self._gathering = self._gathering, None
        failed: Exception | None = None
        if gathering is None:
            return
        try:
            pieces = super().pieces
            for storage, size, place in zip(pieces.storages, pieces.sizes, pieces.places, strict=True):
                memory[place : place + size] = gathering.data(storage)
        except Exception as error:  # noqa: BLE001 - raised again, here and at the other ranks
            failed = error
        try:
            if not isinstance(failed, RankError):
                gathering.end()
            share(self._crew.here, failed)
        finally:
            del failed  # its frames would hold the state
