"""`marlin-ckpt train --resume`."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest
import torch

from marlin_ckpt.cli.main import main
from marlin_ckpt.errors import StorageError
from marlin_ckpt.loading.load import Loaded, Loader
from tests.support.folders import contents


@pytest.fixture
def train(capsys, repository, tmp_path, monkeypatch):
    """Runs so many epochs of configs/ci.yaml, which deletes existing checkpoints, saving to `saved`."""
    monkeypatch.chdir(tmp_path)

    def run(epochs: int, *options: str) -> tuple[int, str, str]:
        sets = ["--set", "checkpointer.save_dir=saved", "--set", f"trainer.epochs={epochs}"]
        code = main(["train", "--config", os.fspath(repository / "configs/ci.yaml"), *sets, *options])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def listed(capsys):
    def run() -> list[dict]:
        main(["list", "saved", "--json"])
        return json.loads(capsys.readouterr().out)["checkpoints"]

    return run


def epochs_of(err: str) -> list[int]:
    return [int(number) for number in re.findall(r"^epoch (\d+): ", err, re.MULTILINE)]


@pytest.mark.parametrize("there", ["no directory", "an empty directory", "other files"])
def test_with_nothing_to_continue_a_run_starts(train, there):
    if there != "no directory":
        Path("saved").mkdir()
    if there == "other files":
        Path("saved/model_model_1.pt").write_bytes(b"no checkpoint")
    code, _, err = train(2, "--resume")
    assert (code, epochs_of(err)) == (0, [1, 2])
    assert "resuming" not in err


def test_a_run_continues_with_the_epoch_after_the_last_one_saved(train):
    train(2)
    code, out, err = train(4, "--resume", "--json")
    assert (code, epochs_of(err)) == (0, [3, 4])
    assert err.startswith("resuming from saved/model_1.pt\n")
    report = json.loads(out)
    assert (report["resumed_from"], report["epochs"], report["global_steps"]) == ("saved/model_1.pt", 4, 60)
    assert [one["index"] for one in report["files"]] == [2, 3]


def test_the_run_keeps_its_id_and_its_save_numbers_go_on(train, listed):
    train(2)
    before = listed()
    train(4, "--resume")
    after = listed()
    assert after[:2] == before
    assert len({one["run_id"] for one in after}) == 1
    numbers = [one["save_number"] for one in after]
    assert numbers == sorted(set(numbers))
    assert numbers[2] == numbers[1] + 1


def test_a_new_run_has_another_id(train, listed):
    train(1)
    (first,) = listed()
    train(1)
    (second,) = listed()
    assert first["run_id"] != second["run_id"]
    assert first["save_number"] == second["save_number"] == 1


def test_what_a_run_continues_from_is_not_deleted_first(train, listed):
    train(2)
    _, _, err = train(3, "--resume")
    assert [one["index"] for one in listed()] == [0, 1, 2]
    assert "warning" not in err


def test_resuming_a_finished_run_is_done_at_once(train, listed):
    train(2)
    before = contents("saved")
    for epochs, head in ((2, ""), (1, "warning: ")):
        code, out, err = train(epochs, "--resume")
        assert (code, out) == (0, "")
        resuming, told = err.splitlines()
        assert resuming == "resuming from saved/model_1.pt"
        assert told.startswith(
            f"{head}Nothing is left to train: epoch 2 is done, and trainer.epochs is {epochs}."
        )
    assert contents("saved") == before


def test_the_document_of_a_run_that_was_finished_says_that_it_trained_no_step(train):
    train(2)
    assert [json.loads(train(epochs, "--resume", "--json")[1])["steps_trained"] for epochs in (2, 3)] == [
        0,
        15,
    ]


def test_resuming_a_finished_run_loses_none_of_what_its_files_tell(train, listed):
    train(2)
    before = [(one["index"], one["metrics"], one["run_id"]) for one in listed()]
    train(2, "--resume")
    assert [(one["index"], one["metrics"], one["run_id"]) for one in listed()] == before


def test_the_checkpoints_of_a_sub_directory_are_another_runs(train):
    train(3)
    Path("saved/other").mkdir()
    os.rename("saved/model_2.pt", "saved/other/model_2.pt")
    code, _, err = train(3, "--resume")
    assert (code, epochs_of(err)) == (0, [3])
    assert err.startswith("resuming from saved/model_1.pt\n")


def damage_by_truncation(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_by_a_flipped_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def replace_by_text(path: Path) -> None:
    path.write_text("not a checkpoint")


def replace_by_lightning(path: Path) -> None:
    torch.save({"pytorch-lightning_version": "2.5.0", "epoch": 1}, path)


SPOILERS = [damage_by_truncation, damage_by_a_flipped_bit, replace_by_text, replace_by_lightning]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_newest_checkpoint_that_is_not_intact_is_passed_over_and_the_one_before_it_resumed(train, spoil):
    train(2)
    spoil(Path("saved/model_1.pt"))
    code, _, err = train(3, "--resume")
    assert code == 0
    assert epochs_of(err) == [2, 3]
    warning, resuming, *_ = err.splitlines()
    assert warning.startswith("warning: passed over saved/model_1.pt: ")
    assert resuming == "resuming from saved/model_0.pt"


@pytest.mark.parametrize("spoil", SPOILERS)
def test_where_no_checkpoint_is_intact_resuming_exits_3_and_leaves_all_as_it_was(train, spoil):
    train(2)
    spoil(Path("saved/model_0.pt"))
    spoil(Path("saved/model_1.pt"))
    before = contents("saved")
    code, out, err = train(3, "--resume")
    assert (code, out, epochs_of(err)) == (3, "", [])
    assert contents("saved") == before
    assert "resuming from" not in err
    *_, error, hint = err.splitlines()
    assert error.startswith("error: ")
    for command in ("marlin-ckpt verify saved", "marlin-ckpt salvage saved/model_1.pt", "--overwrite"):
        assert command in hint


@pytest.fixture
def bad_blocks(monkeypatch):
    """Makes loads of files fail that were read whole when they were chosen."""

    def spoil(*paths: str) -> None:
        real, opened = Loader._read, list(paths)

        def read(self: Loader, path: str) -> Loaded:
            if path in opened:
                raise StorageError.of("cannot read", path, OSError(errno.EIO, os.strerror(errno.EIO)))
            return real(self, path)

        monkeypatch.setattr(Loader, "_read", read)

    return spoil


def test_a_checkpoint_that_goes_bad_between_its_choice_and_its_load_is_passed_over(train, bad_blocks):
    train(3)
    bad_blocks("saved/model_2.pt", "saved/model_1.pt")
    code, out, err = train(3, "--resume", "--json")
    assert (code, epochs_of(err)) == (0, [2, 3])
    assert json.loads(out)["resumed_from"] == "saved/model_0.pt"
    assert "warning: passed over saved/model_2.pt: cannot read: Input/output error\n" in err
    assert "resuming from saved/model_0.pt\n" in err


def test_where_every_checkpoint_goes_bad_the_error_is_that_of_a_load_and_nothing_changes(train, bad_blocks):
    train(2)
    before = contents("saved")
    bad_blocks("saved/model_0.pt", "saved/model_1.pt")
    code, _, err = train(2, "--resume")
    assert (code, epochs_of(err)) == (1, [])
    assert "error: cannot read: Input/output error: saved/model_" in err
    assert "--overwrite deletes them all and begins anew" in err.splitlines()[-1]
    assert {name: one for name, one in contents("saved").items() if "notes" not in name} == before


def test_a_checkpoint_of_another_configuration_exits_1_and_says_it_does_not_fit(train):
    train(2)
    before = contents("saved")
    code, out, err = train(3, "--resume", "--set", "module.width=8")
    assert (code, out) == (1, "")
    assert "error: the state does not fit: module_interface_state." in err
    assert "Traceback" not in err
    assert contents("saved") == before


def test_without_resume_a_run_starts_over(train):
    train(2)
    code, _, err = train(2)
    assert (code, epochs_of(err)) == (0, [1, 2])
