"""`show` tells what a file is and holds, what unpickling it would import, and figures of its tensors."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from marlin_ckpt import Checkpoint
from marlin_ckpt.cli.main import main


class Model(nn.Module):
    """Twelve blocks alike, and a head that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.h = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)) for _ in range(12))
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embedding.weight


@pytest.fixture
def trained(make_checkpointer) -> Path:
    """A checkpoint of ours after one step."""
    module = Model()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, betas=(0.9, 0.95))
    sum(one.sum() for one in module.parameters()).backward()
    optimizer.step()
    state = Checkpoint(
        module.state_dict(), {"epoch": 7, "optimizers": [optimizer.state_dict()]}, {"steps": 3},
        metrics={"loss": 0.25},
    )  # fmt: skip
    return Path(make_checkpointer().save(state, 7))


def rows(text: str) -> dict[str, list[str]]:
    """The lines of the tree, by the stripped name in front."""
    lines = text.partition("\n\n")[2].splitlines()[1:]
    return {cells[0]: cells[1:] for line in lines for cells in [re.split(r"  +", line.strip())]}


def test_a_checkpoint_of_ours_is_told_from_its_manifest_down_to_its_tensors(trained, shown):
    text = shown(trained)
    assert re.search(r"^kind +checkpoint, index 7, \d{4}-", text, re.MULTILINE)
    assert re.search(r"^run +[0-9a-f]{12}, save 1$", text, re.MULTILINE)
    assert re.search(r"^metrics +loss 0.25$", text, re.MULTILINE)
    assert f"torch {torch.__version__}" in text
    assert "optimizer  trainer_state.optimizers[0]: AdamW" in text
    assert "lr 0.01, betas (0.9, 0.95), eps 1e-08, weight_decay 0.01" in text
    told = rows(text)
    parameters = sum(one.numel() for one in Model().parameters())
    assert told["module_interface_state"][-2] == f"{parameters:,}"
    assert told["h.0-11"][0] == "12 alike, 48 tensors"
    assert told["embedding.weight"] == ["[50, 8]", "float32", "400", "1.6 kB"]
    assert told["head.weight"][0] == "[50, 8], same as module_interface_state.embedding.weight"
    assert told["exp_avg_sq"] == ["shapes vary", "float32", f"{parameters:,}", "15 kB"]
    assert told["epoch"] == ["7"]
    assert len(text.splitlines()) < 60


def test_json_tells_every_tensor_and_value_as_torch_loads_them(trained, document):
    told = document(trained)
    loaded = torch.load(trained, weights_only=True)
    tensors = {one["name"]: one for one in told["tensors"]}
    for key, live in loaded["module_interface_state"].items():
        one = tensors[f"module_interface_state.{key}"]
        assert (one["shape"], one["dtype"]) == (list(live.shape), "float32")
        assert (one["elements"], one["size_bytes"]) == (live.numel(), live.nbytes)
    tied = {tensors[f"module_interface_state.{key}.weight"]["storage"] for key in ("embedding", "head")}
    assert len(tied) == 1
    assert told["values"]["trainer_state.epoch"] == 7
    assert told["values"]["trainer_state.optimizers[0].param_groups[0].betas"] == [0.9, 0.95]
    assert (told["kind"], told["index"], told["metrics"], told["format"]) == (
        "checkpoint",
        7,
        {"loss": 0.25},
        "zip",
    )
    assert told["size_bytes"] == trained.stat().st_size
    assert {one["permission"] for one in told["imports"]} == {"allowed"}
    assert told["allow_list"] is None
    assert "stats" not in told
    (optimizer,) = told["optimizers"]
    assert (optimizer["kind"], optimizer["groups"][0]["params"]) == ("AdamW", 49)


def test_tensors_lists_those_whose_names_fit_sorted_as_asked_for(trained, shown):
    def names(*options: str) -> list[str]:
        text = shown(trained, "--tensors", "module*.h.*.0.weight", *options)
        return [line.split()[0] for line in text.splitlines()[1:]]

    ordered = [f"module_interface_state.h.{number}.0.weight" for number in range(12)]
    assert names() == names("--sort", "name") == ordered
    listed = shown(trained, "--tensors", "module*", "--sort", "size").splitlines()[1:]
    assert "embedding.weight" in listed[0]
    assert listed[-1].split()[-2:] == ["32", "B"]


def test_a_pattern_that_no_name_fits_is_an_error_that_shows_a_name(trained, shown):
    for option in ("--tensors", "--stats"):
        said = shown(trained, option, "nothing*", code=1)
        assert "no tensor has a name like nothing*" in said
        assert "module_interface_state.embedding.weight" in said


def test_depth_and_sort_shape_the_tree(trained, shown):
    assert [*rows(shown(trained, "--depth", "1"))] == [
        "module_interface_state", "trainer_state", "trainer_backend_state",
    ]  # fmt: skip
    assert next(iter(rows(shown(trained, "--depth", "1", "--sort", "size")))) == "trainer_state"
    deep = rows(shown(trained, "--depth", "99"))
    assert "fused" in deep
    assert main(["show", str(trained), "--depth", "0"]) == 2


def test_a_flat_state_of_very_many_tensors_is_cut_to_a_screen(tmp_path, shown, capsys):
    torch.save(
        {f"weight_{chr(97 + one % 26)}{one}": torch.ones(one) for one in range(500)}, tmp_path / "a.pt"
    )
    assert main(["show", str(tmp_path / "a.pt")]) == 0
    ended = capsys.readouterr()
    assert "... 460 more" in ended.out
    assert len(ended.out.splitlines()) < 60
    assert "--depth" in ended.err


def test_a_whole_module_and_a_bare_tensor_are_shown(tmp_path, shown):
    torch.save(nn.Linear(3, 2), tmp_path / "a.pt")
    text = shown(tmp_path / "a.pt")
    assert re.search(r"^object +torch.nn.modules.linear.Linear$", text, re.MULTILINE)
    assert rows(text)["weight"][0] == "[2, 3]"
    torch.save(torch.ones(4, 2), tmp_path / "b.pt")
    assert rows(shown(tmp_path / "b.pt")) == {"(the whole)": ["[4, 2]", "float32", "8", "32 B"]}


def test_legacy_and_safetensors_files_are_shown_with_a_word_on_their_checksums(tmp_path, shown):
    state = {"layer.0.weight": torch.ones(4), "layer.1.weight": torch.ones(4)}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "a.safetensors", {"format": "pt"})
    for path in (tmp_path / "a.pt", tmp_path / "a.safetensors"):
        text = shown(path)
        assert "which has no checksums" in text
        assert rows(text)["layer.0-1" if "layer.0-1" in text else "layer"][-2] == "8"


def test_stats_are_those_of_torch(tmp_path, shown, document):
    generator = torch.Generator().manual_seed(1)
    broken = torch.randn(100, generator=generator)
    broken[3], broken[5], broken[7] = math.nan, math.inf, -math.inf
    state = {
        "normal": torch.randn(300, 7, generator=generator) * 3 + 1,
        "half": torch.randn(50, generator=generator).half(),
        "brain": torch.randn(50, generator=generator).bfloat16(), "whole": torch.arange(-5, 5),
        "broken": broken,
        "view": torch.randn(9, 4, generator=generator).t(), "yes": torch.tensor([True, False, True]),
        "nothing": torch.empty(0), "nan": torch.tensor([math.nan]), "one": torch.tensor(2.0),
    }  # fmt: skip
    torch.save(state, tmp_path / "a.pt")
    told = {one["name"]: one for one in document(tmp_path / "a.pt", "--stats", "*")["stats"]}
    for name, live in state.items():
        finite = live.double().flatten()
        finite = finite[finite.isfinite()]
        one = told[name]
        assert sum(one["histogram"]) == finite.numel()
        assert one["norm"] == pytest.approx(finite.norm().item(), rel=1e-6)
        assert (one["nan"], one["inf"]) == (live.double().isnan().sum(), live.double().isinf().sum())
        if finite.numel():
            assert (one["min"], one["max"]) == (finite.min(), finite.max())
            assert one["mean"] == pytest.approx(finite.mean().item(), abs=1e-12)
        if finite.numel() > 1:
            assert one["std"] == pytest.approx(finite.std().item())
            expected = torch.histc(finite, 16)
            assert sum(abs(a - b) for a, b in zip(one["histogram"], expected.tolist(), strict=True)) <= 4
    assert told["nan"]["min"] == "nan"
    text = shown(tmp_path / "a.pt", "--stats", "normal")
    assert re.search(r"^normal  \[300, 7\] .*  0    0  [▁-█ ]{16}$", text, re.MULTILINE)


def test_stats_of_a_damaged_tensor_are_not_told(trained, shown):
    content = bytearray(trained.read_bytes())
    place = content.index(
        torch.load(trained, weights_only=True)["module_interface_state"]["h.3.0.weight"].numpy().tobytes()
    )
    content[place] ^= 1
    trained.write_bytes(content)
    assert "module_interface_state.h.3.0.weight" in shown(trained, "--stats", "*h.3.0.weight", code=3)
    assert "0.weight" in shown(trained, "--stats", "*h.4.0.weight")
    assert "h.0-11" in shown(trained)


def test_a_bad_file_exits_with_3_and_a_missing_one_with_4(tmp_path, shown):
    (tmp_path / "text.pt").write_text("hello, this is text")
    assert "not a checkpoint but a text file" in shown(tmp_path / "text.pt", code=3)
    torch.save({"name": torch.ones(3)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content.replace(b"X\x04\0\0\0name", b"X\x04\0\0\0nama"))
    assert "CRC" in shown(tmp_path / "a.pt", code=3)
    assert "no such file" in shown(tmp_path / "missing.pt", code=4)
    shown(tmp_path, code=1)


def test_names_that_attack_a_terminal_are_harmless(tmp_path, shown):
    evil = "\x1b[31mred\x1b]52;c;ZXZpbA==\x07\n[bold]"
    torch.save({evil: torch.ones(2), "b": evil, "c": {evil: 1}}, tmp_path / "a.pt")
    for options in ([], ["--tensors", "*"], ["--stats", "*"], ["--json"], ["--depth", "9"]):
        text = shown(tmp_path / "a.pt", *options)
        assert not {"\x1b", "\x07"} & {*text}
        assert "[bold]" in text


def test_shared_branches_count_once_in_the_totals(tmp_path, shown):
    inner = {"weight": torch.ones(1000)}
    torch.save({"model": inner, "ema": inner}, tmp_path / "a.pt")
    text = shown(tmp_path / "a.pt")
    assert re.search(r"^tensors +2 tensors, 1,000 elements, 4 kB$", text, re.MULTILINE)


def test_show_reads_the_structure_alone_and_imports_no_numpy(tmp_path, repository):
    path = tmp_path / "sparse.pt"
    torch.save({"a": torch.ones(1)}, path)
    script = (
        "import sys; from marlin_ckpt.cli.main import main\n"
        f"assert main(['show', {str(path)!r}]) == 0\n"
        "assert not {'numpy', 'torch', 'rich'} & {*sys.modules}, 'imported'"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_values_of_every_kind_fit_into_a_line_and_into_json(tmp_path, shown, document):
    state = {
        "text": "x" * 10_000, "bytes": b"\xff" * 9, "list": list(range(1000)), "big": 2**70, "huge": 2**9000,
        "nan": math.nan, "set": {1}, "complex": 1j, "vocabulary": {f"w{one}": one for one in range(2000)},
        "size": torch.Size([1, 2]), "dtype": torch.float16, "device": torch.device("cpu"), 3: None,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(state, tmp_path / "a.pt")
    assert max(map(len, shown(tmp_path / "a.pt").splitlines())) < 160
    values = document(tmp_path / "a.pt")["values"]
    assert values["big"] == 2**70
    assert values["huge"] == "an integer of 9001 bits"
    assert (values["list"], values["vocabulary"]) == ("1000 values", "2000 values")
    assert (values["nan"], values["size"], values["set"], values["3"]) == ("nan", [1, 2], [1], None)
