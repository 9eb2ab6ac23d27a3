"""Whatever `torch.save` takes we take, and what comes back is what comes back from torch's own file."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from marlin_ckpt import UnsavableStateError
from tests.support.oracle import DIRECTORY, differences, read, record_sizes, write
from tests.support.specimens import REFUSED, SPECIMENS
from tests.support.states import DTYPES, states
from tests.support.tensors import TENSORS, bits

# Half of these kinds are called experimental or deprecated by torch, in warnings.
pytestmark = pytest.mark.filterwarnings("ignore")
ALL_DTYPES = sorted({kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}, key=str)


def test_any_state_comes_back_as_torch_brings_it_back(cases):
    @settings(max_examples=cases(80, 6000))
    @given(state=states())
    def check(state: Any) -> None:
        assert differences(state) == []

    check()


@pytest.mark.parametrize("make", SPECIMENS.values(), ids=SPECIMENS)
def test_an_odd_state_comes_back_as_torch_brings_it_back(make: Callable[[], Any]):
    assert differences(make()) == []


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_a_tensor_of_any_dtype_comes_back_or_is_refused_as_by_torch(dtype: torch.dtype):
    assert differences(bits(dtype)) == []


def test_torch_itself_takes_every_dtype_that_models_have(tmp_path: Path):
    # Else the test above could pass by two refusals.
    names = "bfloat16 float16 float32 float64 float8_e4m3fn float8_e5m2 float8_e8m0fnu complex32 complex64"
    names += " complex128 bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float4_e2m1fn_x2"
    for name in names.split():
        assert getattr(torch, name) in DTYPES
        torch.save(bits(getattr(torch, name)), tmp_path / name)


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_what_torch_refuses_is_refused_by_name_and_the_old_file_stands(tmp_path: Path, make):
    state, path = make(), tmp_path / "model_1.pt"
    with pytest.raises(Exception):  # noqa: B017 - each thing its own error
        torch.save(state, tmp_path / "torch.pt")
    (tmp_path / "torch.pt").unlink(missing_ok=True)
    path.write_bytes(b"the old file")
    with pytest.raises(UnsavableStateError):
        write(str(path), state)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_shared_memory_is_written_once_and_shared_again_after_a_load(tmp_path: Path):
    path = str(tmp_path / "model_1.pt")
    state = TENSORS["shared"]()
    write(path, state)
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in state.values()}
    assert sorted(record_sizes(path)) == sorted(storage.nbytes() for storage in storages.values())
    for loaded in (torch.load(path, weights_only=True), read(path, weights_only=True)):
        loaded["base"][12] = -1
        assert loaded["view"][2] == loaded["every third"][4] == -1
        assert loaded["embedding"] is loaded["head"]
        loaded["head's data"][2, 5] = 7
        assert loaded["head"][2, 5] == loaded["head's rows"][5, 0] == 7


def test_tensors_of_one_empty_storage_come_back_each_of_its_dtype(tmp_path: Path):
    # torch.load with mmap makes both of one dtype when it reads a file by torch.save.
    ours, theirs, empty = str(tmp_path / "ours.pt"), str(tmp_path / "theirs.pt"), torch.empty(2, 0)
    state = [empty, empty.view(torch.int32), empty[:1], empty.view(torch.int32)]
    write(ours, state)
    torch.save(state, theirs)
    for loaded in (
        torch.load(ours), torch.load(ours, mmap=True),
        read(ours, weights_only=True), read(theirs, weights_only=True),
    ):  # fmt: skip
        assert [(one.dtype, one.shape) for one in loaded] == [(one.dtype, one.shape) for one in state]


def test_the_same_state_gives_the_same_bytes_again(cases):
    @settings(max_examples=cases(20, 2000))
    @given(state=states())
    def check(state: Any) -> None:
        with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paths = [Path(directory, name) for name in ("one.pt", "other.pt")]
            try:
                for path in paths:
                    write(str(path), state)
            except UnsavableStateError:
                return
            assert paths[0].read_bytes() == paths[1].read_bytes()

    check()
