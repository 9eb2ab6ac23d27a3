"""`marlin-ckpt train` under rules: what stays, what is said, and a disk without room."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from marlin_ckpt.cli.main import main
from tests.support.folders import visible


@pytest.fixture
def train(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        "module: {name: spiral, points: 60}\n"
        "trainer: {epochs: 6, train_batch_size: 16, val_batch_size: 16, device: cpu, seed: 0}\n"
        "checkpointer:\n  save_dir: saved\n  model_state_save_dir: null\n  keep: {last: 2, every: 3}\n"
    )

    def run(*options: str) -> tuple[int, str, str]:
        code = main(["train", "--config", "run.yaml", *options])
        return code, *capsys.readouterr()

    return run


def test_what_the_rules_keep_is_left_and_what_went_is_said_with_the_reason(train):
    code, out, err = train("--json")
    assert code == 0
    assert visible("saved") == ["model_0.pt", "model_3.pt", "model_4.pt", "model_5.pt"]
    removed = json.loads(out)["removed"]
    assert [(os.path.basename(one["path"]), one["reason"]) for one in removed] == [
        ("model_1.pt", "no rule keeps it"),
        ("model_2.pt", "no rule keeps it"),
    ]
    assert "Removed saved/model_1.pt: no rule keeps it.\n" in err


@pytest.mark.parametrize("is_behind", ["false", "true"])
def test_a_save_is_said_before_what_went_because_of_it(train, is_behind):
    _, _, err = train("--set", f"checkpointer.async_save={is_behind}")
    told = [line.split()[:2] for line in err.splitlines() if line.startswith(("saved ", "Removed "))]
    expected = [["saved", f"saved/model_{index}.pt"] for index in range(6)]
    expected.insert(4, ["Removed", "saved/model_1.pt:"])
    expected.insert(6, ["Removed", "saved/model_2.pt:"])
    assert told == expected


def test_the_last_line_counts_what_was_written_and_what_went(train):
    _, _, err = train()
    assert "6 files written" in err
    assert ", 2 of them removed; saves cost" in err


def test_what_went_of_the_run_before_it_was_resumed_is_not_counted_as_written(train):
    train()
    _, _, err = train("--resume", "--set", "trainer.epochs=8", "--set", "checkpointer.keep={last: 1}")
    assert "2 files written" in err
    assert ", 1 of them removed, 4 earlier removed; saves cost" in err


def test_quiet_says_nothing_of_what_went(train):
    assert train("--quiet")[2] == ""


def test_a_resumed_run_keeps_to_the_rules_among_all_its_files(train):
    train()
    code, _, err = train("--resume", "--set", "trainer.epochs=8", "--set", "checkpointer.keep={last: 1}")
    assert (code, visible("saved")) == (0, ["model_7.pt"]), err


def test_a_disk_without_room_is_told_before_the_first_step(train, monkeypatch):
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=50_000, f_frsize=1))
    code, out, err = train()
    assert (code, out) == (1, "")
    assert "error: too little room for 4 checkpoints of" in err
    assert (
        "hint: free space, keep fewer (checkpointer.keep), or go on all the same with --no-space-check" in err
    )
    assert "epoch 1" not in err
    assert visible("saved") == []
    assert train("--no-space-check")[0] == 0
    monkeypatch.setattr(os, "statvfs", real)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("{}", "checkpointer.keep.rules: are missing, so that nothing would be kept"),
        ("{best: {metric: a, mode: least}}", "checkpointer.keep.best.mode: expected one of min, max"),
        ("{within: soon}", "checkpointer.keep.within: expected a time, such as"),
        ("{newest: 3}", "checkpointer.keep.newest: unknown key"),
        ("3", "checkpointer.keep: expected a mapping or nothing, not"),
        ("{best: [{metric: a}, 3]}", "checkpointer.keep.best[1]: expected a mapping"),
    ],
)
def test_wrong_rules_are_refused_with_their_place(train, keep, message):
    code, _, err = train("--set", f"checkpointer.keep={keep}")
    assert code == 2
    assert message in err
    assert not os.path.exists("saved")
