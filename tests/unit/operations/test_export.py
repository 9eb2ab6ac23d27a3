"""`export` writes weights that torch and safetensors read, and nothing but what was asked for."""

from __future__ import annotations

import errno
import functools
import json
import os
import stat
import struct
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, load_model, save_file

from marlin_ckpt import Checkpoint, errors
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.safetensors import writer
from marlin_ckpt.formats.values import rounding
from marlin_ckpt.operations import export
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.one import opened
from marlin_ckpt.operations.weights_file import WeightsFile
from tests.support.state_files import write_state

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64,
]  # fmt: skip


@pytest.fixture
def save(tmp_path):
    """Writes a state to a file, and gives its path."""
    return functools.partial(write_state, tmp_path)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def run_export(source: Path | str, output: Path, **wanted) -> export.Exported:
    with opened(str(source)) as file:
        return export.export(file, WeightsFile(str(output)), Wanted(**wanted))


def load(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("name", ["out.safetensors", "out.pt", "out.pth", "out.bin"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_of_each_dtype_is_kept(save, tmp_path, dtype, name):
    torch.manual_seed(1)
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (24 * dtype.itemsize,), dtype=torch.uint8)
    whole = raw.view(dtype).reshape(4, 6)
    state = {
        "whole": whole, "transposed": whole.t(), "strided": whole[::2, 1:], "scalar": whole[0, 0],
        "empty": whole[:0], "expanded": whole[:1].expand(3, 6),
    }  # fmt: skip
    run_export(save(state), tmp_path / name)
    loaded = load(tmp_path / name)
    assert set(loaded) == set(state)
    for key, tensor in state.items():
        assert (loaded[key].dtype, loaded[key].shape) == (tensor.dtype, tensor.shape)
        assert bits(loaded[key]) == bits(tensor)
        assert loaded[key].is_contiguous()


def test_the_file_is_byte_for_byte_what_the_library_writes(save, tmp_path):
    state = {f"{dtype}".removeprefix("torch."): torch.ones(3, 2).to(dtype) for dtype in DTYPES}
    state['"quoted" \n\x7f\u00fc'] = torch.tensor(1.5)
    run_export(save(state), tmp_path / "ours.safetensors")
    save_file(state, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_tied_weights_are_one_in_both_formats_as_the_safetensors_library_has_it(make_checkpointer, tmp_path):
    model = Tied()
    source = make_checkpointer().save(Checkpoint(model.state_dict(), {"epoch": 1}, {}), 1)
    done = run_export(source, tmp_path / "tied.safetensors")
    assert done.shared == {"head.weight": "embedding.weight"}
    with safetensors.safe_open(tmp_path / "tied.safetensors", "pt") as file:
        assert "head.weight" not in file.keys()  # noqa: SIM118 - it is no dict
        assert file.metadata()["head.weight"] == "embedding.weight"
    fresh = Tied()
    assert load_model(fresh, tmp_path / "tied.safetensors") == (set(), [])
    assert torch.equal(fresh.head.weight, model.head.weight)
    run_export(source, tmp_path / "tied.pt")
    loaded = load(tmp_path / "tied.pt")
    assert loaded["head.weight"].data_ptr() == loaded["embedding.weight"].data_ptr()
    fresh.load_state_dict(loaded)
    run_export(tmp_path / "tied.safetensors", tmp_path / "again.pt")
    assert set(load(tmp_path / "again.pt")) == set(model.state_dict())


def test_what_shares_some_elements_only_is_written_whole(save, tmp_path):
    base = torch.arange(6.0)
    for name in ("out.pt", "out.safetensors"):
        done = run_export(save({"all": base, "some": base[2:4]}), tmp_path / name)
        assert done.shared == {}
        assert load(tmp_path / name)["some"].tolist() == [2.0, 3.0]
    assert (tmp_path / "out.safetensors").stat().st_size < 8 + 200 + 32


def test_a_large_storage_of_which_little_is_viewed_is_left_behind(save, tmp_path):
    source = save({"some": torch.zeros(1 << 20)[:4]})
    run_export(source, tmp_path / "out.pt")
    assert (tmp_path / "out.pt").stat().st_size < 4096 < source.stat().st_size


@pytest.mark.parametrize(
    ("short", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_floating_point_tensors_alone_are_rounded_and_to_the_same_as_by_torch(save, tmp_path, short, dtype):
    torch.manual_seed(1)
    state = {str(one): torch.randn(999).mul(300).to(one) for one in DTYPES if one.is_floating_point}
    state |= {
        "ids": torch.arange(3),
        "flags": torch.tensor([True]),
        "waves": torch.ones(2, dtype=torch.complex64),
    }
    source = save(state)
    for name in ("out.safetensors", "out.pt"):
        run_export(source, tmp_path / name, dtype=rounding.SHORT_NAMES[short])
        for key, tensor in load(tmp_path / name).items():
            expected = state[key].to(dtype) if state[key].is_floating_point() else state[key]
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0, equal_nan=True)


def test_the_module_s_state_is_taken_unless_told_otherwise(make_checkpointer, tmp_path):
    module = {"net.weight": torch.ones(2), "net.bias": torch.zeros(1), "other": torch.ones(1), "note": "text"}
    trainer = {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    source = make_checkpointer().save(Checkpoint(module, trainer, {}, metrics={"loss": 0.5}), 4)
    done = run_export(source, tmp_path / "a.pt")
    assert (done.state, set(load(tmp_path / "a.pt"))) == (
        "module_interface_state",
        {"net.weight", "net.bias", "other"},
    )
    assert (done.values_left_out, done.left_out) == (1, ())
    done = run_export(source, tmp_path / "b.pt", prefix="net.")
    assert (set(load(tmp_path / "b.pt")), done.left_out) == ({"weight", "bias"}, ("other",))
    run_export(source, tmp_path / "c.safetensors", state="trainer_state.optimizer")
    assert set(load(tmp_path / "c.safetensors")) == {"state.0.exp_avg"}
    run_export(tmp_path / "a.pt", tmp_path / "d.safetensors")
    assert set(load(tmp_path / "d.safetensors")) == set(load(tmp_path / "a.pt"))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_the_states_of_others_checkpoints_are_found(save, tmp_path, key):
    source = save({"epoch": 1, key: {"w": torch.ones(2)}, "optimizer": {"m": torch.ones(1)}})
    assert run_export(source, tmp_path / "o.pt").state == key
    assert set(load(tmp_path / "o.pt")) == {"w"}


def test_where_the_weights_come_from_is_kept(make_checkpointer, make_checkpoint, tmp_path, capsys):
    source = make_checkpointer().save(make_checkpoint(1.0, val_loss=0.5), 7)
    with opened(source) as file:
        manifest = file.contents.manifest
    run_export(source, tmp_path / "o.safetensors")
    with safetensors.safe_open(tmp_path / "o.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt", "index": "7", "run_id": manifest.run_id, "created": manifest.created,
            "metrics.val_loss": "0.5",
        }  # fmt: skip
    run_export(tmp_path / "o.safetensors", tmp_path / "again.safetensors", dtype="bfloat16")
    with safetensors.safe_open(tmp_path / "again.safetensors", "pt") as file:
        assert file.metadata()["metrics.val_loss"] == "0.5"
    run_export(source, tmp_path / "model_7.pt")
    assert main(["list", str(tmp_path), "--json"]) == 0
    (one,) = [
        x for x in json.loads(capsys.readouterr().out)["checkpoints"] if x["path"].endswith("model_7.pt")
    ]
    assert (one["kind"], one["index"], one["metrics"]) == ("model", 7, {"val_loss": 0.5})
    assert main(["verify", str(tmp_path / "model_7.pt")]) == 0
    run_export(source, tmp_path / "part.pt", state="module_interface_state.weight")
    with opened(str(tmp_path / "part.pt")) as file:
        assert file.contents.manifest is None


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_quantized_tensors_are_refused_by_both_formats(save, tmp_path):
    tensor = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    source = save({"q": tensor})
    for name in ("o.pt", "o.safetensors"):
        with pytest.raises(errors.UnsavableStateError, match="qint8"):
            run_export(source, tmp_path / name)
    assert os.listdir(tmp_path) == ["source.pt"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.ones(2, device="meta"),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
    ],
    ids=["sparse", "meta", "conjugated", "negated"],
)
def test_a_tensor_that_is_more_than_its_elements_is_refused(save, tmp_path, tensor):
    source = save({"x": tensor, "w": torch.ones(1)})
    with pytest.raises(errors.UnsavableStateError, match="x is no plain tensor"):
        run_export(source, tmp_path / "o.pt")


def test_a_file_that_appears_meanwhile_is_not_replaced(save, tmp_path, monkeypatch):
    target = tmp_path / "o.safetensors"
    real = writer.write
    monkeypatch.setattr(writer, "write", lambda *given: (real(*given), target.write_bytes(b"kept")))
    with pytest.raises(errors.StorageError, match="is already there"):
        run_export(save({"a": torch.ones(1)}), target)
    assert (target.read_bytes(), sorted(os.listdir(tmp_path))) == (b"kept", ["o.safetensors", "source.pt"])


def test_a_file_that_the_library_does_not_read_never_gets_its_name(save, tmp_path, monkeypatch):
    real = writer.header
    monkeypatch.setattr(writer, "header", lambda *given: real(*given).replace(b"[0,4]", b"[0,5]"))
    with pytest.raises(errors.MarlinError, match="the safetensors library does not read"):
        run_export(save({"a": torch.ones(1)}), tmp_path / "o.safetensors")
    assert os.listdir(tmp_path) == ["source.pt"]


@pytest.mark.parametrize("name", ["o.pt", "o.safetensors"])
def test_the_new_file_has_the_permissions_of_any_new_file(save, tmp_path, name):
    before = os.umask(0o027)
    try:
        run_export(save({"a": torch.ones(1)}), tmp_path / name)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["o.pt", "o.safetensors"])
@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}], ids=["as it is", "rounded"])
def test_damage_is_found_and_no_file_is_written(save, tmp_path, name, options):
    source = save({"fine": torch.zeros(3), "worn": torch.arange(1000.0)})
    data = bytearray(source.read_bytes())
    data[data.index(struct.pack("<3f", 7, 8, 9))] ^= 1
    source.write_bytes(data)
    with pytest.raises(errors.CorruptCheckpointError, match=r"CRC of record .* \(tensor worn\)"):
        run_export(source, tmp_path / name, **options)
    assert os.listdir(tmp_path) == ["source.pt"]


@pytest.mark.parametrize("name", ["o.pt", "o.safetensors"])
def test_a_disk_that_fills_up_is_told_and_nothing_is_left(save, tmp_path, monkeypatch, name):
    source = save({"a": torch.ones(1000)})

    def write(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(errors.StorageError) as caught:
        run_export(source, tmp_path / name)
    assert (caught.value.errno, caught.value.where) == (errno.ENOSPC, str(tmp_path / name))
    assert os.listdir(tmp_path) == ["source.pt"]
