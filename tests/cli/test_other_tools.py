"""`list` and `latest` of directories that other tools have filled, with files and with folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marlin_ckpt import (
    CheckpointDirectory,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    RetentionArguments,
    get_latest_file,
)
from marlin_ckpt.directory import catalog
from tests.support.foreign import accelerate, hugging_face, lightning, plain, trainer
from tests.support.foreign.corpus import RUNS


@pytest.fixture
def list_json(run_main):
    def rows(*arguments: str | Path) -> list[dict]:
        code, out, err = run_main("list", *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)["checkpoints"]

    return rows


def saved_by_torch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"a": torch.ones(2)}, path)


def test_folders_are_listed_in_the_order_of_their_steps_each_as_a_whole(list_json, tmp_path):
    made = RUNS["trainer"](tmp_path)
    rows = list_json(tmp_path)
    assert [(one["path"], one["index"]) for one in rows] == [(str(one.path), one.step) for one in made]
    assert all(one["complete"] and one["layout"] for one in rows)


def test_the_table_has_the_layout_in_place_of_the_kind(run_main, tmp_path):
    accelerate.make_accelerate(tmp_path, step=3)
    header, row = run_main("list", tmp_path / "checkpoints")[1].splitlines()
    assert row[header.index("kind") :].split()[0] == "accelerate"


def test_the_runs_of_another_tool_are_listed_one_after_the_other_whatever_their_steps(list_json, tmp_path):
    for name, steps in (("b", (2, 40)), ("a", (10, 30))):
        for step in steps:
            trainer.make_trainer(tmp_path / name, step=step)
    found = [os.path.relpath(one["path"], tmp_path) for one in list_json(tmp_path, "--recursive")]
    assert found == ["a/checkpoint-10", "a/checkpoint-30", "b/checkpoint-2", "b/checkpoint-40"]


@pytest.mark.parametrize(
    "make", [trainer.make_trainer, hugging_face.make_sharded, accelerate.make_accelerate]
)
def test_a_directory_that_is_one_checkpoint_is_listed_as_itself(list_json, tmp_path, make):
    made = make(tmp_path)
    assert [one["path"] for one in list_json(made.path)] == [str(made.path)]


def test_a_trainers_directory_with_its_last_weights_is_listed_with_its_checkpoints(
    run_main, list_json, tmp_path
):
    made = hugging_face.make_sharded(tmp_path)
    trainer.make_trainer(made.path, step=4)
    places = [made.path, made.path / "checkpoint-4"]
    assert [one["path"] for one in list_json(made.path)] == [*map(str, reversed(places))]
    code, out, _ = run_main("verify", made.path, "--json")
    assert (code, [one["path"] for one in json.loads(out)["files"]]) == (0, [*map(str, places)])
    assert run_main("latest", made.path)[1] == f"{places[1]}\n"


def test_a_directory_of_ours_with_an_export_in_it_lists_our_files_and_the_export(list_json, tmp_path):
    saved_by_torch(tmp_path / "model_3.pt")
    made = hugging_face.make_single(tmp_path)
    assert {one["path"] for one in list_json(tmp_path)} == {str(tmp_path / "model_3.pt"), str(made.path)}


@pytest.mark.parametrize(
    ("names", "asked", "options"),
    [
        (["epoch=1-step=4.ckpt"], "--ext pt", "--ext ckpt"),
        (["below/epoch=1-step=4.ckpt"], "", "--recursive"),
        (["below/epoch=1-step=4.ckpt"], "--ext pt", "--recursive --ext ckpt"),
        (["below/model_1.pt"], "", "--recursive"),
        (["a.bin", "b.pth"], "--ext pt", "--ext bin or --ext pth"),
    ],
)
def test_a_hint_names_the_options_that_show_what_else_is_there(run_main, tmp_path, names, asked, options):
    saved_by_torch(*(tmp_path / name for name in names))
    code, _, err = run_main("list", tmp_path, *asked.split())
    assert (code, err.splitlines()[-1].partition(" with ")[2]) == (0, options)
    shown = run_main("list", tmp_path, *options.partition(" or ")[0].split())[1]
    assert len(shown.splitlines()) == 2


def test_files_of_several_tools_are_listed_together(list_json, tmp_path):
    names = ["model_1.pt", "epoch=1-step=4.ckpt", "weights.safetensors", "best.pth"]
    saved_by_torch(*(tmp_path / name for name in names))
    trainer.make_trainer(tmp_path, step=7)
    listed = [os.path.basename(one["path"]) for one in list_json(tmp_path)]
    assert listed == ["model_1.pt", "epoch=1-step=4.ckpt", "checkpoint-7", "best.pth", "weights.safetensors"]


def test_a_folder_below_is_hinted_at(run_main, tmp_path):
    accelerate.make_accelerate(tmp_path, step=3)
    assert "--recursive" in run_main("list", tmp_path)[2]


def test_there_is_no_hint_where_an_extension_was_asked_for_or_nothing_is_left_out(run_main, tmp_path):
    saved_by_torch(tmp_path / "model_1.pt", tmp_path / "notes.bin")
    assert "hint" not in run_main("list", tmp_path)[2]
    saved_by_torch(tmp_path / "epoch=1-step=4.ckpt")
    assert "hint" not in run_main("list", tmp_path, "--ext", "pt")[2]


@pytest.mark.parametrize("name", ["trainer", "trainer-only-model", "accelerate", "lightning"])
def test_latest_is_the_newest_of_another_tool_by_its_own_order(run_main, tmp_path, name):
    made = RUNS[name](tmp_path)
    assert run_main("latest", tmp_path) == (0, f"{made[-1].path}\n", "")


def test_checkpoints_of_ours_come_before_those_of_other_tools(run_main, tmp_path):
    saved_by_torch(tmp_path / "model_3.pt")
    trainer.make_trainer(tmp_path, step=40)
    assert run_main("latest", tmp_path)[1] == f"{tmp_path / 'model_3.pt'}\n"
    assert run_main("latest", tmp_path, "--prefix", "checkpoint")[1] == f"{tmp_path / 'checkpoint-40'}\n"


def test_latest_among_several_kinds_fails_and_names_them(run_main, tmp_path):
    trainer.make_trainer(tmp_path, step=4)
    lightning.make_lightning(tmp_path, step=6, epoch=2)
    code, out, err = run_main("latest", tmp_path)
    assert (code, out) == (1, "")
    assert "*.ckpt, checkpoint-*/" in err


def test_latest_among_folders_whose_names_say_nothing_fails_and_names_two(run_main, tmp_path):
    made = [hugging_face.make_single(tmp_path / "in" / name) for name in "ab"]
    code, out, err = run_main("latest", tmp_path)
    assert (code, out) == (1, "")
    assert all(os.path.relpath(one.path, tmp_path) in err for one in made)
    trainer.make_trainer(tmp_path, step=4)
    assert run_main("latest", tmp_path)[1] == f"{tmp_path / 'checkpoint-4'}\n"


def test_latest_intact_says_why_a_folder_of_another_tool_is_passed_over(run_main, tmp_path):
    made = RUNS["trainer"](tmp_path)
    code, out, err = run_main("latest", tmp_path, "--intact")
    assert (code, out) == (4, "")
    assert f"passed over {made[-1].path}: unverifiable" in err
    assert "marlin-ckpt latest" in err


def test_no_run_of_ours_takes_a_folder_of_another_tool_for_its_own(tmp_path, make_checkpoint):
    trainer.make_trainer(tmp_path, step=40)
    accelerate.make_accelerate(tmp_path, step=40)
    assert get_latest_file(tmp_path, "checkpoint") == ""
    assert catalog.find(tmp_path / "checkpoints", prefix="checkpoint") == []  # what a run counts
    arguments = DefaultCheckpointerArguments(
        save_dir=str(tmp_path / "checkpoints"), load_dir=str(tmp_path / "checkpoints"),
        file_prefix="checkpoint", delete_existing_checkpoints=True, keep=RetentionArguments(last=1),
    )  # fmt: skip
    checkpointer = DefaultCheckpointer(arguments)
    assert checkpointer.load().module_interface_state is None
    for index in (1, 2):
        checkpointer.save(make_checkpoint(), index)
    left = os.listdir(tmp_path / "checkpoints")
    assert sorted(one for one in left if one[0] != ".") == ["checkpoint_2.pt", "checkpoint_40"]


def test_a_run_that_deletes_what_was_there_leaves_folders_of_other_tools(tmp_path, make_checkpoint):
    made = lightning.make_lightning_sharded(tmp_path)
    saved_by_torch(tmp_path / "model_1.ckpt")
    arguments = DefaultCheckpointerArguments(
        save_dir=str(tmp_path), file_ext="ckpt", delete_existing_checkpoints=True
    )
    DefaultCheckpointer(arguments).save(make_checkpoint(), 3)
    assert sorted(one for one in os.listdir(tmp_path) if one[0] != ".") == [made.path.name, "model_3.ckpt"]
    directory = CheckpointDirectory(tmp_path, prefix=made.path.name.partition("=")[0])
    assert directory.latest() is None


def test_latest_of_folders_imports_nothing_that_reads_them(tmp_path):
    RUNS["accelerate"](tmp_path)
    code = (
        f"import sys; from marlin_ckpt.cli.main import main; main(['latest', {str(tmp_path)!r}]);"
        "print({'json', 'torch', 'numpy', 'marlin_ckpt.formats.layouts.judgement'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("checkpoint_10\nset()\n")


@pytest.mark.parametrize(
    ("run_of", "file", "said", "what"),
    [
        ("deepspeed", "latest", "global_step4", "names global_step4, which is not the newest"),
        ("deepspeed", "latest", "global_step12\n", "names global_step12, which is not there"),
        ("megatron", "latest_checkpointed_iteration.txt", "4", "names iter_0000004, which is not the newest"),
        ("megatron", "latest_checkpointed_iteration.txt", "10", ""),
    ],
)
def test_latest_says_where_the_file_of_the_tool_names_another_one(
    run_main, tmp_path, run_of, file, said, what
):
    made = RUNS[run_of](tmp_path)
    (made[-1].path.parent / file).write_text(said)
    code, out, err = run_main("latest", tmp_path)
    assert (code, out) == (0, f"{made[-1].path}\n")
    assert err == (f"{made[-1].path.parent / file} {what}\n" if what else "")


def test_files_of_lightning_are_listed_by_their_steps_with_the_metrics_in_their_names(list_json, tmp_path):
    names = ["epoch=10-step=40-val_loss=0.25", "epoch=2-step=8-val_loss=-0.50-v1", "last"]
    saved_by_torch(*(tmp_path / f"{name}.ckpt" for name in names))
    rows = list_json(tmp_path, "--ext", "ckpt")
    assert [(one["index"], one["kind"], one["metrics"]) for one in rows] == [
        (8, "checkpoint", {"val_loss": -0.5}), (40, "checkpoint", {"val_loss": 0.25}), (None, "other", None),
    ]  # fmt: skip


def test_the_best_file_of_ignite_is_found_by_the_score_in_its_name(run_main, tmp_path):
    saved_by_torch(tmp_path / "best_model_9_val_loss=0.5.pt", tmp_path / "best_model_10_val_loss=0.75.pt")
    code, out, _ = run_main("list", tmp_path, "--best", "val_loss")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["9", "10"]


@pytest.mark.parametrize("options", [(), ("--prefix", "epoch", "--ext", "ckpt")])
def test_a_link_to_the_last_file_beside_it_leaves_no_doubt_which_is_the_newest(run_main, tmp_path, options):
    made = RUNS["lightning"](tmp_path)
    (tmp_path / "last.ckpt").symlink_to(made[-1].path.name)
    assert run_main("latest", tmp_path, *options) == (0, f"{made[-1].path}\n", "")


def test_a_link_that_is_asked_for_by_its_own_name_is_found(run_main, tmp_path):
    made = RUNS["lightning"](tmp_path)
    (tmp_path / "last.ckpt").symlink_to(made[-1].path.name)
    found = run_main("latest", tmp_path, "--prefix", "last", "--ext", "ckpt")
    assert found == (0, f"{tmp_path / 'last.ckpt'}\n", "")


def test_a_link_to_a_folder_of_lightning_beside_it_leaves_no_doubt_which_is_the_newest(run_main, tmp_path):
    made = RUNS["lightning-sharded"](tmp_path)
    (tmp_path / "last.ckpt").symlink_to(made[-1].path.name)
    assert run_main("latest", tmp_path) == (0, f"{made[-1].path}\n", "")


def test_a_link_to_a_file_elsewhere_may_be_the_newest(run_main, tmp_path):
    saved_by_torch(tmp_path / "run/epoch=1-step=4.ckpt", tmp_path / "elsewhere.ckpt")
    (tmp_path / "run/last.ckpt").symlink_to(tmp_path / "elsewhere.ckpt")
    assert "names do not tell which is newer" in run_main("latest", tmp_path / "run")[2]


def test_files_of_timm_are_listed_by_their_whole_extension_and_the_newest_is_found(run_main, tmp_path):
    steps = (3, 10)
    *_, newest = [plain.make_timm(tmp_path, epoch=step).path for step in steps]
    assert run_main("latest", newest.parent) == (0, f"{newest}\n", "")
    for options in ((), ("--ext", "pth.tar")):
        rows = run_main("list", newest.parent, *options)[1].splitlines()[1:]
        assert [int(row.split()[0]) for row in rows] == list(steps)
    assert run_main("verify", newest.parent)[1].count("intact  ") == len(steps)


def test_the_newest_file_of_fairseq_is_found_by_epoch_and_update(run_main, tmp_path):
    names = ["checkpoint_1_100.pt", "checkpoint_10_1000.pt", "checkpoint_2_200.pt"]
    saved_by_torch(*(tmp_path / name for name in names))
    assert run_main("latest", tmp_path) == (0, f"{tmp_path / names[1]}\n", "")
