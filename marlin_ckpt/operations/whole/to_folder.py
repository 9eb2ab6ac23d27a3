"""Writes the state of a file as a sharded checkpoint of one shard, tensor by tensor."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib

from marlin_ckpt.directory import leftovers
from marlin_ckpt.errors import NotACheckpointError, UnsavableStateError
from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.content.contents import Contents
from marlin_ckpt.formats.layouts.dcp.pieces import Chunk, Described, Place
from marlin_ckpt.formats.layouts.dcp.saved import METADATA
from marlin_ckpt.formats.layouts.dcp.writing import metadata_bytes
from marlin_ckpt.formats.manifest import Manifest, Sharded
from marlin_ckpt.formats.pickle.stubs import Stub
from marlin_ckpt.formats.pickle.views import view_of
from marlin_ckpt.formats.shards.items import Item, ShardAbout, ShardSums, TensorItem, ValueItem
from marlin_ckpt.formats.shards.nesting import KINDS, Flattening, Path
from marlin_ckpt.formats.shards.planning import plan_shard
from marlin_ckpt.formats.shards.writer import write_shard
from marlin_ckpt.formats.statistics import NAME as STATISTICS
from marlin_ckpt.formats.values.checked import CheckedFile
from marlin_ckpt.formats.values.dtypes import DTYPES
from marlin_ckpt.formats.values.tensor import TensorInfo
from marlin_ckpt.formats.zip.records import read_record
from marlin_ckpt.formats.zip.state_dict import tensor_pickle
from marlin_ckpt.formats.zip.writer import BYTEORDER, write_state
from marlin_ckpt.naming import MANIFEST, SHARDED
from marlin_ckpt.operations.whole.stubs import opened, pickled, storages_in
from marlin_ckpt.storage.local import publishing, staging
from marlin_ckpt.storage.memory import MemoryTarget
from marlin_ckpt.storage.source import Source
from marlin_ckpt.storage.target import Target

SHARD = "__0_0.distcp"


class Flat(NamedTuple):
    """The state of a file by flat names.

    Attributes:
        tensors: by their names, ties included.
        ties: names of tensors that are those of earlier names.
        values: the files of all else.
        paths: what leads to each.
    """

    tensors: dict[str, TensorInfo]
    ties: dict[str, str]
    values: dict[str, bytes]
    paths: dict[str, Path]


def flat_of(source: Source, contents: Contents) -> Flat:
    """Gives each part of a file's state its flat name.

    Raises:
        NotACheckpointError: it is no zip of torch's kind.
        UnsavableStateError: its state is no dict, or nested too deeply.
        BadFileError, StorageError: a value cannot be read.
    """
    if contents.container is None or contents.is_torch_script:
        what = "only files that torch.save and marlin-ckpt write are converted whole"
        raise NotACheckpointError(what, contents.path, "export without --state writes its weights")
    size = contents.container.by_label["data.pkl"].size
    budget = Budget(lambda: size, contents.path)
    found = _Flattening(contents, budget)
    try:
        state = opened(contents.root.origin, budget)
        if isinstance(state, dict):
            found.walk((), state)
    except RecursionError as error:
        raise UnsavableStateError("the state is nested too deeply to be saved", contents.path) from error
    if not isinstance(state, dict):
        hint = "save a dict, or a Checkpoint by `marlin_ckpt.save`"
        raise UnsavableStateError(
            "the state is no dict, and has no names to shard it by", contents.path, hint
        )
    tensors = {name: found.known[id(stub)] for name, stub in found.tensors.items()}
    values = {**found.values, **({KINDS: found.kinds} if found.kinds else {})}
    files = {name: _file(source, contents, value, budget) for name, value in values.items()}
    paths = {**found.paths, **({KINDS: (KINDS,)} if found.kinds else {})}
    return Flat(tensors, _ties(tensors), files, paths)


class _Flattening(Flattening):
    def __init__(self, contents: Contents, budget: Budget) -> None:
        super().__init__()
        self._budget = budget
        self.known = {id(stub): tensor for stub, tensor in _tensors(contents)}

    def walk(self, path: Path, value: Any) -> None:
        """Adds what is at a path, within the budget: what is shared is walked wherever it is."""
        self._budget.count_nodes(1)
        super().walk(path, value)

    def is_tensor(self, value: Any) -> bool:
        return type(value) is Stub and id(value) in self.known

    def is_plain(self, tensor: Any) -> bool:
        known, view = DTYPES.get(self.known[id(tensor)].dtype), view_of(tensor)
        return known is not None and not known.is_quantized and view is not None and not any(view.others)


def _tensors(contents: Contents) -> Iterator[tuple[Stub, TensorInfo]]:
    pending = [contents.root]
    while pending:
        node = pending.pop()
        if node.tensor is not None and type(node.origin) is Stub and not node.tensor.is_array:
            yield node.origin, node.tensor
        pending.extend(node.children)


def _ties(tensors: dict[str, TensorInfo]) -> dict[str, str]:
    first: dict[tuple[Any, ...], str] = {}
    ties = {}
    for name, one in tensors.items():
        view = (one.storage, one.offset, one.shape, one.stride, one.dtype)
        if one.numel and first.setdefault(view, name) != name:
            ties[name] = first[view]
    return ties


def _file(source: Source, contents: Contents, value: Any, budget: Budget) -> bytes:
    """A value as a complete file, with the storages that are in it."""
    container = contents.container
    keys = dict.fromkeys(one.key for one in storages_in(value, budget))
    data: list[tuple[str, bytes]] = []
    if container is not None:
        records = container.by_label
        data = [
            (f"data/{key}", read_record(source, container, records[f"data/{key}"]))
            for key in keys
            if f"data/{key}" in records
        ]
    target = MemoryTarget()
    write_state(target, pickled(value), BYTEORDER, data, None)
    return target.content()


def write_folder(  # noqa: PLR0913 - keywords
    file: CheckedFile,
    flat: Flat,
    manifest: Manifest,
    path: str,
    *,
    overwrite: bool,
    statistics: bytes = b"",
) -> int:
    """Writes a sharded checkpoint, whole and durable, or not at all; one tensor at a time is in memory.

    Args:
        file: that the tensors are read from.
        flat: its state.
        manifest: without its records.
        path: of the folder.
        overwrite: whether a folder that has the name is replaced.
        statistics: the record of those that were saved with the file.

    Returns:
        how many bytes the elements of its tensors take.

    Raises:
        UnsavableStateError: a dtype makes no plain tensor.
        BadFileError, StorageError: a tensor cannot be read, or the folder not be written.
    """
    written = {name: one for name, one in flat.tensors.items() if name not in flat.ties}
    items: list[Item] = [
        TensorItem(tensor_pickle(one.dtype, one.shape), _size(one)) for one in written.values()
    ]
    items += [ValueItem(data) for data in flat.values.values()]
    plan = plan_shard(items)
    at = {
        name: Place(SHARD, one.start, one.size_bytes)
        for name, one in zip([*written, *flat.values], plan.places, strict=True)
    }
    described = {
        name: Described(one.dtype, one.shape, (Chunk((0,) * len(one.shape), one.shape),))
        for name, one in flat.tensors.items()
    }
    pieces = {(name, one.chunks[0].offsets): at[flat.ties.get(name, name)] for name, one in described.items()}
    metadata = metadata_bytes(described, {name: at[name] for name in flat.values}, pieces, flat.paths)
    save_id = secrets.token_hex(8)
    sums: list[ShardSums] = []

    def fill(target: Target) -> None:
        data = (file.bits(one).view(np.uint8).data for one in written.values())
        sums.append(write_shard(target, items, data, ShardAbout(save_id, 0)))

    leftovers.sweep_beside(path)
    publishing.make_directory(os.path.dirname(os.path.abspath(path)))
    with staging.new_folder(path, overwrite=overwrite) as folder:
        publishing.publish(os.path.join(folder, SHARD), fill, plan.size_bytes)
        publishing.make_directory(os.path.dirname(os.path.join(folder, MANIFEST)))
        records = [{"name": SHARD, "size": sums[0].size_bytes, "crc32": sums[0].crc32}]
        for name, data in ((METADATA, metadata), (STATISTICS, statistics)):
            if data:
                _put(os.path.join(folder, name), data)
                records.append({"name": name, "size": len(data), "crc32": isal_zlib.crc32(data)})
        own = replace(manifest, layout=SHARDED, sharded=Sharded(save_id, 1), records=records)
        _put(os.path.join(folder, MANIFEST), own.to_json())
    return sum(map(_size, written.values()))


def _size(one: TensorInfo) -> int:
    return one.numel * one.item_bytes


def _put(path: str, data: bytes) -> None:
    def fill(target: Target) -> None:
        target.put(data)

    publishing.publish(path, fill, len(data))
