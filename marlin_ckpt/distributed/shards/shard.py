"""What one rank writes of a sharded checkpoint: its shard, from the live tensors or from a copy of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch

from marlin_ckpt.distributed import commit
from marlin_ckpt.distributed.flat import local_of
from marlin_ckpt.distributed.planning.laying_out import shard_name
from marlin_ckpt.distributed.planning.plans import Plan, SavePlans
from marlin_ckpt.distributed.shards.durable import Facts, write_durably
from marlin_ckpt.distributed.shards.statistics import OfRank
from marlin_ckpt.formats.manifest import Manifest, Mesh
from marlin_ckpt.formats.shards import writer
from marlin_ckpt.formats.shards.items import Item, ShardAbout, ValueItem
from marlin_ckpt.formats.shards.writer import write_shard
from marlin_ckpt.formats.shared import Shared
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.storage.target import Target


@dataclass(frozen=True, slots=True)
class Prepared:
    """A save that is planned, and not yet written.

    Attributes:
        path: of the folder.
        plan: what this rank writes, and where.
        files: of the values that it writes.
        tensors: that it writes its part of, in their order, as they are.
        mesh: how the ranks are arranged.
        manifest: of the checkpoint, without its records.
        overwrite: whether a folder that has the name is replaced.
        plans: what the plan is kept in, and dropped from if the save fails.
        has_statistics: whether the statistics of the tensors are saved, too.
    """

    path: str
    plan: Plan
    files: tuple[bytes, ...]
    tensors: tuple[torch.Tensor, ...]
    mesh: Mesh | None
    manifest: Manifest
    overwrite: bool
    plans: SavePlans
    has_statistics: bool = False

    @property
    def items(self) -> list[Item]:
        """What the shard of this rank is made of."""
        slots = zip(self.files, self.plan.slots, strict=True)
        return [*self.plan.items, *(ValueItem(one, slot) for one, slot in slots)]


class Image(NamedTuple):
    """A copy of the tensors that this rank writes.

    Attributes:
        memory: of this rank's shard, with a block more, in which the data of the tensors is at its places
            (`Plan.shard`).
        sums: the CRC32 of each block of the data of tensors, by their names, as far as they are known.
    """

    memory: memoryview
    sums: Mapping[str, Sequence[int]] = MappingProxyType({})


class Sharing(Protocol):
    """How the shard of this rank shares bytes with those that this process wrote before."""

    def staying(self) -> Any:
        """Which checkpoints stay once the new one is there, as `written` takes it; asked at rank 0."""

    def written(
        self, staying: Any, member: str, write: Callable[[Shared, Callable[[], None]], Facts]
    ) -> Facts:
        """Has the shard written.

        Args:
            staying: as rank 0 has said it.
            member: the name of the shard's file.
            write: writes it with what is shared, and calls the second argument before it is final; a second
                time, and nothing is shared, where this raises.

        Raises:
            Whatever `write` raises.
        """

    def is_durable(self) -> None:
        """Told when the checkpoint is."""


class Shard(NamedTuple):
    """The shard of this rank; see `saving.write` for what is not said here.

    Attributes:
        prepared: what was planned.
        image: a copy of the tensors; None: they are read where they are.
        patience_s: how long this rank looks for the folder.
        before_renaming: called when the shard is durable.
        statistics: of the tensors, if they are saved.
        sharing: how it shares bytes with earlier ones; None: not at all.
    """

    prepared: Prepared
    image: Image | None
    patience_s: float
    before_renaming: Callable[[], None]
    statistics: OfRank | None
    sharing: Sharing | None

    @property
    def may_share(self) -> Sharing | None:
        """How it shares, where its data lies at places that others can share."""
        return None if self.prepared.plan.alignment == ALIGNMENT else self.sharing

    def write(self, folder: str, about: ShardAbout, staying: Any) -> Facts | None:
        """Writes it.

        Args:
            folder: under its temporary name.
            about: which shard of which save it is.
            staying: what rank 0 has said of `sharing`.

        Returns:
            what was written; None where there is nothing to write.
        """
        commit.find(folder, self.prepared.path, self.patience_s)
        facts = None
        if self.prepared.plan.shard is not None:
            facts = self._written(folder, about, staying)
        self.before_renaming()
        return facts

    def _written(self, folder: str, about: ShardAbout, staying: Any) -> Facts:
        if (sharing := self.may_share) is None:
            return self._file(folder, about, None, _nothing)
        name = shard_name(about.rank)
        return sharing.written(staying, name, lambda shared, check: self._file(folder, about, shared, check))

    def _file(
        self, folder: str, about: ShardAbout, shared: Shared | None, check: Callable[[], None]
    ) -> Facts:
        prepared, image, plan = self.prepared, self.image, self.prepared.plan
        items, known = prepared.items, image.sums if image else {}
        data = live(prepared.tensors) if image is None else copied(prepared, image.memory)
        sums = {number: known[name] for number, name in enumerate(plan.tensors) if name in known}
        told = self.statistics.observers() if self.statistics else ()
        how = writer.Sharing(plan.alignment, plan.tensors, shared)

        def fill(target: Target) -> int:
            crc32 = write_shard(target, items, data, about, told, sums, how).crc32
            check()
            return crc32

        return write_durably(
            folder,
            shard_name(about.rank),
            plan.shard.size_bytes if plan.shard else 0,
            fill,
            image.memory if image else None,
            published=prepared.path,
            shared_bytes=shared.size_bytes if shared else None,
        )


def _nothing() -> None:
    """There is nothing to be checked."""


def live(tensors: Iterable[torch.Tensor]) -> Iterator[memoryview]:
    """The data of tensors, each in this process's memory while it is read."""
    for one in tensors:
        local = plain(one)
        yield memory(local.data_ptr(), local.nbytes)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank has of a tensor: contiguous, on the CPU, and no copy where it is that already."""
    local = local_of(tensor).detach().resolve_conj().resolve_neg()
    return local.cpu().contiguous()


def copied(prepared: Prepared, image: memoryview) -> Iterator[memoryview]:
    """The data of tensors in an image."""
    shard = prepared.plan.shard
    places = shard.places[: len(prepared.tensors)] if shard else ()
    return (image[one.data_start : one.data_start + one.data_bytes] for one in places)


def parts(tensors: Iterable[torch.Tensor]) -> Iterator[tuple[str, int]]:
    """The dtype of each tensor, and how many bytes of it this rank has."""
    return ((str(one.dtype).removeprefix("torch."), local_of(one).nbytes) for one in tensors)
