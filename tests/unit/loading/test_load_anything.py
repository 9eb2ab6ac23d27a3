"""`load`: any file, as `torch.load` or safetensors would return it, with every checksum compared."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from safetensors import safe_open

import marlin_ckpt
from marlin_ckpt import (
    ArgumentsError,
    CorruptCheckpointError,
    StorageError,
    UnloadableStateError,
    UnsafeCheckpointError,
)
from marlin_ckpt.formats.values.dtypes import DTYPES
from tests.support.descriptions import describe
from tests.support.equality import is_same
from tests.support.states import states

STATE = {"model": {"weight": torch.arange(6.0).view(2, 3)}, "epoch": 3, "curve": [1.5, None, "text"]}
DTYPES_OF_SAFETENSORS = [name for name, one in DTYPES.items() if one.safetensors]


def damaged(path: Path) -> Path:
    """Changes one bit in the middle of a tensor of ones."""
    data = bytearray(path.read_bytes())
    data[data.index(b"\x00\x00\x80\x3f" * 50) + 100] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "map_location", ["cpu", torch.device("cpu"), None, {"cpu": "cpu"}, lambda one, _: one]
)
def test_a_file_comes_back_as_torch_loads_it(tmp_path, is_zip, map_location):
    path = tmp_path / "any.name"
    torch.save(STATE, path, _use_new_zipfile_serialization=is_zip)
    loaded = marlin_ckpt.load(path, map_location=map_location)
    assert is_same(loaded, torch.load(path, map_location=map_location))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("save", [torch.save, marlin_ckpt.save], ids=["torch.save", "save"])
def test_any_state_comes_back_as_torch_brings_it_back(cases, directory, save):
    path, theirs = Path(directory, "state.pt"), Path(directory, "theirs.pt")

    @settings(max_examples=cases(50, 3000))
    @given(state=states())
    def check(state) -> None:
        try:
            torch.save(state, theirs)
        except Exception:  # noqa: BLE001 - a __reduce__ raises what it likes
            return
        save(state, path)
        for weights_only in (True, False):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    expected = describe(torch.load(theirs, map_location="cpu", weights_only=weights_only))
            except Exception:  # noqa: BLE001 - whatever torch raises for its own file
                with pytest.raises(marlin_ckpt.MarlinError):
                    marlin_ckpt.load(path, weights_only=weights_only)
            else:
                assert describe(marlin_ckpt.load(path, weights_only=weights_only)) == expected

    check()


@pytest.mark.parametrize("map_location", ["cpu", None, "meta"])
def test_a_changed_bit_is_found_wherever_the_tensors_go(tmp_path, map_location):
    torch.save({"weight": torch.ones(100)}, tmp_path / "a.pt")
    with pytest.raises(CorruptCheckpointError, match="CRC"):
        marlin_ckpt.load(damaged(tmp_path / "a.pt"), map_location=map_location)


def test_what_is_unsafe_is_refused_and_loads_when_it_is_trusted(tmp_path):
    torch.save(Path("a"), tmp_path / "a.pt")
    with pytest.raises(UnsafeCheckpointError, match=r"pathlib"):
        marlin_ckpt.load(tmp_path / "a.pt")
    assert marlin_ckpt.load(tmp_path / "a.pt", weights_only=False) == Path("a")


def _saved(directory: Path, form: str) -> Path:
    path, state = directory / f"a.{form}", {"weight": torch.ones(2, 3)}
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "pt")
    return path


@pytest.mark.parametrize("form", ["pt", "legacy", "safetensors"])
@pytest.mark.parametrize("place", ["meta", torch.device("meta"), {"cpu": "meta"}])
def test_tensors_go_where_map_location_says(tmp_path, form, place):
    path = _saved(tmp_path, form)
    loaded = marlin_ckpt.load(path, map_location=place)["weight"]
    assert (loaded.device.type, loaded.shape) == ("meta", (2, 3))


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_a_function_places_storages_and_is_given_where_they_were(tmp_path, form):
    path, given_to, state = tmp_path / f"a.{form}", [], {"weight": torch.arange(6.0).view(2, 3)}
    safetensors.torch.save_file(state, path) if form == "safetensors" else torch.save(state, path)

    def place(storage, location):
        given_to.append((type(storage), location))
        return storage.clone()

    assert is_same(marlin_ckpt.load(path, map_location=place), state)
    assert given_to == [(torch.UntypedStorage, "cpu")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
@pytest.mark.parametrize("form", ["pt", "legacy", "safetensors"])
def test_a_device_that_is_not_there_is_not_called_damage(tmp_path, form):
    path = _saved(tmp_path, form)
    with pytest.raises(UnloadableStateError, match="cannot be placed") as caught:
        marlin_ckpt.load(path, map_location="cuda")
    assert 'map_location="cpu"' in caught.value.hint


@pytest.mark.parametrize("form", ["pt", "legacy", "safetensors"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),  # of the driver, when it begins to use a full card
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_lack_of_memory_is_told_as_one_wherever_the_tensors_go(tmp_path, form, error):
    path = _saved(tmp_path, form)

    def place(_storage, _location):
        raise error

    with pytest.raises(StorageError, match="not enough memory") as caught:
        marlin_ckpt.load(path, map_location=place)
    assert caught.value.errno == errno.ENOMEM
    assert caught.value.hint == 'map_location="cpu" loads it into main memory'


@pytest.mark.parametrize("place", ["nowhere", 2.5])
def test_a_map_location_that_is_none_is_an_error_of_the_argument(tmp_path, place):
    with pytest.raises(ArgumentsError, match="map_location: expected a device"):
        marlin_ckpt.load(tmp_path / "a.pt", map_location=place)


@pytest.mark.parametrize("dtype", DTYPES_OF_SAFETENSORS)
def test_a_safetensors_file_comes_back_as_its_library_loads_it(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    some = torch.arange(48, dtype=torch.uint8).view(getattr(torch, dtype)).view(2, -1)
    empty = torch.empty((3, 0), dtype=some.dtype)
    safetensors.torch.save_file({"some": some, "empty": empty}, path, {"note": "no part of the value"})
    with safe_open(path, "pt") as file:
        expected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    loaded = marlin_ckpt.load(path)
    assert loaded.keys() == expected.keys()
    for name, tensor in loaded.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8))


def test_a_safetensors_tensor_keeps_its_values_when_the_file_is_cut(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(5000)}, path)
    loaded = marlin_ckpt.load(path)
    path.write_bytes(b"")  # a mapping of the file would end the process here
    assert is_same(loaded, {"weight": torch.ones(5000)})


@pytest.mark.parametrize("cut", [1, 150])
def test_a_truncated_safetensors_file_is_corrupt(tmp_path, cut):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(50)}, path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CorruptCheckpointError):
        marlin_ckpt.load(path)


def test_a_dtype_that_torch_does_not_have_is_named(tmp_path):
    path, head = tmp_path / "a.safetensors", b'{"w":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"abc")
    with pytest.raises(UnloadableStateError, match="tensor w is float6_e2m3fn"):
        marlin_ckpt.load(path)


def test_a_prefix_is_stripped_from_the_names_at_the_top(tmp_path):
    torch.save({"module.a": 1, "b": {"module.c": 2}, 3: 4}, tmp_path / "a.pt")
    assert marlin_ckpt.load(tmp_path / "a.pt", strip_prefix="module.") == {"a": 1, "b": {"module.c": 2}, 3: 4}


@pytest.mark.parametrize(
    ("state", "why"), [({"a": 1}, "no name begins with 'module.'"), ({"module.a": 1, "a": 2}, "become one")]
)
def test_a_prefix_that_cannot_be_stripped_is_an_error(tmp_path, state, why):
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(marlin_ckpt.StateMismatchError, match=why):
        marlin_ckpt.load(tmp_path / "a.pt", strip_prefix="module.")
