"""`diff` of folders and files in any two layouts: the tensors that differ, and no noise of the formats."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from marlin_ckpt.cli.main import main
from marlin_ckpt.operations import export, weights_file
from marlin_ckpt.operations.diff import Comparison, compare
from marlin_ckpt.operations.export import Wanted
from marlin_ckpt.operations.one import opened
from tests.support.foreign import accelerate, dcp_folders, hugging_face, plain, trainer
from tests.support.foreign.made import Made

MAKERS = {
    "one": hugging_face.make_single,
    "sharded": hugging_face.make_sharded,
    "pickled": hugging_face.make_sharded_bin,
    "trainer": trainer.make_trainer,
    "only-model": trainer.make_trainer_only_model,
    "accelerate": accelerate.make_accelerate,
    "nanogpt": plain.make_nanogpt,
    "dcp": dcp_folders.make_dcp,
    "torchtitan": dcp_folders.make_torchtitan,
}

PAIRS = [pair for pair in itertools.permutations(MAKERS, 2) if "torchtitan" not in pair]  # whose names differ


def differences(a: Path | str, b: Path | str, *arguments: str | None) -> Comparison:
    with opened(str(a)) as one, opened(str(b)) as other:
        return compare(one, other, *arguments)


def run_export(made: Made, output: Path) -> Path:
    with opened(str(made.path)) as file:
        export.export(file, weights_file.output(str(output), "100" if not output.suffix else None), Wanted())
    return output


def bare(made: Made) -> dict[str, torch.Tensor]:
    """The weights by their names in the state of the model, which plain files have a name for."""
    prefix = "model." if "model.lm_head.weight" in made.weights else ""
    return {name.removeprefix(prefix): one for name, one in made.weights.items()}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("output", ["new.safetensors", "new.pt", "new"])
def test_what_is_exported_is_the_same_as_what_it_was_exported_from(tmp_path, name, output):
    made = MAKERS[name](tmp_path)
    new = run_export(made, tmp_path / "out" / output if not Path(output).suffix else tmp_path / output)
    for pair in ((made.path, new), (new, made.path)):
        found = differences(*pair)
        assert found.is_same, found
        assert found.counts["same"] == len(made.weights)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_weights_of_any_two_layouts_are_compared_by_their_names_and_nothing_else_is(tmp_path, one, other):
    a, b = MAKERS[one](tmp_path / "a"), MAKERS[other](tmp_path / "b")
    found = differences(a.path, b.path)
    if "trainer" in (one, other) and "only-model" in (one, other):  # of one layout
        assert {each.name for each in found.tensors if each.name.startswith("model.")}
        return
    weights, others = bare(a), bare(b)
    assert {each.name for each in found.tensors} == {*weights}
    assert found.values == ()
    same = {name for name, each in weights.items() if torch.equal(each, others[name])}
    assert {each.name for each in found.tensors if each.change == "same"} == same


def test_two_checkpoints_of_a_trainer_differ_in_weights_optimizer_and_state(tmp_path):
    before, after = (trainer.make_trainer(tmp_path, step=step) for step in (2, 10))
    found = differences(before.path, after.path)
    tops = {one.name.partition(".")[0] for one in found.differing}
    assert tops == {"model", "optimizer"}
    values = {one.name: (one.before, one.after) for one in found.values}
    assert values["trainer_state.global_step"] == ("2", "10")
    assert values["scheduler.last_epoch"] == ("2", "10")
    assert not any("__metadata__" in name for name in values)


def test_a_log_that_has_grown_is_one_difference_and_not_one_for_each_of_its_lines(tmp_path):
    before, after = (trainer.make_trainer(tmp_path / name) for name in "ab")
    state = json.loads((after.path / "trainer_state.json").read_text())
    logged = len(state["log_history"])
    state["log_history"] += [{"step": step, "loss": 1.0, "epoch": step / 10} for step in range(500)]
    state["log_history"][0]["loss"] = 77.0
    (after.path / "trainer_state.json").write_text(json.dumps(state))
    for pair in ((before.path, after.path), (after.path, before.path)):
        found = {one.name: {one.before, one.after} for one in differences(*pair).values}
        found = {name: each for name, each in found.items() if "log_history" in name}
        assert {*found} == {"trainer_state.log_history", "trainer_state.log_history[0].loss"}
        assert found["trainer_state.log_history"] == {f"a list of {logged}", f"a list of {logged + 500}"}


def test_shards_that_are_divided_otherwise_and_their_texts_are_no_difference(tmp_path):
    one = hugging_face.make_sharded(tmp_path / "a", shards=2)
    other = hugging_face.make_sharded(tmp_path / "b", shards=4)
    shard = other.path / "model-00001-of-00004.safetensors"
    names = [name for name, (file,) in other.holders.items() if file == shard.name]
    save_file({name: other.weights[name] for name in names}, shard, metadata={"merged_by": "somebody"})
    assert differences(one.path, other.path).is_same


def test_a_tied_name_that_a_shard_has_in_its_texts_alone_is_one_of_the_folder(tmp_path):
    embedding = torch.rand(4, 4)
    state = {"a": torch.rand(9, 4), "wte.weight": embedding, "head.weight": embedding}
    torch.save(state, tmp_path / "tied.pt")
    with opened(str(tmp_path / "tied.pt")) as file:
        export.export(file, weights_file.output(str(tmp_path / "new"), "100"), Wanted())
    assert len(list((tmp_path / "new").glob("*.safetensors"))) > 1
    found = differences(tmp_path / "tied.pt", tmp_path / "new")
    assert found.is_same
    assert found.counts["same"] == 3


def test_a_state_of_one_file_is_compared_with_all_of_a_folder_that_is_nothing_else(tmp_path):
    folder = hugging_face.make_sharded(tmp_path)
    state = {f"net.{name}": one for name, one in folder.weights.items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "epoch=1-step=4.ckpt")
    path = tmp_path / "epoch=1-step=4.ckpt"
    assert differences(path, folder.path).counts["removed"] == len(state)
    for pair in ((path, folder.path), (folder.path, path)):
        found = differences(*pair, "state_dict.net")
        assert found.is_same
        assert found.counts["same"] == len(state)


def test_states_of_two_folders_are_compared_by_name(tmp_path):
    a, b = (accelerate.make_accelerate_of_two(tmp_path / name) for name in "ab")
    assert differences(a.path, b.path, "model_1").states == ("model_1", "model_1")
    assert differences(a.path, b.path, "optimizer").is_same


def test_the_document_of_a_comparison_of_folders(tmp_path, capsys):
    one = hugging_face.make_sharded(tmp_path / "a", step=1)
    other = trainer.make_trainer(tmp_path / "b", step=2)
    assert main(["diff", str(one.path), str(other.path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["paths"] == [str(one.path), str(other.path)]
    assert document["states"] == [None, "model"]
    assert document["counts"]["changed"] == len(one.weights)
    assert document["values"] == []


def test_an_incomplete_folder_is_compared_with_nothing(tmp_path, capsys):
    one, other = (hugging_face.make_sharded(tmp_path / name) for name in "ab")
    (other.path / "model-00002-of-00003.safetensors").unlink()
    assert main(["diff", str(one.path), str(other.path)]) == 3
    assert "model-00002-of-00003.safetensors is missing" in capsys.readouterr().err


def test_the_statistics_of_a_folders_tensors_are_those_of_a_file(tmp_path, capsys):
    made = hugging_face.make_sharded(tmp_path)
    run_export(made, tmp_path / "one.safetensors")
    tables = []
    for path in (made.path, tmp_path / "one.safetensors"):
        assert main(["show", str(path), "--stats", "*", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        tables.append(sorted(document["stats"], key=lambda one: one["name"]))
    assert [one["name"] for one in tables[0]] == sorted(made.weights)
    assert tables[0] == tables[1]
