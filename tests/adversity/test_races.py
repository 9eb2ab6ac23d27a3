"""Savers, a pruner, loaders and inspectors at work on one directory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from marlin_ckpt import DefaultCheckpointer
from marlin_ckpt.cli.main import main
from marlin_ckpt.directory import catalog, latest
from tests.support import warm
from tests.support.folders import REPOSITORY


def run_racing_processes(repository: Path, directory: Path, loads: int, seconds: int, kind: str) -> dict:
    script = repository / "tests" / "support" / "racing_processes.py"
    command = [sys.executable, str(script), str(directory), str(loads), str(seconds), kind]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = warm.run(command, env=environment, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory, cases: Callable[[int, int], int]) -> dict:
    """Two savers, a pruner, three loaders, a verifier and a lister; 100 loads each, or 20 s of them."""
    repository, directory = REPOSITORY, tmp_path_factory.mktemp("raced") / "checkpoints"
    return run_racing_processes(repository, directory, 100, cases(0, 20), "marlin")


def test_no_load_among_savers_and_a_pruner_fails_or_passes_a_file_over(raced):
    assert raced["loaders"]["loads"] >= 300
    assert raced["loaders"]["broken"] == []
    assert raced["loaders"]["passed_over"] == 0


def test_every_load_among_savers_and_a_pruner_gives_what_was_saved_under_that_name(raced):
    assert raced["loaders"]["wrong"] == []


def test_no_load_among_savers_and_a_pruner_gives_less_than_the_newest_that_was_there_all_the_time(raced):
    assert raced["loaders"]["compared"]
    assert raced["loaders"]["stale"] == []


def test_a_load_whose_file_was_pruned_in_between_has_looked_again(raced):
    assert raced["loaders"]["looked_again"]


def test_verifying_listing_and_pruning_among_savers_meet_nothing_torn(raced):
    assert raced["verifier"]["verified"]
    assert raced["verifier"]["faults"] == []
    assert raced["lister"]["listed"]
    assert raced["lister"]["faults"] == []
    assert raced["pruner"]["removed"]
    assert raced["pruner"]["faults"] == []


def test_savers_and_a_pruner_leave_intact_checkpoints_and_nothing_else(raced):
    assert raced["left"] == []
    assert raced["own"] == ["runs.json"]
    assert raced["torn"] == []


def test_the_same_race_with_a_plain_torch_save_gives_broken_files_to_load(repository, tmp_path):
    # Shows that the race and its checks can fail.
    found = run_racing_processes(repository, tmp_path / "checkpoints", 1, 0, "plain")
    assert found["loaders"]["passed_over"]
    assert found["loaders"]["broken"]


@pytest.fixture
def saved(make_checkpointer, make_checkpoint) -> DefaultCheckpointer:
    """A checkpointer that has saved under the indices 1 to 4."""
    checkpointer = make_checkpointer()
    for index in range(1, 5):
        checkpointer.save(make_checkpoint(float(index)), index)
    return checkpointer


@pytest.mark.parametrize("vanishing", [1, 3])
def test_a_load_whose_newest_files_vanish_after_the_look_gives_the_newest_that_is_left(
    saved, monkeypatch, vanishing
):
    look, paths = latest.newest_first, []

    def look_and_remove(*args):
        found = list(look(*args))
        if len(paths) < vanishing:
            paths.append(found[0])
            os.unlink(found[0].path)
        return iter(found)

    monkeypatch.setattr(latest, "newest_first", look_and_remove)
    assert saved.load().trainer_state == {"last_epoch": 4 - vanishing}
    assert len(paths) == vanishing


def test_verify_of_a_directory_does_not_fail_for_a_file_that_was_pruned_meanwhile(saved, monkeypatch, capsys):
    look = catalog.named

    def look_and_remove(*args, **options):
        found = look(*args, **options)
        os.unlink(found[1].path)
        return found

    monkeypatch.setattr(catalog, "named", look_and_remove)
    assert main(["verify", str(saved.args.save_dir)]) == 0
    assert "model_4.pt" in capsys.readouterr().out
