"""A file that this process writes."""

from collections.abc import Callable, Mapping, Sequence

from marlin_ckpt.formats.pickle.storages import tensor_names
from marlin_ckpt.formats.shards.items import whole_crc32
from marlin_ckpt.formats.shared import Shared
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.formats.torch.pickler import Encoded
from marlin_ckpt.formats.torch.writer import Written
from marlin_ckpt.formats.zip.planning import Plan
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.saving.job import Job
from marlin_ckpt.saving.sharing.comparing import Data
from marlin_ckpt.saving.sharing.sharing import Sharing
from marlin_ckpt.saving.writing.content import Pieces
from marlin_ckpt.saving.writing.pickles import About, Pickles
from marlin_ckpt.storage.local.direct import BLOCK_BYTES


class FileContent:
    """A state that becomes a file; see `Content`."""

    def __init__(self, job: Job, path: str, pickles: Pickles) -> None:
        """Takes what is saved.

        Args:
            job: the save.
            path: of the file, absolute where it is written behind a program that may go elsewhere.
            pickles: of the saves before.
        """
        self._job, self._path, self._pickles = job, path, pickles

    def write(self) -> Written:
        """Pickles the state, and writes it."""
        job = self._job
        encoded = self._pickles.encoded(job.state, about(job))
        if job.sharing is not None:
            return self._write_shared(job.sharing, encoded)
        return writer.write_encoded(self._path, encoded, job.manifest, job.overwrite, job.how.statistics)

    def _write_shared(self, sharing: Sharing, encoded: Encoded) -> Written:
        job = self._job

        def of(name: str, most_bytes: int | None) -> memoryview:
            return writer.data_of(encoded.storages[name.removeprefix("data/")], most_bytes)

        def write(shared: Shared, check: Callable[[], None]) -> Written:
            how = (shared, check, job.overwrite, job.how.statistics)
            return writer.write_shared(self._path, encoded, job.manifest, *how)

        return sharing.written(Data(writer.sizes_of(encoded), of, is_final=False), write)

    def image(self) -> "FileImage":
        """Pickles the state."""
        return FileImage(self._job, *self._pickles.planned(self._job.state, about(self._job)), self._path)


def about(job: Job) -> About:
    """What the plan of an image depends on."""
    alignment = ALIGNMENT if job.sharing is None else job.sharing.alignment
    return About(job.makes_plain, job.how.statistics, alignment)


class FileImage:
    """A pickled state, of whose storages a copy is written; see `Image`."""

    def __init__(self, job: Job, encoded: Encoded, plan: Plan, path: str) -> None:
        """Takes the state, and where the file will have its bytes."""
        self._job, self._encoded, self._plan, self._path = job, encoded, plan, path
        storages = list(encoded.storages.values())
        sizes = list(encoded.sizes.values())
        # A plan has its places in the order of the storages.
        places = list(plan.offsets.values())
        self.pieces = Pieces(list(encoded.storages), storages, (), sizes, places, known_kinds=encoded.kinds)

    @property
    def size_bytes(self) -> int:
        """The length of the state."""
        return self._encoded.size_bytes

    @property
    def image_bytes(self) -> int:
        """The length of the file, and a block."""
        return self._plan.size_bytes + BLOCK_BYTES

    def names(self, key: str) -> list[str]:
        """The names of the tensors in a storage."""
        return tensor_names(self._encoded.pickle).get(key, [f"storage {key}"])

    def fill(self, memory: memoryview) -> None:
        """Does nothing: all is in the pieces."""

    def write(
        self, memory: memoryview, before_renaming: Callable[[], None], sums: Mapping[str, Sequence[int]]
    ) -> Written:
        """Writes the file from its image."""
        job, image = self._job, writer.Image(memory, self._plan)
        whole = {key: whole_crc32(blocks, self._encoded.sizes[key]) for key, blocks in sums.items()}
        own = (self._path, self._encoded, job.manifest, image)
        how = (job.overwrite, job.how.statistics, whole)
        if job.sharing is None:
            return writer.write_image(*own, before_renaming, *how)
        sizes = writer.sizes_of(self._encoded)

        def of(name: str, most_bytes: int | None) -> memoryview:
            at = self._plan.offsets[name]
            return memory[at : at + min(sizes[name], most_bytes or sizes[name])]

        def write(shared: Shared, check: Callable[[], None]) -> Written:
            def both() -> None:
                check()
                before_renaming()

            return writer.write_image(*own, both, *how, shared)

        return job.sharing.written(Data(sizes, of, is_final=True), write)
