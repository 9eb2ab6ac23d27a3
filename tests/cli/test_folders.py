"""The commands take a folder with a manifest of ours for one checkpoint, and never look into it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from marlin_ckpt.cli.main import main
from marlin_ckpt.naming import MANIFEST
from marlin_ckpt.storage.local import temporary
from tests.support.folder_checkpoints import read_all, save

FILES = {"model.safetensors": b"weights" * 300, "optimizer.pt": b"o" * 9, "model_99.pt": b"x"}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Three checkpoints of the Trainer's names, and one without an index."""
    for index in (90, 500, 1000):
        save(tmp_path, f"checkpoint-{index}", FILES, index)
    save(tmp_path, "best", FILES, 500)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output_of(capsys, *arguments: str, code: int = 0) -> dict:
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("options", [[], ["--recursive"]])
def test_list_has_one_line_for_each_and_one_for_that_without_an_index(capsys, options):
    found = output_of(capsys, "list", ".", *options)["checkpoints"]
    assert [(one["path"], one["index"], one["complete"]) for one in found] == [
        ("./checkpoint-90", 90, True),
        ("./checkpoint-500", 500, True),
        ("./checkpoint-1000", 1000, True),
        ("./best", None, True),
    ]
    assert {one["size_bytes"] for one in found[:1]} == {sum(map(len, read_all("checkpoint-90").values()))}


def test_latest_takes_the_greatest_index_of_a_prefix_and_passes_over_what_is_not_intact(capsys):
    assert output_of(capsys, "latest", ".", "--prefix", "checkpoint")["path"] == "./checkpoint-1000"
    os.unlink("checkpoint-1000/optimizer.pt")
    found = output_of(capsys, "latest", ".", "--prefix", "checkpoint", "--intact")
    assert found["path"] == "./checkpoint-500"
    assert main(["latest", "."]) == 4
    assert "--prefix checkpoint" in capsys.readouterr().err


def test_verify_has_one_verdict_for_each(capsys):
    with open("checkpoint-500/optimizer.pt", "wb") as file:
        file.write(b"damaged!!")
    found = output_of(capsys, "verify", ".", code=3)["files"]
    assert [(one["path"], one["status"]) for one in found] == [
        ("./checkpoint-90", "intact"),
        ("./checkpoint-500", "corrupt"),
        ("./checkpoint-1000", "intact"),
        ("./best", "intact"),
    ]
    assert "optimizer.pt" in found[1]["reason"]


def test_verify_takes_the_folder_in_which_it_is_started(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs / "best")
    (found,) = output_of(capsys, "verify", ".")["files"]
    assert (found["path"], found["status"]) == (str(runs / "best"), "intact")


def test_clean_by_rules_removes_whole_folders_and_leaves_that_without_an_index(capsys):
    assert main(["clean", ".", "--keep-last", "1", "--yes"]) == 0
    assert sorted(os.listdir(".")) == ["best", "checkpoint-1000"]
    assert set(read_all("checkpoint-1000")) == {*FILES, MANIFEST}


def test_clean_without_rules_leaves_folders_that_have_no_extension(capsys):
    before = read_all(".")
    assert main(["clean", ".", "--yes"]) == 0
    assert main(["clean", ".", "--recursive", "--yes"]) == 0
    assert read_all(".") == before
    assert main(["clean", ".", "--prefix", "checkpoint", "--yes"]) == 0
    assert os.listdir(".") == ["best"]


@pytest.mark.parametrize("command", [["clean", "--dry-run"], ["clean", "--dry-run", "--recursive"]])
def test_in_such_a_folder_nothing_of_it_is_found(runs, capsys, monkeypatch, command):
    monkeypatch.chdir(runs / "checkpoint-90")
    assert output_of(capsys, command[0], ".", *command[1:])["removed"] == []


def test_list_in_such_a_folder_has_one_line_for_it(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs / "checkpoint-90")
    (found,) = output_of(capsys, "list", ".")["checkpoints"]
    assert (found["path"], found["index"], found["layout"]) == (str(runs / "checkpoint-90"), 90, "folder")


def test_commands_that_read_one_file_read_those_of_the_folder(capsys):
    assert main(["show", "checkpoint-90"]) == 3
    assert "checkpoint-90/model.safetensors" in capsys.readouterr().err


def test_what_is_left_of_a_dead_process_goes_with_all_in_it(runs, capsys):
    left = f".checkpoint-2000.{os.uname().nodename}.1.0123abcd{temporary.SUFFIX}"
    os.mkdir(left)
    os.mkdir(f"{left}/sub")
    with open(f"{left}/sub/model_1.pt", "wb"):
        pass
    assert main(["clean", ".", "--yes"]) == 0
    assert sorted(os.listdir(".")) == ["best", "checkpoint-1000", "checkpoint-500", "checkpoint-90"]


def test_a_folder_that_cannot_be_looked_into_hides_no_other(runs, capsys, monkeypatch):
    from marlin_ckpt.storage.local.descent import Descent

    real = Descent.go

    def go(self, folder, **options):
        if folder.startswith("checkpoint-500"):
            raise PermissionError(13, "Permission denied")
        return real(self, folder, **options)

    monkeypatch.setattr(Descent, "go", go)
    found = output_of(capsys, "list", ".")["checkpoints"]
    assert [one["index"] for one in found] == [90, 1000, None]
    assert output_of(capsys, "latest", ".", "--prefix", "checkpoint")["path"] == "./checkpoint-1000"


@pytest.mark.parametrize("plant", ["file", "link"])
def test_something_else_of_the_name_of_our_records_makes_no_checkpoint(runs, capsys, plant):
    os.mkdir("mine_1")
    if plant == "file":
        with open("mine_1/.marlin", "wb"):
            pass
    else:
        os.symlink("../best/.marlin", "mine_1/.marlin")
    assert "./mine_1" not in {one["path"] for one in output_of(capsys, "list", ".")["checkpoints"]}
    assert output_of(capsys, "verify", "best")["files"][0]["status"] == "intact"


def test_latest_reads_no_manifest_and_imports_nothing_for_it(runs):
    code = (
        "import sys; from marlin_ckpt.cli.main import main; main(['latest', '.', '--prefix', 'checkpoint']);"
        "print({'json', 'torch', 'marlin_ckpt.formats.manifest'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "./checkpoint-1000\nset()\n"


def test_a_load_of_three_states_passes_over_it_with_the_reason(
    runs, make_checkpointer, make_checkpoint, caplog
):
    save(runs, "model_7", FILES, 7)
    checkpointer = make_checkpointer(save_dir=runs, load_dir=runs)
    checkpointer.save(make_checkpoint(1.0), 3)
    assert checkpointer.load().module_interface_state
    assert "not a checkpoint but a folder of files" in caplog.text


@pytest.mark.parametrize("command", [["clean", "--yes"], ["list"], ["latest"], ["verify"]], ids=" ".join)
def test_an_empty_name_is_no_directory_and_never_the_root(capsys, command):
    assert main([command[0], "", *command[1:]]) == 4
    assert "no such" in capsys.readouterr().err
