"""Our container is torch's: whatever reads torch's files reads ours, and gets the same."""

from __future__ import annotations

import argparse
import errno
import fractions
import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.serialization import config

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, load, save
from marlin_ckpt.errors import StorageError, UnsafeCheckpointError
from marlin_ckpt.formats.pickle.reader import unpickling
from marlin_ckpt.formats.torch.pickler import encode
from marlin_ckpt.formats.torch.reader import read_file
from marlin_ckpt.formats.zip.reader import read_container
from marlin_ckpt.storage.paths import open_source


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


def test_tensors_that_are_to_share_the_memory_of_one_live_tensor_are_read_each_to_its_own(tmp_path):
    path, live = tmp_path / "a.pt", torch.full((1000,), 7.0)
    torch.save({"a": torch.zeros(1000), "b": torch.ones(1000)}, path)
    state, _ = read_file(
        path,
        weights_only=True,
        log=lambda _: None,
        pairs=lambda state, _: [(state["a"], live), (state["b"], live)],
    )
    assert (state["a"].unique().tolist(), state["b"].unique().tolist()) == ([0], [1])
    assert live.unique().tolist() == [7]


class Greedy:
    """Raises a MemoryError when it is pickled."""

    def __reduce__(self) -> Any:
        raise MemoryError


def test_memory_that_a_pickle_lacks_is_a_failure_of_the_machine_and_no_fault_of_state_or_file():
    with pytest.raises(StorageError) as caught:
        encode({"greedy": Greedy()})
    assert caught.value.errno == errno.ENOMEM
    with pytest.raises(StorageError) as caught, unpickling("a.ckpt"):
        raise MemoryError
    assert caught.value.errno == errno.ENOMEM


@pytest.fixture
def half_complex(tmp_path: Path) -> Iterator[Path]:
    """A directory with a sound checkpoint whose loading warns in torch."""
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save({"w": torch.zeros(2, dtype=torch.complex32)}, tmp_path / "model_1.pt")
    yield tmp_path
    torch.set_warn_always(False)


@pytest.mark.parametrize("location", ["cpu", lambda storage, _: storage])
@pytest.mark.parametrize("weights_only", [True, False])
def test_a_warning_that_is_made_an_error_is_no_damage_of_the_file(half_complex, location, weights_only):
    for path in (half_complex / "model_1.pt", half_complex):  # a search would pass a damaged file over
        with pytest.raises(UserWarning, match="ComplexHalf"):
            load(path, map_location=location, weights_only=weights_only)


def test_a_warning_of_map_location_is_no_fault_of_the_place(tmp_path):
    save({"w": torch.zeros(2)}, tmp_path / "model_1.pt")

    def warn(storage: Any, _: str) -> Any:
        warnings.warn("where to?", UserWarning, stacklevel=1)
        return storage

    with pytest.raises(UserWarning, match="where to"):
        load(tmp_path / "model_1.pt", map_location=warn)


class Deprecated:
    """Warns when it is pickled."""

    def __reduce__(self) -> Any:
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return dict, ()


def test_a_warning_that_is_made_an_error_is_no_fault_of_the_state():
    with pytest.raises(DeprecationWarning):
        encode({"part": Deprecated()})


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_refused_file_names_all_that_it_would_import(tmp_path, is_zip):
    path = tmp_path / "objects.pt"
    state = [argparse.Namespace(a=1), fractions.Fraction(1, 2)]
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UnsafeCheckpointError) as caught:
        read_file(path, weights_only=True, log=lambda _: None)
    assert caught.value.names == ("argparse.Namespace", "fractions.Fraction")
    with (
        torch.serialization.safe_globals([argparse.Namespace]),
        pytest.raises(UnsafeCheckpointError) as caught,
    ):
        read_file(path, weights_only=True, log=lambda _: None)
    assert caught.value.names == ("fractions.Fraction",)


class _Noting:
    """A source that notes what is read of it."""

    def __init__(self, source):
        self._source, self.path, self.size_bytes, self.reads = source, source.path, source.size_bytes, []

    def read_into(self, offset, buffer):
        self.reads.append(range(offset, offset + len(buffer)))
        return self._source.read_into(offset, buffer)

    def read(self, offset, size):
        self.reads.append(range(offset, offset + size))
        return self._source.read(offset, size)


def test_each_header_of_a_file_of_ours_is_read_once_since_in_a_store_that_is_a_request(tmp_path):
    path = save({str(number): torch.zeros(50_000) for number in range(5)}, tmp_path / "model_1.pt").path
    with open_source(path) as source:
        noting = _Noting(source)
        container = read_container(noting)
    tensors = [record.header_offset for record in container.records if "/data/" in record.name]
    # The last lies in the end of the file, which is read for the directory.
    assert [sum(offset in one for one in noting.reads) for offset in tensors[:4]] == [1, 1, 1, 1]
