"""MarlinWriter: what torch's own `dcp.save` writes by, so that a checkpoint appears whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from marlin_ckpt.checkpoint import checked_index, plain_metrics
from marlin_ckpt.directory import leftovers
from marlin_ckpt.distributed import commit
from marlin_ckpt.distributed.commit import Staging
from marlin_ckpt.distributed.metadata import to_bytes
from marlin_ckpt.distributed.planning.laying_out import shard_name
from marlin_ckpt.distributed.shards.durable import Facts, write_durably
from marlin_ckpt.distributed.shards.shard import live
from marlin_ckpt.errors import ArgumentsError, Fault, UnsavableStateError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.manifest import Manifest, Sharded
from marlin_ckpt.formats.shards.items import Item, ShardAbout, TensorItem, ValueItem
from marlin_ckpt.formats.shards.planning import plan_shard
from marlin_ckpt.formats.shards.writer import write_shard
from marlin_ckpt.formats.times import now
from marlin_ckpt.formats.torch.memory import is_freed
from marlin_ckpt.formats.torch.unpicklable import FREED, FREED_HINT
from marlin_ckpt.formats.torch.versions import versions
from marlin_ckpt.formats.zip.state_dict import tensor_pickle
from marlin_ckpt.naming import Kind, folder_name
from marlin_ckpt.storage.local.files import absolute


class _Told(NamedTuple):
    """What rank 0 tells a rank with its plan: the name of the temporary folder, and which shard is its."""

    folder: str
    about: ShardAbout


@dataclass(frozen=True)
class _Result(WriteResult):
    """What was written of an item; of a rank's first one, also what was written of its file."""

    shard: Facts | None = None


class MarlinWriter(StorageWriter):
    """Writes a checkpoint of `torch.distributed.checkpoint` as one folder that appears whole, or not at all.

    `dcp.save(state, storage_writer=MarlinWriter(path))`, and `dcp.async_save`, with any planner but one that
    caches plans. Each rank writes one file; all of it is durable before the folder gets its name, and an old
    folder that has it stands until then. The manifest in it has the checksums by which `marlin-ckpt verify`,
    `MarlinReader` and `marlin_ckpt.load` find damage. `dcp.load` without a reader of ours reads it, too.

    Where a save fails, `dcp.save` raises a CheckpointException, which is a BaseException, at all ranks, and
    the rank that cannot write removes the temporary folder. Where a rank was killed, this goes with rank 0's
    writer, or with its next save, or with the next save of another process in the directory.
    """

    def __init__(  # noqa: PLR0913 - keywords
        self,
        path: PathText,
        *,
        index: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        run_id: str = "",
        overwrite: bool = True,
        patience_s: float = commit.PATIENCE_S,
    ) -> None:
        """Nothing is written before `dcp.save`.

        Args:
            path: of the folder, in a directory that all ranks share; `{prefix}_{index}.dcp` is found by
                discovery and retention. The directory is made if it is missing.
            index: the epoch or step, for the manifest; by default that in the name, or 0.
            metrics: names and numbers, for the manifest; those of rank 0 count.
            run_id: of the run, for the manifest; by default a new one for each writer.
            overwrite: whether a folder that has the name is replaced; else it is an error.
            patience_s: how many seconds a rank looks for the folder that rank 0 has made, which a network
                file system may show late.

        Raises:
            ArgumentsError: the index or a metric is no number.
            StorageError: the path is relative, and there is no working directory any more.
        """
        super().__init__()
        self._path = absolute(path)
        self._index = None if index is None else checked_index(index)
        self._metrics = plain_metrics(metrics)
        self._run_id = run_id or secrets.token_hex(6)
        self._overwrite = overwrite
        self._patience_s = patience_s
        self._saves = 0
        self._staging: Staging | None = None

    @property
    def checkpoint_id(self) -> str:
        """The path of the folder."""
        return self._path

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: PathText) -> bool:
        """Whether a path can be written to, as torch asks; one that cannot is an error of the save."""
        del checkpoint_id
        return True

    def reset(self, checkpoint_id: PathText | None = None) -> None:
        """Begins another save, under another path if one is given."""
        self._discard()
        if checkpoint_id:
            self._path = absolute(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Checks how it is used.

        Raises:
            ArgumentsError: without collectives nobody could publish what all have written.
        """
        del is_coordinator, args
        if kwargs.get("use_collectives") is False:
            raise ArgumentsError([Fault("use_collectives", "expected True: all ranks publish one folder")])

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Leaves the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Makes the temporary folder, at rank 0; its name goes to the others with their plans.

        Raises:
            ArgumentsError: the planner caches plans, with which no name could go.
            StorageError: the folder cannot be made, or a folder has the name and is not to be replaced.
        """
        if not all(one.usable for one in plans):
            fault = "expected a planner without enable_plan_caching; marlin_ckpt.save keeps plans itself"
            raise ArgumentsError([Fault("planner", fault)])
        self._discard()
        leftovers.sweep_beside(self._path)
        self._staging = Staging(self._path, overwrite=self._overwrite)
        name, save_id = os.path.basename(self._staging.folder), self._staging.save_id
        return [
            replace(one, storage_data=_Told(name, ShardAbout(save_id, rank)))
            for rank, one in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes the shard of this rank, durably.

        Raises:
            StorageError: this rank cannot write, or does not see the folder that rank 0 has made.
            UnsavableStateError: a tensor is sparse, quantized or the like, or a value is no file of torch's.
        """
        told: _Told = plan.storage_data
        folder = os.path.join(os.path.dirname(self._path), told.folder)
        done: Future[list[WriteResult]] = Future()
        try:
            commit.find(folder, self._path, self._patience_s)
            done.set_result(self._written(folder, told.about, plan, planner))
        except BaseException:
            commit.abandon(folder)  # nobody calls anything of the writers, at any rank, once one has failed
            raise
        return done

    def _written(
        self, folder: str, about: ShardAbout, plan: SavePlan, planner: SavePlanner
    ) -> list[WriteResult]:
        indexes = []
        items: list[Item] = []
        tensors: list[torch.Tensor] = []
        for one in sorted(plan.items, key=lambda item: item.type is WriteItemType.BYTE_IO):
            data = planner.resolve_data(one)
            indexes.append(one.index)
            if isinstance(data, torch.Tensor):
                tensors.append(data)
                items.append(_item(one.index.fqn, data))
            else:
                items.append(ValueItem(data.getvalue()))
        if not items:
            return []
        shard = plan_shard(items)
        facts = write_durably(
            folder,
            shard_name(about.rank),
            shard.size_bytes,
            lambda target: write_shard(target, items, live(tensors), about).crc32,
            published=self._path,
        )
        first, *others = [
            _Result(index, one.size_bytes, _StorageInfo(facts.name, one.start, one.size_bytes))
            for index, one in zip(indexes, shard.places, strict=True)
        ]
        return [replace(first, shard=facts), *others]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Publishes the folder, at rank 0.

        Raises:
            StorageError: it cannot be published; what had the name stands.
        """
        staging = self._staging
        if staging is None:
            raise ArgumentsError([Fault("finish", "expected a save that has begun")])
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = {one.index: one.storage_data for each in results for one in each}
        shards = [each[0].shard for each in results if each and isinstance(each[0], _Result)]
        self._saves += 1
        parsed = folder_name(os.path.basename(self._path))
        manifest = Manifest(
            kind=Kind.CHECKPOINT,
            index=self._index if self._index is not None else parsed.index if parsed else 0,
            created=now(),
            run_id=self._run_id,
            save_number=self._saves,
            metrics=self._metrics,
            versions=versions(),
            sharded=Sharded(staging.save_id, len(results)),
        )
        try:
            written = [one for one in shards if one is not None]
            staging.publish(to_bytes(metadata), written, manifest, self._patience_s)
        finally:
            self._discard()

    def _discard(self) -> None:
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.discard()

    def __del__(self) -> None:
        """Removes what a failed save has left."""
        with contextlib.suppress(Exception):  # the interpreter may be shutting down
            self._discard()


def _item(name: str, tensor: torch.Tensor) -> TensorItem:
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise UnsavableStateError(f"{name} is a tensor of layout {tensor.layout}, which has no plain data")
    if is_freed(tensor):
        raise UnsavableStateError(f"{name}: {FREED}", "", FREED_HINT)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorItem(tensor_pickle(dtype, tuple(tensor.shape)), tensor.nbytes)
