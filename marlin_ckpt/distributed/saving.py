"""Saves a state of many ranks as one sharded checkpoint, whole at all of them or not at all.

`prepare` plans, on the thread that trains; `write` may run on any other, over ranks of its own, from the live
tensors or from an image of the shard that they were copied to.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from marlin_ckpt.distributed import commit
from marlin_ckpt.distributed.commit import Facts, Staged, Staging
from marlin_ckpt.distributed.failures import together
from marlin_ckpt.distributed.flat import flatten, local_of
from marlin_ckpt.distributed.planning.describing import mesh_of
from marlin_ckpt.distributed.planning.laying_out import shard_name
from marlin_ckpt.distributed.planning.plans import Plan, SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.statistics import OfRank, combined
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.manifest import Manifest, Mesh, Sharded
from marlin_ckpt.formats.shards.items import Item, ShardAbout, ValueItem
from marlin_ckpt.formats.shards.writer import write_shard
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.naming import Kind
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.storage.local.files import absolute

_VOTE = struct.Struct("<QI")  # the length and the CRC32 of a rank's shard; the length is 0 where it has none


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


def save_sharded(  # noqa: PLR0913 - a keyword
    state: Mapping[Any, Any],
    path: PathText,
    ranks: Ranks,
    plans: SavePlans,
    manifest: Manifest,
    *,
    overwrite: bool = True,
    has_statistics: bool = False,
) -> SaveReport:
    """Saves what all ranks have of a state; all of them call it, and return when it is durable.

    Args:
        state: of this rank, a dict.
        path: of the folder that is to appear.
        ranks: of the run.
        plans: of the saver, which keeps them from one save to the next.
        manifest: of the checkpoint, without its records; rank 0's counts.
        overwrite: whether a folder that has the name is replaced.
        has_statistics: whether the statistics of the tensors are saved, too; the same at all ranks.

    Raises:
        UnsavableStateError: see `SavePlans.plan`.
        StorageError: a rank cannot write. What had the name stands, and nothing else is left.
        RankError: a rank has ended, or did not answer in time.
    """
    began = time.perf_counter()
    prepared = prepare(
        state, path, ranks, plans, manifest, overwrite=overwrite, has_statistics=has_statistics
    )
    report = write(prepared, ranks)
    return replace(report, stall_s=time.perf_counter() - began)


def prepare(  # noqa: PLR0913 - keywords
    state: Mapping[Any, Any],
    path: PathText,
    ranks: Ranks,
    plans: SavePlans,
    manifest: Manifest,
    *,
    overwrite: bool = True,
    has_statistics: bool = False,
    writing: Ranks | None = None,
    convert: Callable[[Any], Any] = lambda state: state,
) -> Prepared:
    """Plans a save; all ranks call it.

    Args:
        state: as for `save_sharded`.
        path: as for `save_sharded`.
        ranks: over which the plan is made.
        plans: as for `save_sharded`.
        manifest: as for `save_sharded`.
        overwrite: as for `save_sharded`.
        has_statistics: as for `save_sharded`.
        writing: over which `write` will be called, where these are others. If an earlier save has left them
            broken at any rank, all of them make a new group.
        convert: makes of the state what is saved; where it fails at one rank, all of them fail.

    Raises:
        UnsavableStateError, RankError: as `save_sharded`.
    """
    if writing is not None and writing is not ranks and ranks.most(writing.is_broken)[0]:
        plans.drop()
        writing.renew()
    flat, plan, files = plans.plan(lambda: flatten(convert(state)), ranks)
    tensors = tuple(flat.tensors[name] for name in plan.tensors)
    mesh = mesh_of(flat.tensors.values()) if ranks.is_main else None
    return Prepared(absolute(path), plan, files, tensors, mesh, manifest, overwrite, plans, has_statistics)


def write(
    prepared: Prepared,
    ranks: Ranks,
    image: Image | None = None,
    patience_s: float = commit.PATIENCE_S,
    before_renaming: Callable[[], None] = lambda: None,
) -> SaveReport:
    """Writes what was prepared; all ranks call it.

    Args:
        prepared: by `prepare`.
        ranks: over which nothing else happens meanwhile.
        image: a copy of the tensors; None: they are read where they are.
        patience_s: how long a rank looks for the folder that rank 0 has made.
        before_renaming: called at each rank when its shard is durable; where it raises, the save fails.

    Returns:
        what it took; `size_bytes` is of the whole checkpoint.

    Raises:
        StorageError, UnsavableStateError, RankError: as `save_sharded`; at all ranks.
    """
    try:
        found = OfRank(_parts(prepared.tensors)) if prepared.has_statistics else None
        shard = _Shard(prepared, image, min(patience_s, ranks.timeout_s / 2), before_renaming, found)
        return _write(shard, ranks)
    except BaseException:
        prepared.plans.drop()
        raise


class _Shard(NamedTuple):
    """The shard of this rank; see `write`."""

    prepared: Prepared
    image: Image | None
    patience_s: float
    before_renaming: Callable[[], None]
    statistics: OfRank | None

    def write(self, folder: str, about: ShardAbout) -> Facts | None:
        """Writes it; None where there is nothing to write."""
        prepared, image = self.prepared, self.image
        commit.find(folder, prepared.path, self.patience_s)
        shard, facts = prepared.plan.shard, None
        if shard is not None:
            items = prepared.items
            data = live(prepared.tensors) if image is None else _copied(prepared, image.memory)
            known = image.sums if image else {}
            sums = {number: known[name] for number, name in enumerate(prepared.plan.tensors) if name in known}
            told = self.statistics.observers() if self.statistics else ()
            facts = commit.write_durably(
                folder,
                shard_name(about.rank),
                shard.size_bytes,
                lambda target: write_shard(target, items, data, about, told, sums).crc32,
                image.memory if image else None,
                published=prepared.path,
            )
        self.before_renaming()
        return facts


def _write(own: _Shard, ranks: Ranks) -> SaveReport:
    began = time.perf_counter()
    prepared = own.prepared
    path, plan = prepared.path, prepared.plan
    staged = Staged(path, ranks)
    try:
        folder, save_id = staged.begin(overwrite=prepared.overwrite)
        about = ShardAbout(save_id, ranks.rank)
        shard = together(ranks, lambda: own.write(folder, about))
        written = time.perf_counter()
        votes = ranks.gathered(_VOTE.pack(*shard[1:]) if shard else bytes(_VOTE.size), is_fixed=True)
        sharded = Sharded(save_id, ranks.world_size, prepared.mesh)
        manifest = replace(prepared.manifest, sharded=sharded)
        found = ranks.gathered(own.statistics.to_bytes()) if own.statistics else None

        def publish() -> None:
            if staged.main is not None:
                record = combined(plan.written, found) if plan.written and found else b""
                _publish(staged.main, plan, votes, manifest, own.patience_s, record)

        together(ranks, publish)
    finally:
        staged.discard()
    ended = time.perf_counter()
    return SaveReport(
        path=path,
        is_model=prepared.manifest.kind is Kind.MODEL,
        index=prepared.manifest.index,
        size_bytes=plan.size_bytes,
        stall_s=0.0,
        copy_s=0.0,
        write_s=written - began,
        sync_s=ended - written,
        metrics=dict(prepared.manifest.metrics),
    )


def live(tensors: Iterable[torch.Tensor]) -> Iterator[memoryview]:
    """The data of tensors, each in this process's memory while it is read."""
    for one in tensors:
        local = plain(one)
        yield memory(local.data_ptr(), local.nbytes)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank has of a tensor: contiguous, on the CPU, and no copy where it is that already."""
    local = local_of(tensor).detach().resolve_conj().resolve_neg()
    return local.cpu().contiguous()


def _copied(prepared: Prepared, image: memoryview) -> Iterator[memoryview]:
    shard = prepared.plan.shard
    places = shard.places[: len(prepared.tensors)] if shard else ()
    return (image[one.data_start : one.data_start + one.data_bytes] for one in places)


def _parts(tensors: Iterable[torch.Tensor]) -> Iterator[tuple[str, int]]:
    return ((str(one.dtype).removeprefix("torch."), local_of(one).nbytes) for one in tensors)


def _publish(  # noqa: PLR0913, PLR0917 - all that is known of the save
    staging: Staging,
    plan: Plan,
    votes: Iterable[bytes] | None,
    manifest: Manifest,
    patience_s: float,
    statistics: bytes,
) -> int:
    shards = [
        Facts(shard_name(rank), *_VOTE.unpack(vote))
        for rank, vote in enumerate(votes or ())
        if vote != bytes(_VOTE.size)
    ]
    return staging.publish(plan.metadata, shards, manifest, patience_s, statistics)
