"""The data of a report: what a directory of checkpoints was and is, from manifests and its history."""

from __future__ import annotations

import pytest
import torch

from marlin_ckpt import CheckpointNotFoundError, RetentionArguments
from marlin_ckpt.directory.history.events import Ended, Removed, Resumed, SaveFailed, Started
from marlin_ckpt.naming import Kind
from marlin_ckpt.operations.report.gathering import Wanted, gather
from tests.support import run_directories as runs
from tests.support.run_directories import ONE, OTHER, at, event, manifest, save, write

KEEP_ONE = Wanted(rules=RetentionArguments(last=1))


def names(report):
    return [one.name for one in report.points]


def by_name(report):
    return {one.name: one for one in report.points}


def test_a_save_is_one_point_with_what_the_manifest_and_the_history_know(tmp_path):
    write(tmp_path, save(tmp_path, 0, 1))
    (point,) = gather(str(tmp_path)).points
    assert (point.name, point.run_id, point.index, point.save_number) == ("model_0.pt", ONE, 0, 1)
    assert (point.step, point.stall_s, point.write_s, point.at) == (100, 0.01, 0.4, at(1))
    assert (point.is_there, point.complete, point.metrics["val_loss"]) == (True, True, 1.0)


def test_a_removed_checkpoint_stays_as_a_point_with_its_metrics_and_who_removed_it_and_why(tmp_path):
    first = save(tmp_path, 0, 1)
    (tmp_path / "model_0.pt").unlink()
    gone = Removed(run_id=ONE, at=at(2), name="model_0.pt", index=0, reason="no rule keeps it")
    write(tmp_path, first, save(tmp_path, 1, 2), gone)
    report = gather(str(tmp_path))
    point, _ = report.points
    assert (point.is_there, point.complete, point.metrics["val_loss"]) == (False, None, 1.0)
    assert (point.removed_by, point.removed_reason, point.removed_at) == ("keep", "no rule keeps it", at(2))
    assert (report.totals.checkpoints, report.totals.removed, report.totals.freed_bytes) == (
        1,
        1,
        first.size_bytes,
    )


def test_a_checkpoint_that_is_gone_without_an_event_is_a_point_and_a_note(tmp_path):
    write(tmp_path, event(manifest(4, 1), "model_4.pt"))
    report = gather(str(tmp_path))
    assert [(one.is_there, one.removed_by) for one in report.points] == [(False, "")]
    assert any("model_4.pt" in one.what and "does not say why" in one.what for one in report.banners)


def test_a_save_under_a_name_that_another_had_makes_that_one_gone(tmp_path):
    first = save(tmp_path, 3, 1, save_number=4)
    write(tmp_path, first, save(tmp_path, 3, 5, save_number=6))
    before, after = gather(str(tmp_path)).points
    assert (before.save_number, before.is_there, before.removed_by) == (4, False, "save")
    assert (after.save_number, after.is_there, after.step) == (6, True, 400)


def test_saves_of_one_number_before_and_after_a_resume_are_points_of_their_own_in_order(tmp_path):
    told = [event(manifest(index, 1 + index), f"a_{index}.pt") for index in range(3)]
    again = save(tmp_path, 1, 9, name="b_1.pt")
    write(tmp_path, *told, Resumed(run_id=ONE, at=at(8), name="a_0.pt"), again)
    report = gather(str(tmp_path))
    assert [(one.name, one.save_number) for one in report.points] == [
        ("a_0.pt", 1), ("a_1.pt", 2), ("a_2.pt", 3), ("b_1.pt", 2),
    ]  # fmt: skip


def test_files_older_than_the_history_stand_before_what_it_says_by_the_number_of_their_save(tmp_path):
    save(tmp_path, 0, 50)  # the clock was set back since
    write(tmp_path, save(tmp_path, 1, 2), save(tmp_path, 2, 1))
    assert names(gather(str(tmp_path))) == ["model_0.pt", "model_1.pt", "model_2.pt"]


def test_a_clock_that_goes_backwards_changes_no_order_of_runs(tmp_path):
    write(tmp_path, save(tmp_path, 0, 30), save(tmp_path, 0, 2, run_id=OTHER, name="other_0.pt"))
    report = gather(str(tmp_path))
    assert [one.run_id for one in report.runs] == [ONE, OTHER]
    assert names(report) == ["model_0.pt", "other_0.pt"]


def test_a_renamed_checkpoint_is_the_one_of_the_history_and_a_copy_is_another(tmp_path):
    write(tmp_path, save(tmp_path, 0, 1))
    (tmp_path / "model_0.pt").rename(tmp_path / "best_0.pt")
    (point,) = gather(str(tmp_path)).points
    assert (point.name, point.is_there, point.step) == ("best_0.pt", True, 100)
    (tmp_path / "copy_0.pt").write_bytes((tmp_path / "best_0.pt").read_bytes())
    assert sorted(one.is_there for one in gather(str(tmp_path)).points) == [True, True]


def test_what_came_back_from_the_trash_is_there(tmp_path):
    write(tmp_path, save(tmp_path, 0, 1), Removed(run_id=ONE, at=at(2), name="model_0.pt", by="clean"))
    (point,) = gather(str(tmp_path)).points
    assert (point.is_there, point.removed_by) == (True, "")


def test_no_name_in_a_history_makes_the_report_look_outside_of_the_directory(tmp_path):
    (tmp_path / "secret_1.pt").touch()
    inside = write(
        tmp_path / "run",
        *(
            event(manifest(1, 1), name)
            for name in ("../secret_1.pt", str(tmp_path / "secret_1.pt"), "a\0b_1.pt")
        ),
    )
    assert [one.is_there for one in gather(str(inside)).points] == [False, False, False]


def test_starts_say_how_each_process_ended_and_what_it_passed_over(tmp_path):
    report = gather(str(runs.troubled(tmp_path / "run")))
    first, other = (run for run in report.runs if run.run_id)
    assert [one.how for one in first.starts] == ["killed", "stopped"]
    assert (first.starts[0].git_commit, first.starts[1].world_size) == ("abc1234", 2)
    assert first.starts[1].resumed_from == "model_1.pt"
    assert dict(first.starts[1].passed_over) == {"model_2.pt": "corrupt: record data/0"}
    assert [one.how for one in other.starts] == ["running"]
    kinds = [one.kind for one in report.happenings]
    assert kinds == ["started", "save failed", "started", "resumed", "signal", "ended", "started", "damaged"]


def test_the_rules_of_a_runs_last_start_decide_about_its_checkpoints_alone(tmp_path):
    old = Started(run_id=ONE, at=at(0), keep={"last": 3})
    now = Started(run_id=ONE, at=at(5), keep={"last": 1, "best": {"metric": "accuracy", "mode": "max"}})
    write(tmp_path, old, now, *(save(tmp_path, index, index) for index in range(3)))
    save(tmp_path, 0, 9, run_id=OTHER, name="other_0.pt")
    report = gather(str(tmp_path))
    keeps = {one.name: one.keeps for one in report.points}
    assert keeps == {"model_0.pt": False, "model_1.pt": False, "model_2.pt": True, "other_0.pt": None}
    (found,) = report.retention
    assert (found.run_id, found.source, found.kept, found.removed) == (ONE, "run", 1, 2)
    assert found.rules == "last 1, best accuracy:max:1"
    (banner,) = (one for one in report.banners if "would remove 2 of 3" in one.what)
    assert banner.hint == f"marlin-ckpt clean {tmp_path} --keep-last 1 --keep-best accuracy:max:1 --dry-run"
    (best,) = (one for one in report.best if one.run_id == ONE)
    assert (best.metric, best.mode, best.name, best.source) == ("accuracy", "max", "model_2.pt", "rules")


def test_rules_that_are_given_decide_about_each_run(tmp_path):
    for index in range(2):
        save(tmp_path, index, index)
        save(tmp_path, index, index, run_id=OTHER, name=f"other_{index}.pt")
    report = gather(str(tmp_path), KEEP_ONE)
    assert {one.name for one in report.points if one.keeps} == {"model_1.pt", "other_1.pt"}
    assert [(one.source, one.kept, one.removed) for one in report.retention] == [("options", 2, 2)]


@pytest.mark.parametrize("keep", [{"first": 1}, {"last": "3; rm"}, {"last": 0}, {"best": 3}, {"best": [1]}])
def test_rules_that_cannot_be_read_are_none(tmp_path, keep):
    write(tmp_path, Started(run_id=ONE, at=at(0), keep=keep), save(tmp_path, 0, 1))
    assert gather(str(tmp_path)).retention == ()


def test_the_best_ever_is_named_and_the_best_that_is_left(tmp_path):
    lost = event(manifest(7, 1), "model_7.pt")
    write(tmp_path, lost, *(save(tmp_path, index, 2 + index) for index in range(2)))
    found = [(one.name, one.is_there) for one in gather(str(tmp_path)).best if one.metric == "val_loss"]
    assert found == [("model_7.pt", False), ("model_1.pt", True)]


def test_one_checkpoint_has_a_report_with_what_the_history_says_of_it(tmp_path):
    write(tmp_path, save(tmp_path, 0, 1), save(tmp_path, 1, 2), Ended(run_id=ONE, at=at(3)))
    report = gather(str(tmp_path / "model_1.pt"))
    assert (report.is_directory, names(report), report.points[0].step) == (False, ["model_1.pt"], 200)
    assert len(report.sizes) == 5
    assert not (tmp_path / "model_1.pt").with_suffix(".marlin-ckpt").exists()


def test_the_report_of_one_checkpoint_says_of_its_run_that_it_runs(tmp_path):
    (run,) = gather(str(runs.troubled(tmp_path / "run") / "other_0.pt")).runs
    assert [one.how for one in run.starts] == ["running"]


def test_commands_for_one_checkpoint_name_its_directory_and_what_is_beside_it(tmp_path):
    resumed = Resumed(run_id=ONE, at=at(3), name="model_0.pt", passed_over={"model_1.pt": "corrupt"})
    write(tmp_path, Started(run_id=ONE, by="Trainer", at=at(0)), save(tmp_path, 0, 1), resumed)
    hints = {one.what: one.hint for one in gather(str(tmp_path / "model_0.pt")).banners}
    assert hints["The last start was killed."] == f"marlin-ckpt latest {tmp_path} --intact"
    passed_over = hints["The last start passed over model_1.pt: corrupt."]
    assert passed_over == f"marlin-ckpt verify {tmp_path}/model_1.pt"


def test_nothing_is_to_be_salvaged_from_a_file_without_checksums(tmp_path):
    (tmp_path / "model_1.safetensors").write_bytes((100).to_bytes(8, "little") + b'{"a": ')
    (banner,) = (one for one in gather(str(tmp_path)).banners if "is not whole" in one.what)
    assert banner.hint == f"marlin-ckpt verify {tmp_path}/model_1.safetensors"


def test_failed_saves_are_counted_and_named_first_among_warnings(tmp_path):
    failed = SaveFailed(run_id=ONE, at=at(4), name="model_3.pt", index=3, error="No space left on device")
    write(tmp_path, failed, save(tmp_path, 0, 5))
    report = gather(str(tmp_path))
    assert report.totals.failed_saves == 1
    assert any("No space left on device" in one.what and one.severity == "warn" for one in report.banners)


def test_a_prefix_and_an_extension_choose_what_is_there_and_what_was(tmp_path):
    gone = Removed(run_id=ONE, at=at(3), name="other_4.pt", index=4)
    write(tmp_path, save(tmp_path, 0, 1), save(tmp_path, 0, 2, name="other_0.pt", run_id=OTHER), gone)
    assert names(gather(str(tmp_path), Wanted(prefix="other"))) == ["other_0.pt", "other_4.pt"]
    assert gather(str(tmp_path), Wanted(extension="ckpt")).points == ()


def test_sub_directories_have_histories_of_their_own(tmp_path):
    write(tmp_path / "one", save(tmp_path / "one", 0, 1))
    write(tmp_path / "two", event(manifest(3, 2, OTHER), "model_3.pt"))
    report = gather(str(tmp_path), Wanted(recursive=True))
    assert {one.name: one.is_there for one in report.points} == {
        "one/model_0.pt": True,
        "two/model_3.pt": False,
    }


def test_another_directory_stands_beside_it(tmp_path):
    save(tmp_path / "one", 0, 1)
    save(tmp_path / "two", 5, 1, run_id=OTHER)
    report = gather(str(tmp_path / "one"), other=str(tmp_path / "two"))
    assert (names(report), names(report.other)) == (["model_0.pt"], ["model_5.pt"])


def test_files_of_another_tool_are_points_in_order_of_their_steps(tmp_path):
    for name in ("epoch=1-step=20.ckpt", "epoch=0-step=10.ckpt"):
        torch.save({"state_dict": {"w": torch.ones(3)}, "epoch": 1}, tmp_path / name)
    (tmp_path / "notes.bin").write_text("none")
    report = gather(str(tmp_path), Wanted(reads_tensors=True))
    assert names(report) == ["epoch=0-step=10.ckpt", "epoch=1-step=20.ckpt"]
    assert (report.movement.tensors, report.runs[0].starts) == (("w",), ())


def test_a_directory_that_is_not_there_is_an_error_and_an_empty_one_is_a_report(tmp_path):
    with pytest.raises(CheckpointNotFoundError):
        gather(str(tmp_path / "none"))
    assert gather(str(tmp_path)).totals.checkpoints == 0


def test_model_files_are_counted_beside_the_checkpoints_as_list_counts_them(tmp_path):
    write(tmp_path, save(tmp_path, 0, 1), save(tmp_path, 0, 1, name="model_model_0.pt", kind=Kind.MODEL))
    totals = gather(str(tmp_path)).totals
    assert (totals.checkpoints, totals.other_files) == (1, 1)
    assert totals.size_bytes == sum(one.stat().st_size for one in tmp_path.glob("*.pt"))
