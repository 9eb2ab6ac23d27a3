"""Reads sharded checkpoints for `torch.distributed.checkpoint.load`: checked, and nothing in them is run."""

import contextlib
import io
import os
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.reads.boxes import Box
from marlin_ckpt.distributed.reads.folder import Sharded, opened
from marlin_ckpt.distributed.reads.tensors import Wanted, read_tensors, values_of
from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.fields import PathText


class MarlinReader(StorageReader):
    """Reads what `MarlinWriter` or stock DCP wrote: `dcp.load(state, storage_reader=MarlinReader(path))`.

    Every checksum of what is read is compared in the same pass, of our own checkpoints that of each MiB that
    is needed. Values are unpickled as `weights_only` does; then the planner gets them packed anew, so that
    what it unpickles freely was written here.

    Each rank reads the metadata by itself, as stock readers do; `marlin_ckpt.load` reads it once for all.
    """

    def __init__(self, path: PathText, *, weights_only: bool = True) -> None:
        """Takes the path of the folder.

        Args:
            path: of the folder.
            weights_only: import nothing beyond plain values and tensors; else values may run any code.
        """
        super().__init__()
        self._path = os.fspath(path)
        self._weights_only = weights_only
        self._stack = contextlib.ExitStack()
        self._sharded: Sharded | None = None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begins another load, of another path where one is given."""
        self._close()
        if checkpoint_id:
            self._path = os.fspath(checkpoint_id)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Reads and checks what the folder says of itself.

        Raises:
            CheckpointNotFoundError: there is no such folder.
            BadFileError: it is no sharded checkpoint, is damaged, or names what no metadata has.
            StorageError: it cannot be read.
        """
        del args, kwargs
        self._close()
        self._sharded = self._stack.enter_context(opened(self._path, Ranks.alone()))
        found = self._sharded.torch_metadata()
        if found.storage_meta is None:
            found.storage_meta = StorageMeta()
        found.storage_meta.checkpoint_id = self._path
        return found

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Opens the folder where this rank has not read its metadata itself."""
        del metadata, is_coordinator, args, kwargs
        if self._sharded is None:
            self._sharded = self._stack.enter_context(opened(self._path, Ranks.alone()))

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Leaves the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Leaves the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads what is planned, straight into the tensors of the planner.

        Raises:
            CorruptCheckpointError: bytes are missing or changed; it names the tensor.
            UnsafeCheckpointError: a value needs more than `weights_only` allows; nothing of it was executed.
            BadFileError, StorageError: as `marlin_ckpt.load` raises them.
        """
        sharded = self._sharded
        if sharded is None:
            raise CorruptCheckpointError("nothing was read of its metadata", self._path)
        try:
            values = [one for one in plan.items if one.type == LoadItemType.BYTE_IO]
            names = dict.fromkeys(one.storage_index.fqn for one in values)
            found = values_of(sharded, names, weights_only=self._weights_only)
            for item in values:
                planner.load_bytes(item, _packed(found[item.storage_index.fqn]))
            tensors = [one for one in plan.items if one.type != LoadItemType.BYTE_IO]
            targets = [(one, planner.resolve_tensor(one).detach()) for one in tensors]
            read_tensors(sharded, (_wanted(one, target) for one, target in targets))
            for one, target in targets:
                planner.commit_tensor(one, target)
        finally:
            self._close()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _close(self) -> None:
        self._sharded = None
        self._stack.close()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it can be the path of a folder."""
        return "://" not in os.fspath(checkpoint_id)


def _packed(value: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def _wanted(item: ReadItem, target: torch.Tensor) -> Wanted:
    offset = item.storage_index.offset or (0,) * len(item.lengths)
    start = tuple(at + more for at, more in zip(offset, item.storage_offsets, strict=True))
    return Wanted(item.storage_index.fqn, Box(start, tuple(item.lengths)), target)
