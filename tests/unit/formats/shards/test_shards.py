"""A shard is laid out as planned to the byte, and whatever reads files of torch reads its items."""

from __future__ import annotations

import io
import mmap
import subprocess
import sys
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.shards.items import BLOCK_BYTES, ShardAbout, TensorItem, ValueItem
from marlin_ckpt.formats.shards.planning import plan_shard
from marlin_ckpt.formats.shards.reader import read_shard
from marlin_ckpt.formats.shards.slots import padded, slot_bytes
from marlin_ckpt.formats.shards.writer import write_shard
from marlin_ckpt.formats.values.dtypes import DTYPES
from marlin_ckpt.formats.values.window import Window
from marlin_ckpt.formats.zip.directory import StructureError
from marlin_ckpt.formats.zip.reader import read_saved
from marlin_ckpt.formats.zip.records import read_records
from marlin_ckpt.formats.zip.state_dict import tensor_pickle
from tests.support.memory_store import MemorySource, MemoryTarget
from tests.support.shards import ABOUT, memory_of, saved, shard_of

_MAP_NORESERVE = 0x4000  # mmap(2)


_SIZES = st.one_of(st.integers(0, 70_000), st.just(BLOCK_BYTES + 5))


@pytest.mark.parametrize("alignment", [64, 4096, 65536])
@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(_SIZES, st.text(max_size=3000)), max_size=15))
def test_whatever_the_items_a_shard_is_laid_out_as_planned(alignment, kinds):
    items = [
        torch.arange(one, dtype=torch.int64).to(torch.uint8)
        if isinstance(one, int)
        else saved({"value": one})
        for one in kinds
    ]
    data, plan = shard_of(items, alignment=alignment)
    assert len(data) == plan.size_bytes
    shard = read_shard(MemorySource(data, ""))
    assert shard is not None
    assert shard.about == ABOUT
    planned = [(one.start, one.data_start, one.data_bytes) for one in plan.places]
    assert [one[:3] for one in shard.items.values()] == planned
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            *(f"archive/{one}" for one in range(len(items))),
            "archive/.marlin/shard",
        ]
        assert [len(archive.read(f"archive/{one}")) for one in range(len(items))] == [
            place.size_bytes for place in plan.places
        ]
    for one, place in zip(items, plan.places, strict=True):
        own = data[place.start : place.start + place.size_bytes]
        found = torch.load(io.BytesIO(own), weights_only=True)
        if isinstance(one, bytes):
            assert found == torch.load(io.BytesIO(one), weights_only=True)
        else:
            assert torch.equal(found, one)
            assert place.data_start % (alignment if one.nbytes >= BLOCK_BYTES else 64) == 0
            assert data[place.data_start :][: place.data_bytes] == memory_of(one)
        window = Window(MemorySource(data, ""), place.start, place.size_bytes)
        container = read_saved(window)
        read_records(window, container)
        assert container.repacked == ""


@pytest.mark.filterwarnings("ignore:ComplexHalf:UserWarning")
@pytest.mark.parametrize("dtype", [name for name, one in DTYPES.items() if not one.is_quantized])
def test_a_tensor_of_any_type_is_read_by_torch_as_it_was(dtype):
    if not hasattr(torch, dtype):
        pytest.skip("this torch has no such type")
    raw = torch.arange(48, dtype=torch.uint8)
    tensor = (raw % 2).bool() if dtype == "bool" else raw.view(getattr(torch, dtype))
    data, plan = shard_of([tensor.reshape(1, 3, -1)])
    (place,) = plan.places
    found = torch.load(io.BytesIO(data[place.start :][: place.size_bytes]), weights_only=True)
    assert (found.dtype, found.shape) == (tensor.dtype, (1, 3, tensor.numel() // 3))
    assert memory_of(found) == memory_of(tensor)
    assert not found.requires_grad


def test_a_type_that_makes_no_plain_tensor_is_refused():
    for dtype in ("qint8", "no_such_type"):
        with pytest.raises(UnsavableStateError, match=dtype):
            tensor_pickle(dtype, (1,))


def test_the_zip_of_python_finds_a_shard_whole(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(shard_of([torch.ones(300, 300), saved({"lr": 0.1})])[0])
    subprocess.run([sys.executable, "-m", "zipfile", "-t", tmp_path / "__0_0.distcp"], check=True)


def test_records_past_four_gibibytes_are_planned_as_they_are_laid_out():
    class Counting:
        """A target that counts, and forgets."""

        size_bytes = 0

        def put(self, data, on_stored=None, crc32=None, same=None):
            del on_stored, crc32, same
            self.size_bytes += len(data)
            return 0

    items = [TensorItem(b"pickle", one) for one in (5, 6 << 30, 1, 2 << 30, 1 << 32, 0)]
    chunk = memoryview(mmap.mmap(-1, 1 << 33, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE))
    target = Counting()
    sums = write_shard(target, items, (chunk[: one.size_bytes] for one in items), ABOUT)
    assert target.size_bytes == sums.size_bytes == plan_shard(items).size_bytes


def test_a_slot_fits_its_value_with_room_and_grows_by_steps():
    slots = [slot_bytes(size) for size in range(0, 5 << 20, 997)]
    assert slots == sorted(slots)
    assert {one for one in slots if one <= 1 << 20} == {1 << power for power in range(10, 21)}
    assert all(one % BLOCK_BYTES == 0 for one in slots if one > 1 << 20)
    assert [slot_bytes(one) for one in (1, 512, 513, 1536, 1537)] == [1024, 1024, 2048, 2048, 4096]


@pytest.mark.parametrize("value", [0, "a" * 200, ["a" * 40_000], {"a": b"x" * 1_500_000}])
def test_a_value_is_padded_to_any_larger_slot_and_read_as_it_was(value):
    data = saved(value)
    for slot in (slot_bytes(len(data)), 4 * slot_bytes(len(data))):
        found = padded(data, slot)
        assert len(found) == slot
        assert torch.load(io.BytesIO(found), weights_only=True) == value
        container = read_saved(MemorySource(found, ""))
        read_records(MemorySource(found, ""), container)
        assert container.repacked == ""
    with pytest.raises(ValueError, match="do not fit"):
        padded(data, len(data) + 100)


def test_a_value_that_is_no_file_of_torch_is_refused():
    with pytest.raises(StructureError):
        padded(b"no zip", 1024)


def test_a_slot_of_an_earlier_plan_keeps_all_places():
    small, large = (saved("x" * size) for size in (10, 9_000))
    grown = plan_shard([ValueItem(large), TensorItem(b"", 8)])
    assert plan_shard([ValueItem(small, slot_bytes(len(large))), TensorItem(b"", 8)]) == grown
    assert plan_shard([ValueItem(small), TensorItem(b"", 8)]) != grown


def test_data_of_another_length_than_its_item_is_refused():
    with pytest.raises(ValueError, match="item 0 has 7 bytes, not 8"):
        write_shard(MemoryTarget(), [TensorItem(b"", 8)], [memoryview(bytes(7))], ABOUT)


@pytest.mark.parametrize("save_id", ["", "x" * 65, "\n", "ä"])
def test_an_id_that_does_not_fit_is_refused(save_id):
    with pytest.raises(ValueError, match="no id of a save"):
        write_shard(MemoryTarget(), [], [], ShardAbout(save_id, 0))
