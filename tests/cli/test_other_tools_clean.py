"""`clean` of directories of other tools: by whole checkpoints, and never what their tool still needs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from marlin_ckpt.cli.main import main
from tests.support.folder_checkpoints import read_all
from tests.support.foreign import accelerate, hugging_face, lightning, trainer
from tests.support.foreign.corpus import RUNS


@pytest.fixture
def clean(capsys):
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["clean", *map(os.fspath, arguments)])
        return code, *capsys.readouterr()

    return run


def there(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name[0] != ".")


def set_best(path: Path, best: object) -> None:
    state = json.loads((path / "trainer_state.json").read_text())
    (path / "trainer_state.json").write_text(json.dumps(state | {"best_model_checkpoint": best}))


@pytest.mark.parametrize("name", ["trainer", "accelerate", "torchtitan", "megatron", "deepspeed"])
def test_rules_remove_whole_folders_of_another_tool_and_keep_the_newest(clean, tmp_path, name):
    made = RUNS[name](tmp_path)
    directory, kept = made[0].path.parent, [read_all(one.path) for one in made[1:]]
    others = set(there(directory)) - {one.path.name for one in made}
    code, out, _ = clean(directory, "--keep-last", "2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["remove", "keep", "keep"]
    assert set(there(directory)) == {*others, *(one.path.name for one in made[1:])}
    assert [read_all(one.path) for one in made[1:]] == kept


def test_folders_of_lightning_go_as_its_files_do(clean, tmp_path):
    folders = RUNS["lightning-sharded"](tmp_path / "a")
    assert clean(tmp_path / "a", "--keep-last", "1")[0] == 0
    assert there(tmp_path / "a") == [folders[-1].path.name]
    (tmp_path / "b").mkdir()
    files = RUNS["lightning"](tmp_path / "b")
    assert "hint: there are files with --ext ckpt" in clean(tmp_path / "b", "--keep-last", "1")[2]
    assert clean(tmp_path / "b", "--keep-last", "1", "--ext", "ckpt")[0] == 0
    assert there(tmp_path / "b") == [files[-1].path.name]


def test_files_of_ignite_with_their_score_are_of_one_run(clean, tmp_path):
    for step, score in ((1, 0.5), (2, 0.9), (10, 0.7)):
        torch.save({}, tmp_path / f"best_model_{step}_accuracy={score}.pt")
    assert clean(tmp_path, "--keep-last", "1")[0] == 0
    assert there(tmp_path) == ["best_model_10_accuracy=0.7.pt"]


def test_rules_go_by_the_metrics_that_the_tool_keeps(clean, tmp_path):
    made = RUNS["trainer"](tmp_path)
    for one in made:
        set_best(one.path, None)
    assert clean(tmp_path, "--keep-best", "eval_loss:max")[0] == 0
    assert there(tmp_path) == [made[-1].path.name, made[0].path.name]  # the newest, and the greatest loss


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("deepspeed", "latest", "global_step2"),
        ("megatron", "latest_checkpointed_iteration.txt", "2"),
    ],
)
def test_what_a_file_of_the_tool_names_stays_unless_told(clean, tmp_path, name, file, said):
    made = RUNS[name](tmp_path)
    directory = made[0].path.parent
    (directory / file).write_text(said)
    code, out, _ = clean(directory, "--keep-last", "1")
    assert code == 0
    assert f"{file} names it" in out.splitlines()[1]
    assert {one.path.name for one in made} & set(there(directory)) == {made[0].path.name, made[-1].path.name}
    assert clean(directory, "--keep-last", "1", "--remove-needed")[0] == 0
    assert {one.path.name for one in made} & set(there(directory)) == {made[-1].path.name}


def test_the_best_model_of_a_trainer_stays_by_what_its_newest_checkpoint_says(clean, tmp_path):
    made = RUNS["trainer"](tmp_path)
    set_best(made[1].path, "out/checkpoint-4")
    set_best(made[2].path, "elsewhere/checkpoint-2")
    code, out, _ = clean(tmp_path, "--keep-last", "1")
    assert code == 0
    assert "checkpoint-10 still needs it" in out.splitlines()[1]
    assert there(tmp_path) == ["checkpoint-10", "checkpoint-2"]
    assert clean(tmp_path, "--keep-last", "1", "--remove-needed")[0] == 0
    assert there(tmp_path) == ["checkpoint-10"]


def test_the_best_model_stays_whatever_lies_beside_and_though_the_newest_save_did_not_finish(clean, tmp_path):
    made = RUNS["trainer"](tmp_path)
    set_best(made[1].path, None)
    set_best(made[2].path, "out/checkpoint-2")
    hugging_face.make_single(tmp_path).path.rename(tmp_path / "final")  # has no step
    unfinished = trainer.make_trainer(tmp_path, step=12).path
    (unfinished / "trainer_state.json").unlink()
    code, out, _ = clean(tmp_path, "--keep-last", "1")
    assert code == 0
    assert "checkpoint-10 still needs it" in out.splitlines()[1]
    assert there(tmp_path) == ["checkpoint-10", "checkpoint-12", "checkpoint-2", "final"]


def test_an_incomplete_folder_neither_counts_nor_goes(clean, tmp_path):
    made = RUNS["trainer"](tmp_path)
    set_best(made[1].path, None)
    (made[2].path / "optimizer.pt").unlink()
    code, out, _ = clean(tmp_path, "--keep-last", "1")
    assert code == 0
    assert "left alone: optimizer.pt is missing" in out
    assert there(tmp_path) == ["checkpoint-10", "checkpoint-4"]


def test_a_damaged_folder_is_not_the_newest_that_others_go_for(clean, tmp_path):
    made = RUNS["accelerate"](tmp_path)
    data = bytearray((made[2].path / "optimizer.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (made[2].path / "optimizer.bin").write_bytes(data)
    assert clean(made[0].path.parent, "--keep-last", "1")[0] == 0
    assert there(made[0].path.parent) == ["checkpoint_10", "checkpoint_2"]


@pytest.mark.parametrize("options", [[], ["--keep-last", "1"], ["--recursive"], ["--ext", "bin"]])
@pytest.mark.parametrize(
    ("make", "mark"),
    [
        (trainer.make_trainer, "trainer_state.json"),
        (accelerate.make_accelerate, "random_states_0.pkl"),
        (hugging_face.make_sharded, "model.safetensors.index.json"),
        (lightning.make_lightning_sharded, ".metadata"),
    ],
)
def test_in_one_checkpoint_nothing_goes_and_the_hint_names_the_directory_above(
    clean, tmp_path, make, mark, options
):
    made = make(tmp_path)
    before = read_all(made.path)
    code, out, err = clean(made.path, *options)
    assert (code, out) == (1, "")
    assert mark in err
    assert f"hint: `marlin-ckpt clean {made.path.parent} --keep-last" in err
    assert read_all(made.path) == before


def test_without_rules_folders_of_other_tools_stay_and_a_hint_says_so(clean, tmp_path):
    trainer.make_trainer(tmp_path, step=4)
    lightning.make_lightning_sharded(tmp_path)
    torch.save({}, tmp_path / "epoch=1-step=4.ckpt")
    before = there(tmp_path)
    for options in ([], ["--recursive"], ["--prefix", "checkpoint"]):
        assert clean(tmp_path, *options)[0] == 0
        assert there(tmp_path) == before
    _, _, err = clean(tmp_path, "--ext", "ckpt")
    assert "hint: 2 folders of other tools stay" in err
    assert there(tmp_path) == [one for one in before if one != "epoch=1-step=4.ckpt"]


def test_weights_without_a_step_in_their_name_and_what_holds_others_stay(clean, tmp_path):
    final = hugging_face.make_single(tmp_path)
    made = [trainer.make_trainer(final.path, step=step) for step in (2, 4, 10)]
    shutil.copytree(final.path, tmp_path / "checkpoint-1")
    shutil.copytree(final.path, tmp_path / "checkpoint-12", ignore=shutil.ignore_patterns("checkpoint-*"))
    set_best(made[-1].path, None)
    assert clean(final.path, "--keep-last", "1")[0] == 0
    assert not {"checkpoint-2", "checkpoint-4"} & set(there(final.path))
    assert "config.json" in there(final.path)
    assert clean(tmp_path, "--keep-last", "1")[0] == 0
    assert {final.path.name, "checkpoint-1", "checkpoint-12"} <= set(there(tmp_path))


def test_the_runs_of_another_tool_are_cleaned_each_for_itself(clean, tmp_path):
    for name in "ab":
        for step in (2, 4):
            accelerate.make_accelerate(tmp_path / name, step=step)
    assert clean(tmp_path, "--keep-last", "1", "--recursive")[0] == 0
    assert [there(tmp_path / name / "checkpoints") for name in "ab"] == [["checkpoint_4"]] * 2


@pytest.mark.parametrize("name", ["trainer-fsdp", "torchtitan", "lightning-sharded"])
def test_the_trash_takes_whole_folders_and_gives_them_back(clean, tmp_path, name):
    made = RUNS[name](tmp_path)
    directory = made[0].path.parent
    before = read_all(directory)
    assert clean(directory, "--keep-last", "1", "--to-trash", "--remove-needed")[0] == 0
    assert made[0].path.name not in there(directory)
    assert clean(directory, "--undo")[0] == 0
    assert read_all(directory) == before
    assert clean(directory, "--keep-last", "1", "--to-trash", "--remove-needed")[0] == 0
    assert clean(directory, "--empty-trash")[0] == 0
    assert there(directory) == [made[-1].path.name]
    assert not (directory / ".trash").exists()
