"""Does what rank 0 of a large run does, by ours or by stock."""

from __future__ import annotations

import pickle
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from torch import Size, float32
from torch.distributed.checkpoint import default_planner, planner, planner_helpers
from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.storage import WriteResult

from marlin_ckpt.distributed.planning.assigning import assign
from marlin_ckpt.distributed.planning.describing import Entry, Own, Table
from marlin_ckpt.distributed.planning.laying_out import lay_out, shard_name
from marlin_ckpt.distributed.planning.metadata_bytes import to_pickle
from marlin_ckpt.distributed.reads.boxes import Box
from marlin_ckpt.distributed.reads.index import ColumnIndex
from marlin_ckpt.distributed.reads.tensors import pieces_of
from marlin_ckpt.formats.layouts.dcp.columns.reading import read_columns
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import Kind

_ROWS, _COLUMNS = 8192, 1024  # of each tensor, sharded by rows
_MIB = 1 << 20


def child(tell: Connection, kind: str, world: int, tensors: int) -> None:
    """Measures one kind, "ours" or "stock", and tells the figures."""
    names = [f"model.layers.{number}.feed_forward.w.weight" for number in range(tensors)]
    tell.send({"ours": _ours, "stock": _stock}[kind](world, names))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _since(before_mib: float) -> float:
    return max(_peak_mib() - before_mib, 0.1)  # the least that is shown


def _ours(world: int, names: list[str]) -> dict[str, float]:

    entries = tuple(Entry(name, "float32", (_ROWS, _COLUMNS)) for name in names)
    table, paths = Table(entries, frozenset(), {}), {name: tuple(name.split(".")) for name in names}
    rows = _ROWS // world
    sent = []
    for rank in range(world):
        chunks = np.zeros((len(names), 2, 3), np.int64)
        chunks[:, 0, 1], chunks[:, 1, 1], chunks[:, 1, 2] = rank * rows, rows, _COLUMNS
        sent.append(Own(chunks, [], {}, {}, {}).to_bytes())
    before = _peak_mib()

    def plan() -> bytes:
        planned = assign(table, [Own.from_bytes(one) for one in sent])
        return to_pickle(planned, lay_out(planned, planned.by_rank()), paths)

    plan_s, data = _timed(plan)
    memory_mib = _since(before)

    def later() -> bytes:
        records = [{"name": shard_name(rank), "size": 1 << 30, "crc32": rank} for rank in range(world)]
        return Manifest(
            kind=Kind.CHECKPOINT, index=1, created="", run_id="", save_number=1, records=records
        ).to_json()  # fmt: skip

    read_s, columns = _timed(lambda: read_columns(data))
    part = Box((rows, 0), (rows, _COLUMNS))

    def find() -> None:
        index = ColumnIndex(columns, "")
        for name in index.tensors:
            pieces_of(index, name, part, "")

    return {
        "plan_s": plan_s,
        "plans_mib": sum(map(len, sent)) / _MIB,
        "memory_mib": memory_mib,
        "later_s": _timed(later)[0],
        "read_s": read_s,
        "find_s": _timed(find)[0],
    }


def _stock(world: int, names: list[str]) -> dict[str, float]:

    whole, part = Size((_ROWS, _COLUMNS)), Size((_ROWS // world, _COLUMNS))
    paths = {name: tuple(name.split(".")) for name in names}

    def plan_of(rank: int) -> bytes:
        start = Size((rank * part[0], 0))
        items = [
            planner.WriteItem(
                MetadataIndex(name, start),
                planner.WriteItemType.SHARD,
                tensor_data=planner.TensorWriteData(
                    ChunkStorageMetadata(start, part), TensorProperties(float32), whole
                ),
            )
            for name in names
        ]
        return pickle.dumps(planner.SavePlan(items, planner_data=paths))

    def results_of(rank: int) -> bytes:
        start = Size((rank * part[0], 0))
        return pickle.dumps([
            WriteResult(MetadataIndex(name, start), number, _StorageInfo(f"__{rank}_0.distcp", number, 1))
            for number, name in enumerate(names)
        ])  # fmt: skip

    plans, results = [plan_of(rank) for rank in range(world)], [results_of(rank) for rank in range(world)]
    before = _peak_mib()

    def plan() -> bytes:
        every = dedup_save_plans([pickle.loads(one) for one in plans])
        decided, found = default_planner.create_default_global_save_plan(every)
        found.planner_data = paths
        assert default_planner._validate_global_plan(decided, found) == []  # noqa: SLF001 - as it does itself
        told = [pickle.dumps(one) for one in decided]
        written = [pickle.loads(one) for one in results]
        found.storage_data = {one.index: one.storage_data for each in written for one in each}
        del told
        return pickle.dumps(found)

    plan_s, data = _timed(plan)
    memory_mib = _since(before)
    read_s, metadata = _timed(lambda: pickle.loads(data))
    own = ChunkStorageMetadata(Size((part[0], 0)), part)

    def find() -> None:
        for name, one in metadata.state_dict_metadata.items():
            planner_helpers.create_read_items_for_chunk_list(name, one, [own])

    return {
        "plan_s": plan_s,
        "plans_mib": sum(map(len, plans)) / _MIB,
        "results_mib": sum(map(len, results)) / _MIB,
        "memory_mib": memory_mib,
        "read_s": read_s,
        "find_s": _timed(find)[0],
    }
