"""`marlin-ckpt train` where a run has been already: it continues, is told to begin anew, or is refused."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import lease
from tests.support.folders import contents, visible

RUN = """
module: {name: spiral, points: 30}
trainer: {epochs: 2, train_batch_size: 16, device: cpu}
checkpointer: {save_dir: saved, model_state_save_dir: models}
"""


@pytest.fixture
def train(capsys, tmp_path, monkeypatch):
    """Runs the configuration above, in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)

    def run(*options: str) -> tuple[int, str, str]:
        code = main(["train", "--config", "run.yaml", *options])
        return code, *capsys.readouterr()

    return run


def everything() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def test_the_same_command_again_exits_2_names_the_run_its_newest_file_and_three_ways_and_touches_nothing(
    train, capsys
):
    report = json.loads(train("--json")[1])
    before = everything()
    code, out, err = train()
    assert (code, out) == (2, "")
    problem, hint = err.splitlines()
    run_id = report["run_id"]
    assert problem == (
        f"error: checkpointer.save_dir: saved holds run {run_id}, its newest file saved/model_1.pt; "
        "a new run would write over it"
    )
    assert hint == (
        "hint: --resume continues it; --set checkpointer.save_dir=DIR saves elsewhere; "
        "--overwrite deletes it and begins anew"
    )
    assert everything() == before


def test_each_of_the_three_ways_goes_on(train):
    first = json.loads(train("--json")[1])
    resumed = json.loads(train("--resume", "--set", "trainer.epochs=3", "--json")[1])
    assert (resumed["run_id"], resumed["resumed_from"]) == (first["run_id"], "saved/model_1.pt")
    elsewhere = [
        part for key in ("save_dir", "model_state_save_dir") for part in ("--set", f"checkpointer.{key}=new")
    ]
    assert train(*elsewhere)[0] == 0
    code, out, err = train("--overwrite", "--set", "trainer.epochs=1", "--json")
    assert code == 0
    assert "warning: deletes 3 files of an earlier run in saved" in err
    assert visible("saved") == ["model_0.pt"]
    assert json.loads(out)["run_id"] != first["run_id"]


def test_a_key_that_deletes_needs_no_option(train):
    assert train()[0] == 0
    assert train("--set", "checkpointer.delete_existing_checkpoints=true")[0] == 0


def test_files_without_a_manifest_in_either_directory_are_refused_and_no_folder_is_made(train):
    for directory, name in (
        ("saved", "model_7.pt"),
        ("saved", "model_model_7.pt"),
        ("models", "model_model_0.pt"),
    ):
        Path(directory).mkdir()
        torch.save({"weight": torch.ones(1)}, Path(directory, name))
        code, _, err = train()
        assert code == 2
        key = "save_dir" if directory == "saved" else "model_state_save_dir"
        assert f"checkpointer.{key}: {directory} holds a run that is not known" in err
        assert f"newest file {directory}/{name}" in err
        assert os.listdir(directory) == [name]
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    "name", ["other_1.pt", "model_1.ckpt", "model.pt", "notes_model_1.pt", "model_big_1.pt"]
)
def test_other_prefixes_and_extensions_are_no_reason(train, name):
    for directory in ("saved", "models"):
        Path(directory).mkdir()
        Path(directory, name).write_bytes(b"of somebody else")
    assert train()[0] == 0
    assert Path("saved", name).read_bytes() == b"of somebody else"


@pytest.mark.parametrize(
    "load", ["{load_dir: saved}", "{load_dir: ., load_filename: saved/model_1.pt}", "{load_dir: .}"]
)
def test_what_continues_from_save_dir_by_its_configuration_is_not_refused(train, load):
    first = json.loads(train("--json")[1])
    fields = load.strip("{}").replace(": ", "=").split(", ")
    sets = [part for field in fields for part in ("--set", f"checkpointer.{field}")]
    code, out, err = train(*sets, "--set", "trainer.epochs=3", "--json")
    assert code == 0, err
    assert json.loads(out)["run_id"] == first["run_id"]
    assert visible("saved") == ["model_0.pt", "model_1.pt", "model_2.pt"]


def test_what_loads_from_elsewhere_is_refused_like_any_new_run(train):
    assert train()[0] == 0
    shutil.copytree("saved", "before")
    os.rename("before/model_1.pt", "before/model_9.pt")
    kept = contents("saved")
    assert train("--set", "checkpointer.load_dir=before")[0] == 2
    assert contents("saved") == kept


def test_runs_that_save_nothing_are_not_refused(train):
    assert train()[0] == 0
    assert train("--set", "checkpointer.checkpoint=false")[0] == 0
    assert train("--set", "trainer.epochs=0")[0] == 0


def test_resume_and_overwrite_exclude_each_other(train):
    assert train()[0] == 0
    kept = contents("saved")
    code, _, err = train("--resume", "--overwrite")
    assert (code, contents("saved")) == (2, kept)
    assert "--resume and --overwrite exclude each other" in err


def test_a_directory_in_which_another_run_is_under_way_is_in_use_whatever_it_holds(train):
    assert train()[0] == 0
    with lease.held_where_used(["saved"]):
        assert train()[0] == 5


def test_the_commands_of_the_demo_and_the_file_for_ci_run_twice(repository, tmp_path, monkeypatch, capsys):
    shutil.copytree(repository / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    demo = (repository / "Makefile").read_text().partition("\ndemo:")[2].partition("\n\n")[0]
    commands = [shlex.split(line.partition("marlin-ckpt ")[2]) for line in demo.splitlines()[1:]]
    assert [words[0] for words in commands] == ["train", "list", "latest"]
    commands.append(["train", "--config", "configs/ci.yaml"])
    for words in (*commands, *commands):
        short = ["--set", "trainer.epochs=1", "--set", "trainer.max_train_steps_per_epoch=1"]
        assert main([*words, *(short if words[0] == "train" else [])]) == 0, capsys.readouterr().err
    assert visible("checkpoints/quickstart") == ["model_0.pt", "model_model_0.pt"]
