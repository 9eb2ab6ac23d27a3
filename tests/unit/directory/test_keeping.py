"""What retention makes of directories: what counts, what is left alone, what is read before a file goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from marlin_ckpt import RetentionArguments
from marlin_ckpt.directory import removing
from marlin_ckpt.directory.retention import decide
from marlin_ckpt.directory.retention.plan import Keeping
from marlin_ckpt.formats import verification

NOW = 2e9


@pytest.fixture
def saved(make_checkpointer, make_checkpoint, tmp_path):
    """Six checkpoints of one run, and a model file."""
    checkpointer = make_checkpointer()
    for index in range(6):
        checkpointer.save(make_checkpoint(float(index), loss=10.0 - index), index)
    checkpointer.save_model({"weight": torch.ones(2)}, 5)
    return tmp_path / "checkpoints"


def plan(directory, keeping=None, *, last=1, **options):
    keeping = keeping or Keeping()
    return keeping.plan(os.fspath(directory), RetentionArguments(last=last), now_s=NOW, **options)


def goes(directory, *args, **options) -> list[str]:
    return [os.path.basename(one.path) for one in plan(directory, *args, **options).removal.removals]


def flip(path: Path) -> None:
    """Damages a byte of a tensor's data."""
    data = bytearray(path.read_bytes())
    at = data.index(b"archive/data/0") + 200
    data[at] ^= 1
    path.write_bytes(data)


def test_all_but_what_is_kept_goes_and_the_model_file_stays(saved):
    assert goes(saved, last=2) == [f"model_{index}.pt" for index in range(4)]
    removing.carry_out(plan(saved, last=2).removal)
    assert sorted(os.listdir(saved)) == ["model_4.pt", "model_5.pt", "model_model_5.pt"]


def test_a_file_with_a_torn_end_takes_no_place_and_is_left_alone(saved):
    (saved / "model_5.pt").write_bytes((saved / "model_5.pt").read_bytes()[:-30])
    found = plan(saved)
    assert [one.keep for one in found.decisions] == [False] * 4 + [True, True]
    assert found.decisions[-1].reasons[0].startswith("left alone: corrupt: truncated")


def test_a_newest_file_whose_data_is_damaged_is_found_before_anything_goes(saved):
    flip(saved / "model_5.pt")
    flip(saved / "model_4.pt")
    found = plan(saved)
    assert [one.keep for one in found.decisions] == [False] * 3 + [True] * 3
    assert found.decisions[3].reasons == ("newest", "last 1")
    assert "corrupt" in found.decisions[4].reasons[0]


def test_where_no_file_is_intact_none_goes(saved):
    for index in range(6):
        flip(saved / f"model_{index}.pt")
    assert goes(saved) == []


@pytest.mark.parametrize(
    ("verify", "reads"),
    [("newest", ["model_5.pt"]), ("all", ["model_4.pt", "model_5.pt"]), ("none", [])],
)
def test_just_what_was_asked_for_is_read_whole(saved, monkeypatch, verify, reads):
    read = []
    real = verification.verify
    monkeypatch.setattr(
        verification, "verify", lambda one: read.append(os.path.basename(one.path)) or real(one)
    )
    keeping = Keeping()
    assert len(goes(saved, keeping, last=2, verify=verify)) == 4
    assert sorted(read) == reads
    goes(saved, keeping, last=2, verify=verify)
    assert sorted(read) == reads, "what is known is not read again"


def test_a_damaged_kept_file_is_found_where_all_are_verified(saved):
    flip(saved / "model_4.pt")
    assert goes(saved, last=2) == [f"model_{index}.pt" for index in range(4)]
    assert goes(saved, last=2, verify="all") == [f"model_{index}.pt" for index in range(3)]


def test_what_a_run_wrote_itself_is_not_read_again_until_it_changes(saved, monkeypatch):
    keeping = Keeping()
    keeping.trust(os.fspath(saved / "model_5.pt"))
    read = []
    real = verification.verify
    monkeypatch.setattr(verification, "verify", lambda one: read.append(one.path) or real(one))
    assert len(goes(saved, keeping)) == 5
    assert read == []
    os.utime(saved / "model_5.pt", ns=(1, 1))
    assert len(goes(saved, keeping)) == 5
    assert len(read) == 1


def test_where_nothing_goes_nothing_is_read(saved, monkeypatch):
    monkeypatch.setattr(verification, "verify", pytest.fail)
    assert goes(saved, last=9) == []


def test_each_run_is_decided_about_apart(saved, make_checkpointer, make_checkpoint):
    other = make_checkpointer(load_dir=None)
    for index in (3, 8, 9):
        other.save(make_checkpoint(float(index)), index)
    found = plan(saved)
    runs = {one.candidate.index: one.candidate.run_id for one in found.decisions}
    assert runs[3] == runs[9] != runs[5]
    assert {one.candidate.index for one in found.decisions if one.keep} == {5, 9}


def test_of_one_run_alone_the_others_are_left_alone(saved, make_checkpointer, make_checkpoint):
    other = make_checkpointer(load_dir=None)
    other.save(make_checkpoint(), 9)
    torch.save({"weight": torch.ones(2)}, saved / "model_10.pt")
    mine = plan(saved).decisions[0].candidate.run_id
    found = plan(saved, run_id=other.run_id)
    assert not found.removal.removals
    told = {one.candidate.index: one.reasons for one in found.decisions}
    assert told[0] == (f"left alone: of another run, {mine}",)
    assert told[10] == ("left alone: of no known run",)
    assert told[9] == ("newest", "last 1")


def test_files_by_torch_save_are_a_run_of_their_own(saved):
    for index in (20, 21, 22):
        torch.save({"weight": torch.ones(2)}, saved / f"model_{index}.pt")
    assert goes(saved) == [f"model_{index}.pt" for index in (0, 1, 2, 3, 4, 20, 21)]


def test_files_without_checksums_neither_count_nor_go(saved):
    torch.save({"a": 1}, saved / "model_30.pt", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(2)}, saved / "model_31.pt")
        torch.save({"a": torch.ones(2)}, saved / "model_32.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    found = plan(saved)
    assert {one.candidate.index for one in found.decisions if one.keep} == {5, 30, 31, 32}


def test_another_prefix_or_extension_and_what_lies_below_is_not_looked_at(saved):
    (saved / "sub").mkdir()
    for name in ("other_9.pt", "model_9.ckpt", "sub/model_9.pt", "model-9.pt", "best.pt"):
        shutil.copy(saved / "model_0.pt", saved / name)
    assert goes(saved, prefix="model") == [f"model_{index}.pt" for index in range(5)]
    assert {one.candidate.index for one in plan(saved, prefix="other").decisions} == {9}
    both = plan(saved).decisions
    kept = [os.path.basename(one.candidate.path) for one in both if one.keep]
    assert kept == ["model_5.pt", "other_9.pt"]
    below = plan(saved, recursive=True)
    assert str(saved / "sub/model_9.pt") in [one.candidate.path for one in below.decisions if one.keep]


def test_a_symbolic_link_takes_no_place_and_what_it_leads_to_stays(saved, tmp_path):
    (saved / "best").symlink_to("model_1.pt")
    (saved / "model_7.pt").symlink_to(saved / "model_2.pt")
    shutil.copy(saved / "model_5.pt", tmp_path / "model_8.pt")
    (saved / "model_8.pt").symlink_to(tmp_path / "model_8.pt")
    found = plan(saved)
    told = {one.candidate.index: (one.keep, one.reasons) for one in found.decisions}
    assert told[1] == (True, ("best links to it",))
    assert told[2] == (True, ("model_7.pt links to it",))
    assert told[7] == told[8] == (True, ("left alone: a symbolic link",))
    assert told[5][0]
    removing.carry_out(found.removal)
    assert (tmp_path / "model_8.pt").exists()
    assert sorted(os.listdir(saved)) == sorted(
        ["best", "model_1.pt", "model_2.pt", "model_5.pt", "model_7.pt", "model_8.pt", "model_model_5.pt"]
    )


def test_a_directory_that_is_a_link_is_refused(saved, tmp_path):
    (tmp_path / "linked").symlink_to(saved)
    with pytest.raises(OSError, match="symbolic link"):
        plan(tmp_path / "linked")


def test_a_file_that_is_replaced_after_the_decision_stays(saved):
    found = plan(saved)
    shutil.copy(saved / "model_5.pt", saved / "new")
    os.replace(saved / "new", saved / "model_0.pt")
    done = removing.carry_out(found.removal)
    assert [os.path.basename(one.path) for one in done.removed] == [
        f"model_{index}.pt" for index in range(1, 5)
    ]
    assert [one.error for one in done.failures] == ["another file has taken its place"]


def test_a_salvaged_file_with_tensors_lost_takes_no_place(saved, tmp_path):
    from marlin_ckpt.operations.rescue import salvage

    flip(saved / "model_4.pt")
    salvage.salvage(os.fspath(saved / "model_4.pt"), saved / "model_6.pt")
    found = plan(saved)
    assert found.decisions[-1].reasons == ("left alone: salvaged, with tensors lost",)
    assert [one.candidate.index for one in found.decisions if one.keep] == [5, 6]


def test_a_newest_file_that_is_damaged_is_read_once_and_not_after_each_save(saved, monkeypatch):
    flip(saved / "model_5.pt")
    read = []
    real = verification.verify
    monkeypatch.setattr(verification, "verify", lambda one: read.append(one.path) or real(one))
    keeping = Keeping()
    for _ in range(3):
        assert goes(saved, keeping) == [f"model_{index}.pt" for index in range(4)]
    assert [os.path.basename(path) for path in read] == ["model_5.pt", "model_4.pt"]


def test_of_many_damaged_files_each_is_decided_about_once(saved, monkeypatch):
    for index in range(1, 6):
        flip(saved / f"model_{index}.pt")
    decisions = []
    real = decide.decide
    monkeypatch.setattr(
        decide, "decide", lambda *args, **options: decisions.append(1) or real(*args, **options)
    )
    assert goes(saved) == []
    assert len(decisions) == 2


def test_an_older_file_without_checksums_takes_no_place_of_one_that_can_be_verified(saved):
    torch.serialization.set_crc32_options(False)
    try:
        for index in (20, 21, 23):
            torch.save({"a": torch.ones(2)}, saved / f"model_{index}.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    for index in (19, 22, 24):
        torch.save({"a": torch.ones(2)}, saved / f"model_{index}.pt")
    found = plan(saved, last=2)
    reasons = {one.candidate.index: one.reasons for one in found.decisions}
    assert reasons[20] == reasons[21] == reasons[23] == ("left alone: saved without checksums",)
    assert [one.candidate.index for one in found.decisions if not one.keep] == [0, 1, 2, 3, 19]
