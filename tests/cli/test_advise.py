"""`marlin-ckpt advise`: what it measures, prints, and leaves behind."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch

from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments, StorageError
from marlin_ckpt.checkpointer import trial
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.storage.local.temporary import is_temporary


@pytest.fixture
def advise(capfd):
    def run(*arguments):
        code = main(["advise", *map(os.fspath, arguments)])
        return code, *capfd.readouterr()

    return run


def test_it_prints_what_a_save_takes_and_what_comes_of_several_periods(advise, tmp_path):
    code, out, err = advise(tmp_path, "--size", "1MB", "--step-seconds", "0.5", "--mtbf-hours", "10")
    assert code == 0
    assert err == f"a state of 1 MB in {tmp_path}\n"
    figures, periods = (part.splitlines() for part in out.split("\n\n"))
    assert [line.split()[0] for line in figures[1:]] == ["save", "stall", "cost", "restore"]
    assert periods[0].split() == ["period", "steps", "overhead", "lost", "per", "failure", "waste"]
    assert "shortest within the budget" in out
    assert "least waste" in out


def test_columns_of_what_is_not_known_are_left_out(advise, tmp_path):
    code, out, _ = advise(tmp_path, "--size", "1MB")
    assert code == 0
    assert "steps" not in out
    assert "waste" not in out


def test_its_json_has_the_sizes_and_the_periods(advise, tmp_path):
    code, out, err = advise(tmp_path, "--size", "1MB", "--json", "--max-overhead", "0.1")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["size_bytes"] == document["measured_bytes"] == 1_000_000
    assert document["directory"] == str(tmp_path)
    assert document["shortest_period_s"] >= document["save_s"] > 0
    assert document["best_period_s"] is None


def test_it_leaves_nothing_behind(advise, tmp_path):
    assert advise(tmp_path, "--size", "1MB")[0] == 0
    assert os.listdir(tmp_path) == []


def test_without_a_size_it_takes_that_of_the_largest_checkpoint(advise, tmp_path, make_checkpoint):
    torch.save({"weight": torch.ones(100_000)}, tmp_path / "model_3.pt")
    code, out, _ = advise(tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["size_bytes"] == (tmp_path / "model_3.pt").stat().st_size
    assert os.listdir(tmp_path) == ["model_3.pt"]


def test_without_a_checkpoint_and_a_size_it_says_what_to_type(advise, tmp_path):
    code, out, err = advise(tmp_path)
    assert (code, out) == (4, "")
    assert err.endswith(f"hint: marlin-ckpt advise {tmp_path} --size 1.5GB\n")


def test_a_directory_that_is_missing_exits_4_and_is_not_made(advise, tmp_path):
    code, out, _ = advise(tmp_path / "none", "--size", "1MB")
    assert (code, out) == (4, "")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--size", "big"), ("--step-seconds", "0"), ("--mtbf-hours", "nan"), ("--max-overhead", "1")],
)
def test_a_wrong_option_exits_2(advise, tmp_path, option, value):
    code, out, err = advise(tmp_path, "--size", "1MB", option, value)
    assert (code, out) == (2, "")
    assert option in err


def test_a_disk_that_is_full_exits_1_and_leaves_nothing(advise, tmp_path, monkeypatch):
    def full(*_):
        raise StorageError("cannot write: no space left", str(tmp_path), errno=errno.ENOSPC)

    monkeypatch.setattr(writer, "write_state", full)
    code, out, err = advise(tmp_path, "--size", "1MB")
    assert (code, out) == (1, "")
    assert "error: cannot write: no space left" in err
    assert os.listdir(tmp_path) == []


def test_a_large_state_is_told_from_a_smaller_one(advise, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "MOST_BYTES", 1_000_000)
    code, _, err = advise(tmp_path, "--size", "50GB")
    assert code == 0
    assert "a state of 50 GB" in err
    assert "in proportion to 1 MB that were written" in err


def test_a_directory_that_is_mounted_read_only_exits_1_with_the_reason_and_a_hint(
    advise, tmp_path, monkeypatch
):
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS))

    def refuses(*_):
        raise StorageError.of("cannot write", str(tmp_path), read_only)

    def unlink(path, *, dir_fd=None):
        raise read_only  # though there is no such file: unlink(2)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_state", refuses)
        patch.setattr(os, "unlink", unlink)
        code, out, err = advise(tmp_path, "--size", "1MB")
    error, hint = err.splitlines()[-2:]
    assert (code, out) == (1, "")
    assert error.startswith("error: cannot write: Read-only file system: ")
    assert hint.startswith("hint: its file system is mounted read-only")


def test_what_a_killed_trial_leaves_is_cleared_away_by_the_next_run_that_saves(
    tmp_path, monkeypatch, make_checkpoint
):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trial, "_restore_s", killed)
        patch.setattr(trial, "_remove", lambda _: None)
        trial.measure(tmp_path, 100_000, lambda _: None)
    (left,) = os.listdir(tmp_path)
    assert is_temporary(left)
    DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=str(tmp_path))).save(make_checkpoint(), 0)
    assert os.listdir(tmp_path) == ["model_0.pt"]
