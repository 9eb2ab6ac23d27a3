"""A reader that knows the page on the file format and Python's standard library reads what we write."""

from __future__ import annotations

import ast
import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from marlin_ckpt import Checkpoint, CheckpointDirectory, load, save
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.storage.local.files import open_source
from tests.support.folders import REPOSITORY
from tests.support.states import DTYPES

FOLDER = REPOSITORY / "examples" / "read_checkpoint"
FIXTURES = sorted((REPOSITORY / "tests" / "fixtures" / "version_0_1" / "run").glob("*.pt"))


@pytest.fixture(scope="module")
def reader() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        spec = importlib.util.spec_from_file_location("read_checkpoint", FOLDER / "__main__.py")
        main = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(main)
        yield SimpleNamespace(main=main, container=sys.modules["container"], state=sys.modules["state"])
        del sys.modules["container"], sys.modules["state"]


def opened(reader: SimpleNamespace, path: str | Path):
    return reader.main.Checkpoint(io.BytesIO(Path(path).read_bytes()))


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of the elements, also of dtypes that torch can do nothing with."""
    data = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).view(-1, tensor.dtype.itemsize)
    places = torch.arange(len(data)).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return data[places].numpy().tobytes()


def test_it_imports_nothing_but_the_standard_library() -> None:
    allowed = {*sys.stdlib_module_names, "container", "state"}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed


# torch 2.13 can make tensors of these, but neither pickle nor save them.
UNSAVED = {getattr(torch, f"{kind}{bits}") for kind in ("int", "uint") for bits in range(1, 8)}


@pytest.mark.filterwarnings("ignore:ComplexHalf:UserWarning")
@pytest.mark.parametrize("dtype", [one for one in DTYPES if one not in UNSAVED], ids=str)
def test_the_bytes_of_tensors_of_every_dtype_are_those_that_are_loaded(reader, tmp_path: Path, dtype) -> None:
    data = torch.arange(24 * dtype.itemsize, dtype=torch.uint8) % (2 if dtype is torch.bool else 251)
    whole, apart = data.view(dtype).reshape(4, 6), data.clone().view(dtype)
    state = {"whole": whole, "view": whole[1:3, 2:5], "turned": whole.t(), "one": whole[2, 3]}
    state |= {"none": whole[:0], "apart": apart, "expanded": whole[:1].expand(3, 6)}
    path = tmp_path / "state_1.pt"
    save(state, path)
    found, loaded = opened(reader, path), load(path)
    for name, tensor in loaded.items():
        assert found.state[name].dtype == str(tensor.dtype).removeprefix("torch.")
        assert found.state[name].shape == tuple(tensor.shape)
        assert found.bytes_of(found.state[name]) == bits(tensor) == bits(state[name])
    assert found.state["whole"].storage == found.state["turned"].storage
    assert found.state["whole"].storage.key != found.state["apart"].storage.key


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_quantised_tensors_come_with_their_scales(reader, tmp_path: Path) -> None:
    values = torch.arange(12.0).reshape(2, 6)
    dtypes = (torch.quint8, torch.qint8, torch.qint32)
    state = {str(dtype): torch.quantize_per_tensor(values, 0.5, 3, dtype) for dtype in dtypes}
    scales, points = torch.tensor([0.5, 2.0], dtype=torch.float64), torch.tensor([0, 1])
    state["by row"] = torch.quantize_per_channel(values, scales, points, 0, torch.qint8)
    save(state, tmp_path / "state_1.pt")
    found = opened(reader, tmp_path / "state_1.pt")
    for name, tensor in state.items():
        assert f"torch.{found.state[name].dtype}" == str(tensor.dtype)
        assert found.bytes_of(found.state[name]) == bits(tensor)
    assert found.state["torch.qint8"].quantizer[1:] == (0.5, 3)
    kind, *of_rows, axis = found.state["by row"].quantizer
    assert (kind.name, axis) == ("per_channel_affine", 0)
    assert [found.bytes_of(one) for one in of_rows] == [bits(scales), bits(points)]


def trained() -> Checkpoint:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    model[2].bias = torch.nn.Parameter(model[0].bias[:2].detach())
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    others = {
        "rng": torch.get_rng_state(),
        "odd": [None, True, -1, 2**70, 1.5, "é\ud800", b"\xff", {1, 2}, 1j],
    }
    return Checkpoint(model.state_dict(), {"optimizers": [optimizer.state_dict()]}, others, {"loss": 0.5})


def test_the_names_and_values_of_a_checkpoint_are_those_that_show_lists(
    reader, tmp_path: Path, make_checkpointer
) -> None:
    checkpoint = trained()
    path = make_checkpointer().save(checkpoint, 3)
    found = opened(reader, path)
    with open_source(path) as source:
        contents = read_contents(source)
    shapes = {one.name: one.shape for one in contents.tensors}
    assert {name: one.shape for name, one in reader.state.tensors_in(found.state)} == shapes
    assert (found.manifest["index"], found.manifest["metrics"]) == (3, {"loss": 0.5})
    assert list(found.state) == ["module_interface_state", "trainer_state", "trainer_backend_state"]
    assert found.state["trainer_backend_state"]["odd"] == checkpoint.trainer_backend_state["odd"]
    moments = found.state["trainer_state"]["optimizers"][0]["state"]
    for slot, kept in checkpoint.trainer_state["optimizers"][0]["state"].items():
        assert found.bytes_of(moments[slot]["exp_avg"]) == bits(kept["exp_avg"])


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_files_of_version_0_1_are_intact(reader, path: Path) -> None:
    assert opened(reader, path).manifest["versions"]["marlin_ckpt"] == "0.1.0"


def test_files_with_statistics_are_intact_for_a_reader_that_does_not_know_them(
    reader, tmp_path: Path
) -> None:
    path, plain = tmp_path / "state_1.pt", tmp_path / "state_2.pt"
    save({"weight": torch.arange(20.0)}, path, statistics=True)
    save({"weight": torch.arange(20.0)}, plain)
    found, without = opened(reader, path), opened(reader, plain)
    names = [{name for name, *_ in one.manifest["records"]} for one in (found, without)]
    extra = names[0] - names[1]
    assert extra == {"archive/.marlin/statistics.json"}
    assert found.manifest["format_version"] == 1
    assert found.bytes_of(found.state["weight"]) == without.bytes_of(without.state["weight"])


def test_a_bit_that_flips_anywhere_is_found(reader, tmp_path: Path, cases) -> None:
    path = tmp_path / "state_1.pt"
    save({"weight": torch.arange(20.0)}, path)
    data = path.read_bytes()
    for at in range(0, len(data), cases(5, 1)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(reader.container.BadCheckpointError):
            opened(reader, path)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"#!" + data]
)
def test_bytes_that_are_added_or_missing_are_found(reader, tmp_path: Path, change) -> None:
    path = tmp_path / "state_1.pt"
    save([1], path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(reader.container.BadCheckpointError):
        opened(reader, path)


def test_headers_of_more_than_4_gib_are_laid_out_as_the_library_writes_them(reader) -> None:
    limit = structures.UINT32_MAX
    for size in (0, 1, limit - 1, limit, limit + 1):
        for offset in (0, 130, limit - 1, limit, 2 * limit):
            ours = structures.Record("archive/data/0", size, 77 if size else 0, offset)
            theirs = reader.container.Record(*ours[:4])
            assert reader.container.header(theirs) == structures.local_header(ours.name, size, offset)
            assert reader.container.descriptor(theirs) == structures.descriptor(ours)
            assert reader.container.entry(theirs) == structures.central_entry(ours)
            assert reader.container._record(structures.central_entry(ours), 0) == theirs
            for count in (1, 0xFFFE, 0xFFFF, 70_000):
                assert reader.container.end(count, size, offset) == structures.end_records(
                    count, size, offset
                )


def test_a_folder_is_intact_until_a_file_in_it_changes(reader, tmp_path: Path, capsys) -> None:
    with CheckpointDirectory(tmp_path, prefix="model").transaction("model_5") as staged:
        (Path(staged) / "inner").mkdir()
        (Path(staged) / "inner" / "weights.bin").write_bytes(b"weights")
        (Path(staged) / "config.json").write_text("{}")
    folder = tmp_path / "model_5"
    assert reader.main.main(str(folder)) == 0
    assert "inner/weights.bin  7 bytes" in capsys.readouterr().out
    (folder / "inner" / "weights.bin").write_bytes(b"Weights")
    assert reader.main.main(str(folder)) == 3
    assert "inner/weights.bin is not what was saved" in capsys.readouterr().out
