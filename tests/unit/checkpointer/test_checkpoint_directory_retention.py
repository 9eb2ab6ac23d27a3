"""Which checkpoints of a `CheckpointDirectory` go: after a save, after a transaction, and with `prune`."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch

from marlin_ckpt import (
    ArgumentsError,
    BestArguments,
    CheckpointDirectory,
    CheckpointNotFoundError,
    DirectoryInUseError,
    MarlinError,
    RetentionArguments,
)
from marlin_ckpt.directory import lease
from marlin_ckpt.storage.local import publishing
from tests.support.checkpoint_directories import fill_folder, filled, flip, listed, names, state, truncate


def there(path) -> list[str]:
    return names(CheckpointDirectory(path))


@pytest.mark.parametrize("keep", [2, RetentionArguments(last=2)])
def test_the_newest_so_many_stay_after_each_save_be_they_files_or_folders(tmp_path, keep):
    here, seen = CheckpointDirectory(tmp_path, keep=keep), []
    for index in range(5):
        if index % 2:
            fill_folder(here, f"model_{index}")
        else:
            here.save(state(index), index)
        seen.append(there(tmp_path))
    assert seen[1:] == [
        ["model_0.pt", "model_1"], ["model_1", "model_2.pt"], ["model_2.pt", "model_3"],
        ["model_3", "model_4.pt"],
    ]  # fmt: skip
    assert listed(tmp_path) == ["model_3", "model_4.pt"]


def test_the_best_of_all_stay_with_the_newest_and_a_metric_that_is_missing_is_said_once(tmp_path, caplog):
    losses = {1: 0.3, 2: 0.1, 3: 0.2, 4: None, 5: 0.4}
    filled(tmp_path, losses, keep=RetentionArguments(best=BestArguments("loss")))
    assert there(tmp_path) == ["model_2.pt", "model_5.pt"]
    assert sum("has no metrics" in one.getMessage() for one in caplog.records) == 1


def test_a_transaction_of_another_name_removes_nothing_and_is_never_removed(tmp_path, caplog):
    filled(tmp_path, dict.fromkeys(range(3), 0.5))
    here = CheckpointDirectory(tmp_path, keep=RetentionArguments(best=BestArguments("loss")))
    here.load()
    caplog.clear()
    fill_folder(here, "checkpoint-500")
    assert len(there(tmp_path)) == 3
    assert caplog.records == []
    for index in (3, 4):
        here.save(state(index), index, metrics={"loss": 0.1})
    assert there(tmp_path) == ["model_4.pt"]
    assert listed(tmp_path) == ["checkpoint-500", "model_4.pt"]


def test_with_the_prefix_of_another_tools_names_its_folders_are_seen_and_governed(tmp_path):
    here = CheckpointDirectory(tmp_path, prefix="checkpoint", keep=2)
    for step in (500, 1000, 1500):
        fill_folder(here, f"checkpoint-{step}")
    assert names(here) == ["checkpoint-1000", "checkpoint-1500"]
    assert (here.latest().index, here.latest().path) == (1500, str(tmp_path / "checkpoint-1500"))


def test_after_a_save_other_runs_prefixes_and_what_is_damaged_stay(tmp_path):
    filled(tmp_path, dict.fromkeys(range(3)))
    filled(tmp_path, {7: None}, prefix="other")
    torch.save(state(3), tmp_path / "model_3.pt")
    here = filled(tmp_path, {4: None, 5: None, 6: None, 7: None}, keep=2)
    names_now = [f"model_{index}.pt" for index in (0, 1, 2, 3, 6, 7)]
    assert there(tmp_path) == names_now
    truncate(tmp_path / "model_7.pt")
    here.save(state(8), 8)
    here.save(state(9), 9)
    assert there(tmp_path) == [*names_now[:4], "model_7.pt", "model_8.pt", "model_9.pt"]
    assert os.path.exists(tmp_path / "other_7.pt")


def test_prune_does_to_each_run_what_its_dry_run_says(tmp_path):
    first = filled(tmp_path, dict.fromkeys(range(3)))
    fill_folder(first, "model_3")
    filled(tmp_path, dict.fromkeys(range(4, 7)))
    flip(tmp_path / "model_6.pt")
    truncate(tmp_path / "model_1.pt")
    here, before = CheckpointDirectory(tmp_path, keep=1), there(tmp_path)
    said = here.prune(dry_run=True)
    assert there(tmp_path) == before
    assert here.prune() == said == copy.deepcopy(said) == pickle.loads(pickle.dumps(said))
    assert names(said.removed) == ["model_0.pt", "model_2.pt", "model_4.pt"]
    assert names(said.kept) == ["model_1.pt", "model_3", "model_5.pt", "model_6.pt"] == there(tmp_path)
    assert said.failed == {}
    reasons = [said.kept[str(tmp_path / name)][0] for name in names(said.kept)]
    assert reasons[1:3] == ["newest", "newest"]
    assert [one.startswith("left alone: corrupt") for one in reasons] == [True, False, False, True]
    assert set(said.removed.values()) == {("no rule keeps it",)}
    again = here.prune()
    assert (again.removed, names(again.kept)) == ({}, there(tmp_path))


def test_prune_with_run_touches_no_other_run(tmp_path):
    one = filled(tmp_path, dict.fromkeys(range(3)))
    two = filled(tmp_path, dict.fromkeys(range(3, 6)))
    found = CheckpointDirectory(tmp_path, keep=1, run=two.run_id).prune()
    assert names(found.removed) == ["model_3.pt", "model_4.pt"]
    assert {why for why in found.kept.values() if len(why) == 1} == {
        (f"left alone: of another run, {one.run_id}",)
    }
    assert len(there(tmp_path)) == 4


def test_prune_never_removes_the_newest_that_is_intact(tmp_path):
    filled(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4})
    flip(tmp_path / "model_4.pt")
    here = CheckpointDirectory(tmp_path, keep=RetentionArguments(best=BestArguments("loss")))
    assert names(here.prune().removed) == ["model_2.pt"]
    assert here.latest().index == 3


def test_prune_makes_the_newest_durable_before_it_removes_another(tmp_path, monkeypatch):
    filled(tmp_path, dict.fromkeys(range(3)))
    synced: list[tuple[str, int]] = []
    real = publishing.make_durable

    def noted(path: str) -> None:
        synced.append((os.path.basename(path), len(there(tmp_path))))
        real(path)

    monkeypatch.setattr(publishing, "make_durable", noted)
    here = CheckpointDirectory(tmp_path, keep=1)
    here.prune(dry_run=True)
    assert synced == []
    here.prune()
    here.prune()
    assert synced == [("model_2.pt", 3)]


def test_what_prune_cannot_remove_is_reported_and_the_rest_goes(tmp_path, monkeypatch):
    filled(tmp_path, dict.fromkeys(range(4)))
    real = os.unlink

    def refuse(path, *args, **options):
        if str(path).endswith("1.pt"):
            raise PermissionError(1, "Operation not permitted", str(path))
        real(path, *args, **options)

    for name in ("unlink", "remove"):
        monkeypatch.setattr(os, name, refuse)
    found = CheckpointDirectory(tmp_path, keep=1).prune()
    assert found.failed == {str(tmp_path / "model_1.pt"): "Operation not permitted"}
    assert names(found.removed) == ["model_0.pt", "model_2.pt"]
    assert there(tmp_path) == ["model_1.pt", "model_3.pt"]


def test_what_has_gone_meanwhile_is_not_said_to_be_removed(tmp_path, monkeypatch):
    filled(tmp_path, dict.fromkeys(range(3)))
    monkeypatch.setattr(publishing, "make_durable", lambda _: os.unlink(tmp_path / "model_0.pt"))
    found = CheckpointDirectory(tmp_path, keep=1).prune()
    assert (names(found.removed), names(found.kept), found.failed) == (["model_1.pt"], ["model_2.pt"], {})


def test_through_a_link_to_the_directory_saves_and_prune_remove_and_name_paths_as_it_was_named(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    filled(link, dict.fromkeys(range(3)), keep=2)
    assert there(link) == ["model_1.pt", "model_2.pt"]
    for path in (link, f"{link}/"):
        found = CheckpointDirectory(path, keep=1).prune(dry_run=True)
        assert [set(found.removed), set(found.kept)] == [{f"{link}/model_1.pt"}, {f"{link}/model_2.pt"}]
    assert CheckpointDirectory(link, keep=1).prune() == found
    assert there(link) == ["model_2.pt"]


@pytest.mark.parametrize("dry_run", [True, False])
def test_prune_refuses_rules_that_keep_nothing_for_a_slip(tmp_path, dry_run):
    filled(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3})
    for keep, text in (
        (RetentionArguments(best=BestArguments("lss")), "metric: no checkpoint in .* has 'lss'"),
        (RetentionArguments(every=100), "no rule keeps any of 3 checkpoints"),
    ):
        with pytest.raises(MarlinError, match=text) as caught:
            CheckpointDirectory(tmp_path, keep=keep).prune(dry_run=dry_run)
        assert caught.value.hint
    assert len(there(tmp_path)) == 3


def test_prune_without_keep_or_without_a_directory_is_an_error(tmp_path):
    with pytest.raises(ArgumentsError, match="keep: is missing"):
        CheckpointDirectory(tmp_path).prune()
    with pytest.raises(CheckpointNotFoundError, match="new"):
        CheckpointDirectory(tmp_path / "new", keep=1).prune()


def test_prune_is_refused_while_a_trainer_saves_there(tmp_path):
    filled(tmp_path, dict.fromkeys(range(3)))
    here = CheckpointDirectory(tmp_path, keep=1)
    with lease.held(str(tmp_path), "a trainer"):
        assert names(here.prune(dry_run=True).removed) == ["model_0.pt", "model_1.pt"]
        with pytest.raises(DirectoryInUseError):
            here.prune()
        assert len(there(tmp_path)) == 3
    assert len(here.prune().removed) == 2
