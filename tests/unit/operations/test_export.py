"""`export` writes weights that torch and safetensors read, and nothing but what was asked for."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, load_model, save_file

from marlin_ckpt import Checkpoint, errors
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.safetensors import writer
from marlin_ckpt.formats.values import rounding
from marlin_ckpt.formats.values.checked import open_checked
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.operations import export
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.weights_file import WeightsFile

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64,
]  # fmt: skip


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def run_export(source: Path | str, output: Path, **wanted) -> export.Exported:
    with open_checked(str(source)) as file:
        return export.export(file, WeightsFile(str(output)), Wanted(**wanted))


def load(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@pytest.fixture
def save(tmp_path):
    """Writes a state by torch.save."""

    def write(state, name: str = "source.pt") -> Path:
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return write


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


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        st.tuples(
            st.sampled_from(["float32", "bfloat16", "int64", "bool"]), st.lists(st.integers(0, 4), max_size=3)
        ),
        max_size=8,
    )
)
def test_the_header_is_that_of_the_library_for_any_names_and_shapes(drawn):
    drafts, specs, keep = [], {}, []
    for name, (dtype, shape) in drawn.items():
        item = {"float32": 4, "bfloat16": 2, "int64": 8, "bool": 1}[dtype]
        drafts.append(Draft(name, dtype, item, tuple(shape), "", lambda: memoryview(b"")))
        keep.append(np.zeros(math.prod(shape) * item, np.uint8))
        specs[name] = safetensors.TensorSpec(
            dtype=dtype, shape=shape, data_ptr=keep[-1].ctypes.data, data_len=keep[-1].nbytes
        )
    theirs = safetensors.serialize(specs, metadata={"format": "pt"})
    ours = writer.header(writer.in_order(drafts), {"format": "pt"})
    assert theirs[: len(ours)] == ours


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


@given(
    st.lists(st.one_of(st.floats(width=32), st.floats()), min_size=1, max_size=50), st.sampled_from([32, 64])
)
def test_rounding_is_that_of_torch_bit_for_bit(values, width):
    kind, own = (np.float32, torch.float32) if width == 32 else (np.float64, torch.float64)
    with np.errstate(over="ignore"):
        given_values = np.array(values).astype(kind)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        expected = torch.from_numpy(given_values).to(own).to(dtype)
        found, became_infinite = rounding.rounded(given_values, name)
        is_nan = torch.isnan(expected).numpy()
        theirs = expected.view(torch.int16 if dtype.itemsize == 2 else torch.int32).numpy()
        assert np.array_equal(found.view(theirs.dtype)[~is_nan], theirs[~is_nan])
        again = torch.from_numpy(found.view(theirs.dtype)).view(dtype)
        assert torch.equal(torch.isnan(again), torch.isnan(expected))
        infinite = int((torch.isinf(expected) & torch.isfinite(torch.from_numpy(given_values))).sum())
        assert became_infinite == infinite


@pytest.mark.parametrize("start", range(0, 1 << 32, 1 << 29))
def test_bfloat16_is_rounded_as_by_torch_all_over_the_range(start):
    # Each upper half of a float32 there is, with lower halves about the ties.
    upper = np.arange(start >> 16, (start + (1 << 29)) >> 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (upper[:, None] | lower).reshape(-1).view(np.float32)
    (found, _), expected = rounding.rounded(values, "bfloat16"), torch.from_numpy(values).to(torch.bfloat16)
    numbers = ~np.isnan(values)
    assert np.array_equal(found[numbers], expected.view(torch.uint16).numpy()[numbers])
    assert np.isnan((found[~numbers].astype(np.uint32) << 16).view(np.float32)).all()


def test_values_that_became_infinite_are_told(save, tmp_path, capsys):
    source = save({"w": torch.tensor([1.0, 70000.0, math.inf]), "v": torch.ones(1)})
    assert main(["export", str(source), "-o", str(tmp_path / "o.safetensors"), "--dtype", "fp16"]) == 0
    assert "warning: 1 value of w became infinite" in capsys.readouterr().err
    assert load(tmp_path / "o.safetensors")["w"].tolist() == [1.0, math.inf, math.inf]


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
    with open_checked(source) as file:
        manifest = file.outline.manifest
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
    with open_checked(str(tmp_path / "part.pt")) as file:
        assert file.outline.manifest is None


@pytest.mark.parametrize(
    ("state", "options", "code", "said"),
    [
        ({"epoch": 1}, [], 3, "nothing in it is a tensor"),
        ({"a": torch.ones(1)}, ["--strip-prefix", "net."], 1, "no tensor's name begins with net."),
        ({"a": torch.ones(1)}, ["--strip-prefix", "a"], 1, "a would have no name"),
        ({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, [], 1, "two tensors would have the name a.b"),
        ({"a": torch.ones(1)}, ["--state", "b"], 1, "no tensor is in a state of the name b"),
        ({"a": torch.ones(1)}, ["--dtype", "int8"], 2, "expected one of bf16, fp16, fp32, not int8"),
        ({"a": torch.ones(1, dtype=torch.complex128)}, [], 1, "safetensors files hold no complex128"),
        ({"__metadata__": torch.ones(1)}, [], 1, "can have the name __metadata__"),
    ],
    ids=["no tensor", "no prefix", "no name", "collision", "no state", "dtype", "complex", "metadata"],
)
def test_what_cannot_be_written_is_refused_with_a_reason_and_leaves_nothing(
    save, tmp_path, capsys, state, options, code, said
):
    source = save(state)
    assert main(["export", str(source), "-o", str(tmp_path / "o.safetensors"), *options]) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert os.listdir(tmp_path) == ["source.pt"]


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


@pytest.mark.parametrize("name", ["o.tar", "o", "safetensors", ".pt"])
def test_a_name_of_no_known_format_is_a_usage_error(save, tmp_path, capsys, name):
    assert main(["export", str(save({"a": torch.ones(1)})), "-o", str(tmp_path / name)]) == 2
    assert "expected a name that ends in .safetensors, .pt, .pth, .bin" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["o.pt", "o.safetensors"])
def test_a_file_that_is_there_is_replaced_only_by_force(save, tmp_path, capsys, name):
    source = save({"a": torch.ones(1)})
    (tmp_path / name).write_bytes(b"kept")
    assert main(["export", str(source), "-o", str(tmp_path / name)]) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == b"kept"
    assert main(["export", str(source), "-o", str(tmp_path / name), "--force"]) == 0
    assert load(tmp_path / name)["a"].tolist() == [1.0]
    assert main(["export", str(source), "-o", str(source), "--force", "--dtype", "fp16"]) == 0
    assert load(source)["a"].dtype is torch.float16


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


def test_the_document_of_export_says_what_was_written(save, tmp_path, capsys):
    source, target = str(save({"n.a": torch.ones(2), "b": torch.ones(1), "c": 1})), str(tmp_path / "o.pt")
    assert main(["export", source, "-o", target, "--strip-prefix", "n.", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "paths": [source], "output": target, "state": None, "tensors": 1, "size_bytes": 8, "shared": {},
        "left_out": ["b"], "values_left_out": 1, "became_infinite": {},
    }  # fmt: skip
