"""`marlin-ckpt train`: what it prints, what it announces, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marlin_ckpt.cli.main import main
from tests.support import warm
from tests.support.folders import visible

REPORT_KEYS = {
    "schema",
    "run_id",
    "ranks",
    "resumed_from",
    "epochs",
    "global_steps",
    "steps_trained",
    "seconds",
    "metrics",
    "files",
    "saves",
    "failed_saves",
    "overhead",
    "removed",
}


@pytest.fixture
def train(capsys, repository, tmp_path, monkeypatch):
    """Runs configs/ci.yaml, which saves below the test's own directory."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, **overrides) -> tuple[int, str, str]:
        settings = {"checkpointer.save_dir": "saved", **overrides}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        code = main(["train", "--config", os.fspath(repository / "configs/ci.yaml"), *sets, *options])
        return code, *capsys.readouterr()

    return run


def lines_starting(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_off_a_terminal_each_epoch_and_each_file_has_one_line(train):
    code, _, err = train()
    assert code == 0
    metrics = r"train_loss [01]\.?\d*  val_loss [01]\.?\d*  val_accuracy [01]\.?\d*"
    patterns = []
    for epoch in (1, 2, 3):
        patterns.append(rf"epoch {epoch}: 15 steps at [0-9.]+ steps/s  {metrics}")
        amount = r"[0-9.]+ \w+"
        times = "".join(f"  {name} {amount}" for name in ("stall", "copy", "write", "sync"))
        patterns.append(rf"saved saved/model_{epoch - 1}\.pt  {amount} at {amount}/s{times}")
    patterns.append(
        r"run [0-9a-f]{12}: 3 epochs, 45 steps, [0-9.]+ s; 3 files written, [0-9.]+ kB; "
        r"saves cost [0-9.]+% of the time"
    )
    assert re.fullmatch("\n".join(patterns) + "\n", err)


def test_it_ends_with_a_table_of_the_files_that_were_written(train):
    _, out, _ = train(**{"checkpointer.model_state_save_dir": "saved"})
    header, *rows = out.splitlines()
    assert header.split() == ["index", "kind", "size", "metrics", "file"]
    assert [(row.split()[0], row.split()[1], row.split()[-1]) for row in rows] == [
        ("0", "checkpoint", "saved/model_0.pt"),
        ("1", "checkpoint", "saved/model_1.pt"),
        ("2", "checkpoint", "saved/model_2.pt"),
        ("2", "model", "saved/model_model_2.pt"),
    ]
    assert "train_loss " in rows[0]


def test_the_period_says_which_epochs_are_saved_and_the_last_always_is(train):
    _, _, err = train(**{"checkpointer.period": 2, "trainer.epochs": 4})
    told = [line.split()[1] for line in lines_starting(err, "saved ")]
    assert told == [f"saved/model_{index}.pt" for index in (0, 2, 3)]
    assert visible("saved") == ["model_0.pt", "model_2.pt", "model_3.pt"]


def test_quiet_saves_the_same_and_prints_nothing(train):
    assert train("--quiet") == (0, "", "")
    assert visible("saved") == ["model_0.pt", "model_1.pt", "model_2.pt"]


def test_json_is_one_document_with_these_keys(train, capsys):
    code, out, err = train("--json")
    report = json.loads(out)
    assert (code, report.keys()) == (0, REPORT_KEYS)
    assert lines_starting(err, "epoch 3: ")
    assert (report["epochs"], report["global_steps"], report["resumed_from"]) == (3, 45, None)
    assert {save["path"] for save in report["saves"]} == {file["path"] for file in report["files"]}
    assert (report["steps_trained"], report["failed_saves"]) == (45, [])
    assert 0 < report["overhead"] < 1
    assert report["metrics"].keys() == {"train_loss", "val_loss", "val_accuracy"}
    assert report["seconds"] > 0
    main(["list", "saved", "--json"])
    assert report["files"] == json.loads(capsys.readouterr().out)["checkpoints"]
    assert {one["run_id"] for one in report["files"]} == {report["run_id"]}
    assert report["files"][2]["metrics"] == report["metrics"]


def test_quiet_with_json_leaves_the_document_alone(train):
    code, out, err = train("--quiet", "--json")
    assert (code, err, json.loads(out).keys()) == (0, "", REPORT_KEYS)


def test_a_run_without_checkpoints_writes_none_and_says_so_in_its_report(train):
    code, out, _ = train("--json", **{"checkpointer.checkpoint": "false"})
    assert (code, json.loads(out)["files"], os.path.exists("saved")) == (0, [], False)


@pytest.mark.parametrize("is_behind", ["false", "true"])
def test_saves_that_failed_and_were_passed_over_are_counted_in_the_last_line_and_named_in_the_document(
    train, is_behind
):
    os.makedirs("saved/model_1.pt")  # a folder, over which no file can be renamed
    warns = {"checkpointer.on_save_error": "warn", "checkpointer.async_save": is_behind}
    code, out, err = train("--json", **warns)
    (failed,) = json.loads(out)["failed_saves"]
    assert (code, failed["path"]) == (0, "saved/model_1.pt")
    assert f"error: Not saved: {failed['error']}\n" in err
    _, _, err = train(**warns)
    assert "2 files written, " in err.splitlines()[-1]
    assert "; 1 save failed; saves cost " in err.splitlines()[-1]


def first_line_of_training(err: str) -> int:
    return next(number for number, line in enumerate(err.splitlines()) if line.startswith("epoch "))


def test_deleting_an_earlier_run_is_announced_before_it_begins(train):
    train()
    Path("saved/notes.ppt").touch()
    _, _, err = train(**{"trainer.epochs": 1})
    announced = err.splitlines()[: first_line_of_training(err)]
    assert announced[0] == "warning: deletes 3 files of an earlier run in saved"
    assert visible("saved") == ["model_0.pt", "notes.ppt"]


def test_saving_over_model_files_in_their_own_directory_is_announced(train):
    apart = {"checkpointer.model_state_save_dir": "models"}
    train(**apart)
    _, _, err = train(**apart)
    assert "model_model_2.pt" in "\n".join(err.splitlines()[: first_line_of_training(err)])


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read: No such file or directory"), (b"caf\xe9", "is not UTF-8 at byte 3")],
    ids=["missing", "not UTF-8"],
)
def test_text_that_cannot_be_read_exits_2_in_one_line_and_deletes_nothing(train, capsys, content, says):
    train()
    before = visible("saved")
    if content is not None:
        Path("novel.txt").write_bytes(content)
    Path("text.yaml").write_text(
        "module: {name: text, files: [novel.txt]}\n"
        "checkpointer: {save_dir: saved, delete_existing_checkpoints: true}\n"
    )
    assert main(["train", "--config", "text.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert lines_starting(err, "error: ") == [f"error: module.files[0]: {says}: novel.txt"]
    assert visible("saved") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the directory may already be someone else's")
def test_a_disk_that_cannot_be_written_exits_1_and_names_the_path(train):
    code, _, err = train(**{"checkpointer.save_dir": "/proc/checkpoints"})
    assert code == 1
    assert lines_starting(err, "error: ")[0].endswith(": /proc/checkpoints")


# A shell that starts pytest in the background has SIGINT ignored, and Python would inherit that.
_INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from marlin_ckpt.cli.main import main
sys.exit(main())
"""


def test_ctrl_c_exits_130_names_the_last_checkpoint_and_leaves_whole_files_alone(
    repository, tmp_path, capsys
):
    saved = tmp_path / "saved"
    options = ["--set", f"checkpointer.save_dir={saved}", "--set", "trainer.epochs=2000"]
    with warm.Popen(
        [sys.executable, "-c", _INTERRUPTIBLE, "train", "--config", repository / "configs/ci.yaml", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.fspath(repository)},
    ) as child:
        lines = iter(child.stderr.readline, "")
        talk = [next(line for line in lines if line.startswith("saved "))]
        child.send_signal(signal.SIGINT)
        talk += list(lines)
        assert child.stdout.read() == ""
        assert child.wait(60) == 130
    assert not any("Traceback" in line for line in talk)
    told = [line.split()[1] for line in talk if line.startswith("saved ")]
    assert talk[-2:] == [
        f"interrupted; last checkpoint: {told[-1]}\n",
        "hint: the same command with --resume continues from it\n",
    ]
    assert all(name.startswith("model_") and name.endswith(".pt") for name in visible(saved))
    for name in visible(saved):
        assert torch.load(saved / name, weights_only=True).keys() == {
            "module_interface_state",
            "trainer_state",
            "trainer_backend_state",
        }
    # The file of the instant between the rename and the line that tells it may be there too.
    assert set(told) <= set(map(str, saved.iterdir()))
    assert main(["train", "--config", str(repository / "configs/ci.yaml"), *options[:2], "--resume"]) == 0
    assert f"resuming from {saved}/model_" in capsys.readouterr().err
