"""`export` says what it wrote and what it did not, and replaces no file unless told to."""

from __future__ import annotations

import fcntl
import functools
import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file

from marlin_ckpt.cli.main import main
from tests.support.state_files import write_state


@pytest.fixture
def save(tmp_path):
    """Writes a state to a file, and gives its path."""
    return functools.partial(write_state, tmp_path)


def test_values_that_became_infinite_are_told(save, tmp_path, capsys):
    source = save({"w": torch.tensor([1.0, 70000.0, math.inf]), "v": torch.ones(1)})
    assert main(["export", str(source), "-o", str(tmp_path / "o.safetensors"), "--dtype", "fp16"]) == 0
    assert "warning: 1 value of w became infinite" in capsys.readouterr().err
    assert load_file(tmp_path / "o.safetensors")["w"].tolist() == [1.0, math.inf, math.inf]


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
    assert torch.load(tmp_path / name)["a"].tolist() == [1.0]
    assert main(["export", str(source), "-o", str(source), "--force", "--dtype", "fp16"]) == 0
    assert torch.load(source)["a"].dtype is torch.float16


def test_the_document_of_export_says_what_was_written(save, tmp_path, capsys):
    source, target = str(save({"n.a": torch.ones(2), "b": torch.ones(1), "c": 1})), str(tmp_path / "o.pt")
    assert main(["export", source, "-o", target, "--strip-prefix", "n.", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "marlin-ckpt/export/1",
        "paths": [source], "output": target, "state": None, "tensors": 1, "size_bytes": 8, "shared": {},
        "left_out": ["b"], "values_left_out": 1, "became_infinite": {}, "shards": [], "copied": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tied", "says"),
    [(["b"], "2 tensors, 12 B\n{}b is a\n"), (["b", "d"], "2 tensors, 12 B\n{}b is a, d is a\n")],
)
def test_export_counts_tied_weights_once_and_names_them(save, tmp_path, capsys, tied, says):
    one = torch.ones(2)
    source, target = save({"a": one, **dict.fromkeys(tied, one), "c": torch.ones(1)}), tmp_path / "o.pt"
    assert main(["export", str(source), "-o", str(target)]) == 0
    assert capsys.readouterr().err.endswith(says.format("tied weights, written once: "))


COMMANDS = {
    "export": ["export", "model_1.pt", "-o", "out/new.safetensors"],
    "average": ["average", "model_1.pt", "-o", "new.pt"],
    "salvage": ["salvage", "model_1.pt", "-o", "linked/new.pt"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_what_killed_commands_left_half_written_beside_the_output_is_removed_and_told(
    save, tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    save({"a": torch.ones(1)}, name="model_1.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "linked").symlink_to("out")
    directory = tmp_path / os.path.dirname(words[-1])
    rest = directory / ".other.safetensors.host.1.0123abcd.marlin-tmp"
    rest.write_bytes(b"half")
    with open(directory / ".live.pt.host.1.0123abcd.marlin-tmp", "wb") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        assert main(words) == 0
        assert os.path.exists(live.name)
    assert not rest.exists()
    assert f"{rest.name}, left half written" in capsys.readouterr().err
