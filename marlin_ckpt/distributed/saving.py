"""Saves a state of many ranks as one sharded checkpoint, whole at all of them or not at all.

`prepare` plans, on the thread that trains; `write` may run on any other, over ranks of its own, from the live
tensors or from an image of the shard that they were copied to.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from marlin_ckpt.distributed import commit
from marlin_ckpt.distributed.commit import Staged, Staging
from marlin_ckpt.distributed.failures import together
from marlin_ckpt.distributed.flat import flatten
from marlin_ckpt.distributed.planning.describing import mesh_of
from marlin_ckpt.distributed.planning.laying_out import shard_name
from marlin_ckpt.distributed.planning.plans import Plan, SavePlans
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.shards.durable import Facts
from marlin_ckpt.distributed.shards.shard import Image, Prepared, Shard, Sharing, parts
from marlin_ckpt.distributed.shards.statistics import OfRank, combined
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.manifest import Manifest, Sharded
from marlin_ckpt.formats.shards.items import ShardAbout
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.naming import Kind
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.storage.local.files import absolute

_VOTE = struct.Struct("<QI")  # the length and the CRC32 of a rank's shard; the length is 0 where it has none


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
    alignment: int = ALIGNMENT,
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
        alignment: as for `plan_shard`; that of rank 0 counts.

    Raises:
        UnsavableStateError, RankError: as `save_sharded`.
    """
    if writing is not None and writing is not ranks and ranks.most(writing.is_broken)[0]:
        plans.drop()
        writing.renew()
    flat, plan, files = plans.plan(lambda: flatten(convert(state)), ranks, alignment)
    tensors = tuple(flat.tensors[name] for name in plan.tensors)
    mesh = mesh_of(flat.tensors.values()) if ranks.is_main else None
    return Prepared(absolute(path), plan, files, tensors, mesh, manifest, overwrite, plans, has_statistics)


def write(  # noqa: PLR0913, PLR0917 - those of a copy
    prepared: Prepared,
    ranks: Ranks,
    image: Image | None = None,
    patience_s: float = commit.PATIENCE_S,
    before_renaming: Callable[[], None] = lambda: None,
    sharing: Sharing | None = None,
) -> SaveReport:
    """Writes what was prepared; all ranks call it.

    Args:
        prepared: by `prepare`.
        ranks: over which nothing else happens meanwhile.
        image: a copy of the tensors; None: they are read where they are.
        patience_s: how long a rank looks for the folder that rank 0 has made.
        before_renaming: called at each rank when its shard is durable; where it raises, the save fails.
        sharing: how the shard of this rank shares bytes with earlier ones; None: not at all.

    Returns:
        what it took; `size_bytes` is of the whole checkpoint.

    Raises:
        StorageError, UnsavableStateError, RankError: as `save_sharded`; at all ranks.
    """
    try:
        found = OfRank(parts(prepared.tensors)) if prepared.has_statistics else None
        patience_s = min(patience_s, ranks.timeout_s / 2)
        return _write(Shard(prepared, image, patience_s, before_renaming, found, sharing), ranks)
    except BaseException:
        prepared.plans.drop()
        raise


def _write(own: Shard, ranks: Ranks) -> SaveReport:
    began = time.perf_counter()
    prepared = own.prepared
    path, plan, sharing = prepared.path, prepared.plan, own.may_share
    staged = Staged(path, ranks)
    try:
        more = sharing.staying if sharing else lambda: None
        folder, save_id, staying = staged.begin(overwrite=prepared.overwrite, more=more)
        about = ShardAbout(save_id, ranks.rank)
        shard = together(ranks, lambda: own.write(folder, about, staying))
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
    if sharing is not None:
        sharing.is_durable()
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
