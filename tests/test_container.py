"""Our container is torch's: whatever reads torch's files reads ours, and gets the same."""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.serialization import config

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments


def _saved(directory: str | Path, state: Any) -> str:
    arguments = DefaultCheckpointerArguments(save_dir=str(directory), load_dir=str(directory))
    return DefaultCheckpointer(arguments).save(Checkpoint(state, {"last_epoch": 1}, None), 1)


def _through_torch_save(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(Checkpoint(state, {"last_epoch": 1}, None).payload(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _leaves(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for key in value:
            yield from _leaves(key)
            yield from _leaves(value[key])
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)


def _bytes_of(storage: torch.UntypedStorage) -> bytes:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes() if storage.nbytes() else b""


def _description(state: Any) -> list[tuple[Any, ...]]:
    """Everything that can be told of a state, which parts are one object and one storage included."""
    objects: dict[int, int] = {}
    storages: dict[int, int] = {}
    described: list[tuple[Any, ...]] = []
    for value in _leaves(state):
        if not isinstance(value, torch.Tensor):
            is_container = isinstance(value, (dict, list))
            described.append((type(value), len(value) if is_container else repr(value)))
            continue
        storage = value.untyped_storage()
        described.append(
            (
                type(value), value.dtype, value.shape, value.stride(), value.storage_offset(),
                value.requires_grad, value.is_conj(), value.is_neg(), _bytes_of(storage),
                objects.setdefault(id(value), len(objects)),
                storages.setdefault(storage._cdata, len(storages)),
            )
        )  # fmt: skip
    return described


def _tensor_dtypes() -> list[torch.dtype]:
    """Every dtype that torch itself can save and load here."""
    kinds = {kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
    possible = []
    for kind in sorted(kinds, key=str):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _through_torch_save(torch.zeros(2, dtype=kind))
        except (RuntimeError, TypeError, NotImplementedError, KeyError):
            continue
        possible.append(kind)
    return possible


DTYPES = _tensor_dtypes()


def test_torch_has_all_the_dtypes_that_the_test_below_must_not_miss():
    names = "float32 float64 float16 bfloat16 complex64 complex128 bool uint8 int8 int16 int32 int64 uint64"
    assert {getattr(torch, name) for name in [*names.split(), "float8_e4m3fn"]} <= set(DTYPES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_any_dtype_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype):
    noise = torch.randint(0, 2, (64,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    size = torch.empty(0, dtype=dtype).element_size()
    state = {"some": noise.view(dtype) if 64 % size == 0 else noise[:0].view(dtype)}
    state["none"] = torch.empty((0, 3), dtype=dtype)
    state["scalar"] = state["some"][1]
    expected = _description(_through_torch_save(state))
    loaded = torch.load(_saved(tmp_path, state), weights_only=True)
    assert _description(loaded) == expected


_ARRANGEMENTS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda base: base,
    lambda base: base.t(),
    lambda base: base[:, ::2],
    lambda base: base[-1:],
    lambda base: base[:1].expand(base.shape[0] and 3, base.shape[1]),
    lambda base: torch.nn.Parameter(base, requires_grad=base.is_floating_point()),
    lambda base: base.detach().requires_grad_(base.is_floating_point()),
]
_BASES = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]


@st.composite
def _states(draw: st.DrawFn) -> Any:
    tensors = []
    for number in range(draw(st.integers(0, 3))):
        dtype = draw(
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
        )
        shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
        base = torch.arange(number, number + shape[0] * shape[1]).reshape(shape).to(dtype)
        tensors += [arrange(base) for arrange in draw(st.lists(st.sampled_from(_ARRANGEMENTS), max_size=3))]
    plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
    leaves = plain | st.sampled_from(tensors) if tensors else plain
    keys = st.text(max_size=3) | st.integers(0, 9)
    return draw(
        st.recursive(
            leaves,
            lambda part: (
                st.lists(part, max_size=4)
                | st.dictionaries(keys, part, max_size=4)
                | st.lists(part, max_size=3).map(tuple)
            ),
            max_leaves=12,
        )
    )


@settings(max_examples=200)
@given(state=_states())
def test_what_torch_reads_from_our_file_is_what_it_reads_from_its_own(state: Any):
    expected = _description(_through_torch_save(state))
    with tempfile.TemporaryDirectory() as directory:
        path = _saved(directory, state)
        assert _description(torch.load(path, weights_only=True)) == expected
        arguments = DefaultCheckpointerArguments(load_dir=directory)
        assert _description(DefaultCheckpointer(arguments).load().payload()) == expected


def _model_state() -> dict[str, Any]:
    base = torch.arange(4000.0)
    tied = torch.nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))
    return {
        "view": base[10:20],
        "base": base,
        "every third": base[::3],
        "embedding": tied,
        "head": tied,
        "empty": torch.empty(0),
        "scalar": torch.tensor(3, dtype=torch.int16),
        "odd": torch.ones(7, dtype=torch.uint8),
    }


def test_views_and_tied_weights_still_share_after_a_load_and_are_stored_once(tmp_path: Path):
    path = _saved(tmp_path, _model_state())
    state = torch.load(path, weights_only=True)["module_interface_state"]
    state["base"][12] = -1
    assert state["view"][2] == state["every third"][4] == -1
    assert state["embedding"] is state["head"]
    with zipfile.ZipFile(path) as archive:
        sizes = [info.file_size for info in archive.infolist() if "/data/" in info.filename]
    assert sorted(sizes) == [0, 2, 7, 8 * 8 * 4, 4000 * 4]


@pytest.mark.parametrize("debug", ["0", "1"])
@pytest.mark.parametrize("calculate", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_every_way_of_torch_load_reads_our_file(tmp_path: Path, monkeypatch, mmap, calculate, debug):
    path = _saved(tmp_path, _model_state())
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", debug)
    with config.patch("load.calculate_storage_offsets", calculate):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert list(loaded) == ["module_interface_state", "trainer_state", "trainer_backend_state"]
    assert type(loaded) is dict
    assert _description(loaded) == _description(_through_torch_save(_model_state()))


def test_the_file_is_a_sound_zip_of_stored_records_with_aligned_data(tmp_path: Path):
    path = _saved(tmp_path, _model_state())
    content = Path(path).read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    starts = [
        info.header_offset
        + 30
        + int.from_bytes(content[info.header_offset + 26 : info.header_offset + 28], "little")
        + int.from_bytes(content[info.header_offset + 28 : info.header_offset + 30], "little")
        for info in infos
    ]
    assert [start % 64 for start in starts] == [0] * len(infos)
    names = [info.filename for info in infos]
    assert names[0] == "archive/data.pkl"
    assert names[-1] == "archive/.marlin/manifest.json"


def test_the_same_module_loads_from_our_file_strictly(tmp_path: Path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.LSTM(4, 2))
    path = _saved(tmp_path, module.state_dict())
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.LSTM(4, 2))
    other.load_state_dict(torch.load(path, weights_only=True)["module_interface_state"])
    assert _description(other.state_dict()) == _description(module.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.ones(2, device="meta"),
        lambda: torch.ones(2, dtype=torch.complex64).conj(),
        lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
        lambda: torch.nn.Buffer(torch.ones(2)),
    ],
    ids=["sparse", "sparse rows", "meta", "conjugate", "negated", "buffer"],
)
@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
def test_a_tensor_of_another_layout_or_device_comes_back_as_torch_brings_it_back(tmp_path, make):
    tensor = make()
    loaded = torch.load(_saved(tmp_path, [tensor]), weights_only=True)["module_interface_state"][0]
    expected = _through_torch_save([tensor])["module_interface_state"][0]
    assert (loaded.dtype, loaded.shape, loaded.device) == (expected.dtype, expected.shape, expected.device)
    assert (loaded.layout, type(loaded)) == (expected.layout, type(expected))
    assert (loaded.is_conj(), loaded.is_neg()) == (expected.is_conj(), expected.is_neg())
    if tensor.device.type == "cpu":
        assert torch.equal(loaded.to_dense(), tensor.to_dense())
