"""`.metadata` is read without running what it names, by rows or by columns, and made torch's own objects."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from marlin_ckpt.distributed.metadata import of_saved, to_bytes
from marlin_ckpt.distributed.planning.assigning import World, assign
from marlin_ckpt.distributed.planning.laying_out import lay_out
from marlin_ckpt.distributed.planning.metadata_bytes import to_pickle
from marlin_ckpt.distributed.reads.boxes import Box
from marlin_ckpt.distributed.reads.index import ColumnIndex, Index, PlainIndex
from marlin_ckpt.distributed.reads.tensors import pieces_of
from marlin_ckpt.errors import BadFileError, CorruptCheckpointError, UnsafeCheckpointError
from marlin_ckpt.formats.layouts.dcp import metadata
from marlin_ckpt.formats.layouts.dcp.columns.reading import read_columns
from marlin_ckpt.formats.layouts.dcp.saved import Saved, saved_in
from marlin_ckpt.formats.values.window import Memory
from tests.support.worlds import made


def _saved(data: bytes) -> Saved:
    return saved_in({".metadata": Memory("x", memoryview(data))}, "x")


def _example(**about) -> Metadata:
    zero, shape = torch.Size([0, 0]), torch.Size([2, 3])
    tensor = TensorStorageMetadata(
        TensorProperties(torch.bfloat16), shape, [ChunkStorageMetadata(zero, shape)]
    )
    places = {
        MetadataIndex("v"): filesystem._StorageInfo("__1_0.distcp", 0, 9),
        MetadataIndex("w", zero, 0): filesystem._StorageInfo("__0_0.distcp", 3, 4),
    }
    paths = {"w": ("w",), "v": ("v", 3)}
    return Metadata({"w": tensor, "v": BytesStorageMetadata()}, paths, places, version="1.0.0", **about)


def _world(seed: int, world_size: int, tensors: int) -> tuple[bytes, World]:
    have = made(seed, world_size, tensors)
    world = assign(have.table, have.ranks)
    if world.entries:
        world = world._replace(ties={"tied é": world.entries[seed % len(world.entries)].name})
    names = [*(one.name for one in world.entries), *world.values, *world.ties]
    paths = {name: (*name.split("."), 3) for name in names}
    return to_pickle(world, lay_out(world, world.by_rank()), paths), world


def test_metadata_of_torchs_own_pickler_comes_back_as_it_was():
    assert of_saved(_saved(to_bytes(_example())), "x") == _example()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 12))
def test_what_is_read_by_columns_is_what_torch_unpickles_and_what_is_read_by_rows(seed, world_size, tensors):
    data, _ = _world(seed, world_size, tensors)
    torchs = pickle.loads(data)
    columns = read_columns(data)
    assert columns is not None

    by_columns = _saved(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "read_columns", lambda _: None)
        by_rows = _saved(data)

    for field in Saved._fields[:-2]:
        assert getattr(by_columns, field) == getattr(by_rows, field)
    found = of_saved(by_columns, "x")
    assert found == torchs
    assert list(found.state_dict_metadata) == list(torchs.state_dict_metadata)
    _check_index(ColumnIndex(columns, "x"), PlainIndex(by_rows, "x"), seed)


def _check_index(own: Index, other: Index, seed: int) -> None:
    """Whether two indexes say the same of all, and of a part of each tensor."""
    assert (own.paths, {*own.tensors}, {*own.values}) == (other.paths, {*other.tensors}, {*other.values})
    files = set()
    for name in own.values:
        assert own.item(name) == other.item(name)
        files.add(own.item(name).place.file)
    chance = np.random.default_rng(seed)
    for name in own.tensors:
        shape = own.shape(name)
        assert (own.dtype(name), shape, [*own.chunks(name)]) == (
            other.dtype(name), other.shape(name), [*other.chunks(name)]
        )  # fmt: skip
        start = tuple(int(chance.integers(0, size + 1)) for size in shape)
        part = Box(start, tuple(size - at for size, at in zip(shape, start, strict=True)))
        pieces = pieces_of(own, name, part, "x")
        assert sorted(pieces) == sorted(pieces_of(other, name, part, "x"))
        files |= {item.place.file for item, _ in pieces}
    for file in files | {"none"}:
        assert {*own.names_in(file)} == {*other.names_in(file)}


def test_metadata_larger_than_any_pickle_that_is_read_by_rows_is_read_by_columns(monkeypatch):
    data, _ = _world(3, 4, 9)
    monkeypatch.setattr(metadata, "LARGEST_PICKLE", len(data) - 1)
    assert _saved(data).items
    with pytest.raises(UnsafeCheckpointError, match="too large"):
        _saved(data[:-1] + b"0")  # another form
    monkeypatch.setattr(metadata, "LARGEST_OF_COLUMNS", len(data) - 1)
    with pytest.raises(UnsafeCheckpointError, match="too large"):
        _saved(data)


class _Calls:
    def __init__(self, *what) -> None:
        self.what = what

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize(
    "what", [(print, ("x",)), (eval, ("1",)), (torch.load, ("x",)), (getattr, (torch.Size, "mro"))]
)
def test_what_no_metadata_names_is_refused(what):
    for whole in (_Calls(*what), _example(storage_meta=_Calls(*what))):
        with pytest.raises(UnsafeCheckpointError):
            _saved(pickle.dumps(whole))


def test_what_is_kept_under_a_huge_number_takes_no_memory():
    data = pickle.dumps(_example(), protocol=2)
    kept = pickle.NONE + pickle.LONG_BINPUT + b"\xff" * 4 + pickle.POP  # torch's own reader would take 64 GB

    assert of_saved(_saved(data[:2] + kept + data[2:]), "x") == _example()


@pytest.mark.parametrize("data", [b"", b"\x80\x02N.", b"garbage", pickle.dumps(Metadata({}))])
def test_what_is_no_metadata_is_a_bad_file(data):
    with pytest.raises(BadFileError):
        _saved(data)


@pytest.mark.parametrize("form", ["rows", "columns"])
def test_damage_is_a_bad_file_or_reads(form):
    whole = to_bytes(_example()) if form == "rows" else _world(5, 2, 3)[0]
    for at in range(0, len(whole), 1 if form == "rows" else 3):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            try:
                of_saved(_saved(data), "x")
                if columns := read_columns(data):
                    _use(ColumnIndex(columns, "x"))
            except BadFileError:
                continue


def _use(index: ColumnIndex) -> None:
    for name in index.tensors:
        shape = index.shape(name)
        pieces_of(index, name, Box((0,) * len(shape), shape), "x")


def test_a_type_that_torch_does_not_know_is_damage():
    saved = _saved(to_bytes(_example()))
    saved.tensors["w"] = saved.tensors["w"]._replace(dtype="float3")
    with pytest.raises(CorruptCheckpointError, match="tensor w is of the unknown type float3"):
        of_saved(saved, "x")
