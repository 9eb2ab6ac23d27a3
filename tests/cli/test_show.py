"""`show` tells what a file is and holds, what unpickling it would import, and figures of its tensors."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from marlin_ckpt import Checkpoint
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.content.optimizers import find_optimizers
from marlin_ckpt.formats.content.outline import read_outline
from marlin_ckpt.formats.content.summary import summarise
from marlin_ckpt.formats.pickle import permissions
from marlin_ckpt.formats.pickle.permissions import Permission, permission
from marlin_ckpt.storage.local.files import open_source


@pytest.fixture
def shown(capsys):
    """Runs `show` and gives what it printed."""

    def run(path: Path | str, *options: str, code: int = 0) -> str:
        assert main(["show", os.fspath(path), *options]) == code
        ended = capsys.readouterr()
        return ended.out if code == 0 else ended.err

    return run


@pytest.fixture
def document(shown):
    """Runs `show --json` and gives the document."""
    return lambda path, *options: json.loads(shown(path, "--json", *options))


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


def unsafe(tmp_path: Path) -> Path:
    state = {
        "hyper_parameters": argparse.Namespace(lr=0.1), "float": np.float64(1.5),
        "array": np.arange(3, dtype="i4"), "when": np.datetime64("2026-01-02"),
        "path": Path("x"), "weights": torch.ones(2),
    }  # fmt: skip
    torch.save(state, tmp_path / "unsafe.ckpt")
    return tmp_path / "unsafe.ckpt"


def test_what_weights_only_refuses_is_marked_and_the_code_that_loads_it_does(tmp_path, shown, document):
    path = unsafe(tmp_path)
    text = shown(path)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    marked = set(re.findall(r"^UNSAFE +(\S+)$", text, re.MULTILINE))
    assert marked == set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    code = re.search(r"^to load +(import .*)\n +(with torch.*)$", text, re.MULTILINE)
    assert document(path)["allow_list"] == f"{code[1]}\n{code[2]}"
    scope: dict[str, Any] = {}
    exec(f"{code[1]}\n{code[2]}", scope)
    assert scope["state"]["hyper_parameters"].lr == 0.1
    assert scope["state"]["array"].tolist() == [0, 1, 2]


def test_what_runs_code_is_never_offered_to_be_allowed(tmp_path, shown, document):
    class Runs:
        def __reduce__(self):
            return os.system, ("touch ran",)

    torch.save({"a": Runs(), "b": argparse.Namespace()}, tmp_path / "a.pt")
    text = shown(tmp_path / "a.pt")
    assert re.search(r"^UNSAFE +posix.system, which runs code: never allow it$", text, re.MULTILINE)
    assert "to load" not in text
    told = document(tmp_path / "a.pt")
    assert told["allow_list"] is None
    assert {one["name"]: one["permission"] for one in told["imports"]} == {
        "posix.system": "dangerous", "argparse.Namespace": "refused",
    }  # fmt: skip
    assert not Path("ran").exists()


def test_the_names_that_are_allowed_are_those_of_the_installed_torch():
    from torch._weights_only_unpickler import _blocklisted_modules, _get_allowed_globals

    assert set(_get_allowed_globals()) == permissions.ALLOWED
    assert set(_blocklisted_modules) == permissions.BLOCKED_MODULES
    for name in ("os.system", "builtins.eval", "builtins.getattr", "subprocess.Popen", "sys.exit"):
        assert permission(name) is Permission.DANGEROUS
    for name in ("argparse.Namespace", "builtins.dict", "numpy.dtype", "osmium.x"):
        assert permission(name) is Permission.REFUSED


def test_names_of_python_2_and_of_numpy_1_are_told_as_what_loads_them(tmp_path):
    assert permissions.python_3_name("__builtin__", "set") == ("builtins", "set")
    assert permissions.python_3_name("copy_reg", "_reconstructor") == ("copyreg", "_reconstructor")
    code = permissions.loading_code("a'b", ["numpy.core.multiarray.scalar", "numpy.dtype"], ["f8"])
    allowed = '(numpy._core.multiarray.scalar, "numpy.core.multiarray.scalar"), numpy.dtype, '
    allowed += 'type(numpy.dtype("f8"))'
    assert code == (
        "import numpy, numpy._core.multiarray, torch",
        f'with torch.serialization.safe_globals([{allowed}]): state = torch.load("a\'b")',
    )
    assert permissions.loading_code("a", ["a b.c", "x.y"]) == ()


def optimizers() -> list[type[torch.optim.Optimizer]]:
    every = [one for one in vars(torch.optim).values() if isinstance(one, type)]
    return [
        one for one in every if issubclass(one, torch.optim.Optimizer) and one is not torch.optim.Optimizer
    ]


@pytest.mark.parametrize("kind", optimizers(), ids=lambda kind: kind.__name__)
def test_each_optimizer_of_torch_is_known_by_its_keys(kind, tmp_path):
    torch.save({"of": kind([nn.Parameter(torch.ones(3, 3))]).state_dict()}, tmp_path / "a.pt")
    with open_source(str(tmp_path / "a.pt")) as source:
        (found,) = find_optimizers(read_outline(source).root)
    assert (found.name, found.kind, found.groups[0]["params"]) == ("of", kind.__name__, 1)


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


@given(values=st.lists(st.floats(width=32), max_size=50), size=st.integers(1, 7))
def test_figures_do_not_depend_on_how_the_values_are_cut_into_blocks(values, size):
    from marlin_ckpt.formats.values import arrays, statistics

    path = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"show{os.getpid()}.pt"
    torch.save([torch.tensor(values)], path)
    original = arrays.blocks
    try:
        with open_source(str(path)) as source, pytest.MonkeyPatch.context() as patch:
            (tensor,) = read_outline(source).tensors
            whole = statistics.statistics(source, tensor)
            patch.setattr(arrays, "blocks", lambda fd, tensor: original(fd, tensor, size))
            cut = statistics.statistics(source, tensor)
    finally:
        path.unlink()
    assert (whole.nans, whole.infinities, whole.histogram) == (cut.nans, cut.infinities, cut.histogram)
    for name in ("minimum", "maximum", "mean", "std"):
        one, other = getattr(whole, name), getattr(cut, name)
        scale = max((abs(value) for value in values if math.isfinite(value)), default=0)
        assert one == pytest.approx(other, nan_ok=True, rel=1e-9, abs=1e-9 * scale)


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


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(["weight", "bias"]), st.integers(1, 3)), max_size=30
    )
)
def test_the_summary_loses_no_tensor_and_no_element(parts):
    state = {f"h.{number}.{name}": torch.ones(size) for number, name, size in parts}
    path = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"summary{os.getpid()}.pt"
    torch.save(state, path)
    try:
        with open_source(str(path)) as source:
            found = read_outline(source)
    finally:
        path.unlink()
    whole = summarise(found.root)
    assert (whole.tensors, whole.numel) == (len(state), sum(one.numel() for one in state.values()))

    def leaves(branch: Any) -> int:
        return sum(map(leaves, branch.children)) if branch.children else branch.numel

    assert leaves(whole) == whole.numel


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
