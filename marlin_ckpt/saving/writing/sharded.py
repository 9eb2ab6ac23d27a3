"""The shard of this rank, of a folder that all ranks write."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.storage import UntypedStorage

from marlin_ckpt.distributed import saving
from marlin_ckpt.distributed.flat import local_of
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.formats.torch.writer import Written
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.job import Job
from marlin_ckpt.saving.plain import plain
from marlin_ckpt.saving.writing.content import Pieces
from marlin_ckpt.saving.writing.crew import Crew
from marlin_ckpt.storage.local.direct import BLOCK_BYTES


class ShardedContent:
    """A state of which each rank saves what it has; see `Content`."""

    def __init__(self, job: Job, path: str, crew: Crew, plans: SavePlans) -> None:
        """Plans the save; all ranks call this.

        Args:
            job: the save.
            path: of the folder.
            crew: the ranks.
            plans: of the saver.
        """
        self._crew = crew
        self._prepared = saving.prepare(
            job.state, path, crew.here, plans, job.manifest,
            overwrite=job.overwrite, has_statistics=job.how.statistics,
            convert=plain if job.makes_plain else lambda state: state,
        )  # fmt: skip

    def write(self) -> Written:
        """Writes it from where it is."""
        return _written(saving.write(self._prepared, self._crew.here))

    def image(self) -> "ShardedImage":
        """Says where the tensors of this rank are in its shard."""
        return ShardedImage(self._prepared, self._crew)


class ShardedImage:
    """A shard, of whose tensors a copy is written; see `Image`."""

    def __init__(self, prepared: saving.Prepared, crew: Crew) -> None:
        """Takes the save, which is planned."""
        self._prepared, self._crew = prepared, crew
        shard = prepared.plan.shard
        self.image_bytes = shard.size_bytes + BLOCK_BYTES if shard else 0
        places = shard.places[: len(prepared.tensors)] if shard else ()
        found = [_memory(one) for one in prepared.tensors]
        storages, starts = zip(*found, strict=True) if found else ((), ())
        sizes = [one.data_bytes for one in places]
        self.pieces = Pieces(
            prepared.plan.tensors,
            storages,
            starts,
            sizes,
            [one.data_start for one in places],
        )
        self.size_bytes = sum(sizes)

    def names(self, key: str) -> list[str]:
        """The name of the one tensor."""
        return [key]

    def fill(self, memory: memoryview) -> None:
        """Does nothing: all is in the pieces."""

    def write(
        self, memory: memoryview, before_renaming: Callable[[], None], sums: Mapping[str, Sequence[int]]
    ) -> Written:
        """Writes the shard from its image, with the other ranks."""
        image = saving.Image(memory, sums)
        return _written(
            saving.write(self._prepared, self._crew.behind, image, before_renaming=before_renaming)
        )


def _memory(tensor: Any) -> tuple[UntypedStorage, int]:
    """Where the part of a tensor that this rank has begins, or a copy of it in the shard's form."""
    local = local_of(tensor)
    is_as_written = local.is_contiguous() and not (local.is_conj() or local.is_neg())
    if not (is_as_written and (local.is_cpu or local.is_cuda)):
        local = saving.plain(tensor)
    start = int(local.storage_offset()) * local.element_size()
    return local.untyped_storage(), start


def _written(report: SaveReport) -> Written:
    return Written(report.size_bytes, report.write_s, report.sync_s, ())
