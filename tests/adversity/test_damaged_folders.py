"""Whatever is missing from a checkpoint of another tool, or is cut, `verify` finds and names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from marlin_ckpt.directory import catalog
from marlin_ckpt.formats import inspection
from marlin_ckpt.formats.verdicts import Status
from tests.support import damage_table
from tests.support.damaging import Said, removed, said_by, truncated, without_each
from tests.support.foreign.corpus import CHECKPOINTS
from tests.support.foreign.made import Made

# Files that a tool writes for some runs and not for others, and says in no file which.
_OF_SOME_RUNS = {
    "trainer-of-ranks": {"scaler.pt"},
    "trainer-deepspeed": {"model.safetensors", "scheduler.pt"},
    "dcp-hugging-face": {"shard-00002-model-00001-of-00001.safetensors"},  # of the last rank
    "accelerate": {"custom_checkpoint_0.pkl", "scheduler.bin"},
    "accelerate-of-two": {
        "custom_checkpoint_1.pkl", "dl_state_dict.bin", "model_1.safetensors", "optimizer_1.bin",
        "random_states_1.pkl", "sampler.bin", "scaler.pt", "scheduler_1.bin",
    },
    "accelerate-bin": {"custom_checkpoint_0.pkl", "scheduler.bin"},
    "accelerate-named": {"custom_checkpoint_0.pkl", "scheduler.bin"},
    "accelerate-fsdp": {"custom_checkpoint_0.pkl", "random_states_1.pkl", "scheduler.bin"},
    "accelerate-full-fsdp": {"custom_checkpoint_0.pkl", "random_states_1.pkl", "scheduler.bin"},
}  # fmt: skip
# In their place another file could hold the weights.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model_fsdp.bin")
_TEXTS = {"README.md", "zero_to_fp32.py"}
ONLY_IN_PARTS = {"deepspeed", "deepspeed-zero3", "deepspeed-fp16"}  # whose script puts them together


def unread(made: Made) -> set[str]:
    """The files of which nothing is read: texts, and what was merged into others."""
    return {name for name in made.spare if name in _TEXTS or name.startswith("sharded/")}


@pytest.fixture(params=CHECKPOINTS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return CHECKPOINTS[request.param](tmp_path)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.callspec.params["made"]


def names_it(said: Said) -> bool:
    file = Path(said.file).name
    is_said = file in said.text or (file in _WEIGHTS and "weights" in said.text)
    # Nothing counts the ranks of such shards: there is a hole in the tensors.
    return said.code == 3 and (is_said or (file.startswith("shard-") and "lacks" in said.text))


def test_a_file_that_is_missing_is_named_and_one_that_nobody_needs_is_not_missed(made, name):
    may_go = made.spare | _OF_SOME_RUNS.get(name, set())
    said = [one for one in removed(made) if not one.file.startswith("sharded/")]  # a checkpoint of its own
    assert [one for one in said if (one.file in may_go) == names_it(one) or one.code not in (0, 3)] == []


def test_what_is_missing_is_noticed_without_reading_the_data(made, name):
    may_go = made.spare | _OF_SOME_RUNS.get(name, set())
    for gone in without_each(made):
        found = catalog.entry(made.path)
        status = inspection.inspect(found).status if found else Status.INCOMPLETE
        assert status is (Status.COMPLETE if gone in may_go else Status.INCOMPLETE), gone


def test_a_file_that_is_cut_is_named(made, cases):
    said = list(truncated(made, in_turn=cases(1, 0) == 1))
    assert [one for one in said if one.file not in unread(made) and not names_it(one)] == []


@pytest.mark.parametrize("command", ["list", "show", "verify", "diff"])
def test_a_whole_checkpoint_passes_each_command(made, command):
    arguments = {
        "list": [made.path.parent],
        "show": [made.path, "--tensors", "*"],
        "verify": [made.path],
        "diff": [made.path, made.path],
    }
    code, printed = said_by(command, *arguments[command])
    assert code == 0, printed
    wanted = {"show": made.weights, "verify": [made.path.name]}.get(command, ())
    assert [one for one in wanted if one not in printed] == []


def test_the_weights_are_exported_as_they_are(made, name, tmp_path):
    target = tmp_path / "exported.safetensors"
    code, printed = said_by("export", made.path, "-o", target)
    if name in ONLY_IN_PARTS:
        assert (code, target.exists()) == (1, False)
        assert "zero_to_fp32.py" in printed
        return
    assert code == 0, printed
    found = load_file(target)
    for weight, value in made.weights.items():
        if not weight.startswith("model_1."):  # of the second of two models
            exported = next(one for one in found if f".{weight}".endswith(f".{one}"))
            assert torch.equal(found[exported], value), weight


def test_the_table_of_the_reference_says_what_is_noticed(tmp_path, repository, cases):
    layouts = [*damage_table.LAYOUTS.items()][:: cases(3, 1)]
    table = damage_table.table(damage_table.rows(tmp_path, dict(layouts)))
    page = (repository / damage_table.PAGE).read_text(encoding="utf-8").splitlines()
    wrong = [line for line in table.splitlines() if line not in page]
    assert wrong == [], "python -m tests.support.damage_table writes it anew"
