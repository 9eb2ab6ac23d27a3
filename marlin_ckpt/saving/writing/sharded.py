"""The shard of this rank, of a folder that all ranks write."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.storage import UntypedStorage

from marlin_ckpt.distributed import saving
from marlin_ckpt.distributed.flat import local_of
from marlin_ckpt.distributed.planning.plans import SavePlans
from marlin_ckpt.distributed.shards.shard import Image, Prepared
from marlin_ckpt.distributed.shards.shard import plain as plain_of
from marlin_ckpt.formats import digests
from marlin_ckpt.formats.torch.writer import Written, bytes_of
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.saving.job import Job
from marlin_ckpt.saving.plain import plain
from marlin_ckpt.saving.sharing.comparing import Data
from marlin_ckpt.saving.sharing.shards import ShardSharing
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
        self._crew, self._sharing = crew, job.sharing
        self._prepared = saving.prepare(
            job.state, path, crew.here, plans, job.manifest,
            overwrite=job.overwrite, has_statistics=job.how.statistics,
            convert=plain if job.makes_plain else lambda state: state,
            alignment=job.sharing.alignment if job.sharing and crew.here.is_main else ALIGNMENT,
        )  # fmt: skip

    def write(self) -> Written:
        """Writes it from where it is."""
        return _written(saving.write(self._prepared, self._crew.here, sharing=self._shared(None)))

    def image(self) -> "ShardedImage":
        """Says where the tensors of this rank are in its shard."""
        return ShardedImage(self._prepared, self._crew, self._shared)

    def _shared(self, image: memoryview | None) -> ShardSharing | None:
        """How the shard shares, of whose tensors there may be a copy."""
        if self._sharing is None:
            return None
        return ShardSharing(self._sharing, _data(self._prepared, image), self._prepared.plan.size_bytes)


class ShardedImage:
    """A shard, of whose tensors a copy is written; see `Image`."""

    def __init__(
        self, prepared: Prepared, crew: Crew, sharing: Callable[[memoryview], ShardSharing | None]
    ) -> None:
        """Takes the save, which is planned, the ranks, and what says how it shares."""
        self._prepared, self._crew, self._sharing = prepared, crew, sharing
        shard = prepared.plan.shard
        own_bytes = 0 if prepared.plan.alignment == ALIGNMENT else digests.MOST_BYTES
        self.image_bytes = shard.size_bytes + own_bytes + BLOCK_BYTES if shard else 0
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
        own = (self._prepared, self._crew.behind, Image(memory, sums))
        sharing = self._sharing(memory)
        return _written(saving.write(*own, before_renaming=before_renaming, sharing=sharing))


def _data(prepared: Prepared, image: memoryview | None) -> Data:
    """The data of the tensors of a shard, in a copy or where they are."""
    places = prepared.plan.shard.places[: len(prepared.tensors)] if prepared.plan.shard else ()
    known = dict(zip(prepared.plan.tensors, zip(prepared.tensors, places, strict=True), strict=True))

    def of(name: str, most_bytes: int | None) -> memoryview:
        tensor, place = known[name]
        size = min(place.data_bytes, most_bytes or place.data_bytes)
        if image is not None:
            return image[place.data_start : place.data_start + size]
        return bytes_of(*_memory(tensor), size)

    sizes = {name: place.data_bytes for name, (_, place) in known.items()}
    return Data(sizes, of, is_final=image is not None)


def _memory(tensor: Any) -> tuple[UntypedStorage, int]:
    """Where the part of a tensor that this rank has begins, or a copy of it in the shard's form."""
    local = local_of(tensor)
    is_as_written = local.is_contiguous() and not (local.is_conj() or local.is_neg())
    if not (is_as_written and (local.is_cpu or local.is_cuda)):
        local = plain_of(tensor)
    start = int(local.storage_offset()) * local.element_size()
    return local.untyped_storage(), start


def _written(report: SaveReport) -> Written:
    return Written(report.size_bytes, report.write_s, report.sync_s, ())
