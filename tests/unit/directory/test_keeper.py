"""Retention in a run: after each durable save, and when the disk is full."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest
import torch

from marlin_ckpt import (
    BestArguments,
    Checkpoint,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    RetentionArguments,
    StorageError,
)
from marlin_ckpt.directory import removing
from marlin_ckpt.saving import predicted_size
from marlin_ckpt.storage.local import publishing
from tests.support.folders import visible

ASYNC = pytest.mark.parametrize("async_save", [False, True])


@pytest.fixture
def saving(make_checkpoint, tmp_path):
    """Makes checkpointers with rules, and a function that saves many."""

    def make(async_save: bool = False, **fields) -> DefaultCheckpointer:
        fields = {"keep": RetentionArguments(last=2), "save_dir": str(tmp_path / "d"), **fields}
        args = DefaultCheckpointerArguments(async_save=async_save, model_state_save_dir=None, **fields)
        return DefaultCheckpointer(args)

    return make


def names(tmp_path) -> list[str]:
    return sorted(visible(tmp_path / "d"), key=lambda name: int(name.split("_")[1][:-3]))


@ASYNC
def test_after_each_save_the_directory_holds_what_the_rules_keep(
    saving, make_checkpoint, tmp_path, async_save
):
    best = BestArguments("loss", "min", 1)
    with saving(async_save, keep=RetentionArguments(last=2, every=4, best=best)) as checkpointer:
        for index in range(1, 11):
            checkpointer.save(make_checkpoint(float(index), loss=abs(index - 3.0)), index)
            checkpointer.wait()
            expected = {one for one in range(1, index + 1) if one % 4 == 0 or one > index - 2}
            expected.add(min(range(1, index + 1), key=lambda one: (abs(one - 3), -one)))
            assert names(tmp_path) == [f"model_{one}.pt" for one in sorted(expected)]


@ASYNC
def test_off_by_default_nothing_goes(saving, make_checkpoint, tmp_path, async_save):
    with saving(async_save, keep=None) as checkpointer:
        for index in range(5):
            checkpointer.save(make_checkpoint(), index)
    assert len(names(tmp_path)) == 5


@ASYNC
def test_nothing_goes_before_the_new_file_is_durable(
    saving, make_checkpoint, tmp_path, monkeypatch, async_save
):
    events = []
    real_sync, real_carry = publishing.sync_open_directory, removing.carry_out
    monkeypatch.setattr(publishing, "sync_open_directory", lambda fd: events.append("sync") or real_sync(fd))

    def carry(plan):
        events.extend(f"remove {os.path.basename(one.path)}" for one in plan.removals)
        return real_carry(plan)

    monkeypatch.setattr(removing, "carry_out", carry)
    with saving(async_save, keep=RetentionArguments(last=1)) as checkpointer:
        for index in range(3):
            checkpointer.save(make_checkpoint(), index)
    removals = [number for number, event in enumerate(events) if event.startswith("remove")]
    assert [events[number] for number in removals] == ["remove model_0.pt", "remove model_1.pt"]
    assert all(events[number - 1] == "sync" for number in removals)


@ASYNC
def test_a_save_that_fails_removes_nothing(saving, make_checkpoint, tmp_path, monkeypatch, async_save):
    with saving(async_save, on_save_error="warn", keep=RetentionArguments(last=1)) as checkpointer:
        checkpointer.save(make_checkpoint(), 1)
        checkpointer.wait()

        def fail(*_, **__):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", fail)
            patch.setattr(os, "replace", fail)
            checkpointer.save(make_checkpoint(), 2)
            checkpointer.wait()
    assert names(tmp_path) == ["model_1.pt"]


def test_files_of_an_earlier_run_stay(saving, make_checkpoint, tmp_path):
    earlier = saving(keep=None)
    for index in (1, 2, 7):
        earlier.save(make_checkpoint(), index)
    torch.save({"a": 1}, tmp_path / "d" / "model_6.pt")
    later = saving(keep=RetentionArguments(last=1))
    for index in (3, 4, 5):
        later.save(make_checkpoint(), index)
    assert names(tmp_path) == [f"model_{index}.pt" for index in (1, 2, 5, 6, 7)]


def test_a_run_that_goes_on_decides_about_its_earlier_files_too(saving, make_checkpoint, tmp_path):
    first = saving(keep=None)
    for index in range(4):
        first.save(make_checkpoint(), index)
    second = saving(keep=RetentionArguments(last=2), load_dir=str(tmp_path / "d"))
    second.load()
    second.save(make_checkpoint(), 4)
    assert names(tmp_path) == ["model_3.pt", "model_4.pt"]


def test_the_file_that_load_filename_names_stays(saving, make_checkpoint, tmp_path):
    saving(keep=None).save(make_checkpoint(), 0)
    checkpointer = saving(
        keep=RetentionArguments(last=1), load_dir=str(tmp_path / "d"), load_filename="model_0.pt"
    )
    checkpointer.load()
    for index in range(1, 4):
        checkpointer.save(make_checkpoint(), index)
    assert names(tmp_path) == ["model_0.pt", "model_3.pt"]


def test_what_the_run_wrote_is_not_read_again(saving, make_checkpoint, tmp_path, monkeypatch):
    from marlin_ckpt.formats import verification

    monkeypatch.setattr(verification, "verify", pytest.fail)
    checkpointer = saving(keep=RetentionArguments(last=1))
    for index in range(4):
        checkpointer.save(make_checkpoint(), index)
    assert names(tmp_path) == ["model_3.pt"]


def test_a_metric_that_checkpoints_lack_is_told_once(saving, make_checkpoint, caplog):
    checkpointer = saving(keep=RetentionArguments(last=1, best=BestArguments("los")))
    for index in range(3):
        checkpointer.save(make_checkpoint(loss=1.0), index)
    assert caplog.text.count("it has no metric los, but loss") == 1


def test_a_save_without_metrics_is_said_to_have_none_once(saving, make_checkpoint, caplog):
    checkpointer = saving(keep=RetentionArguments(last=1, best=BestArguments("los")))
    for index, metrics in enumerate([{}, {}, {"loss": 1.0}]):
        checkpointer.save(make_checkpoint(**metrics), index)
    told = [one for one in caplog.records if "keep.best" in one.getMessage()]
    assert [os.path.basename(one.after_save) for one in told] == ["model_0.pt", "model_2.pt"]
    none, misspelt = [one.getMessage() for one in told]
    assert ("it has no metrics, as what is" in none, "no metric los" in misspelt) == (True, True)


def test_the_log_says_what_went_and_why(saving, make_checkpoint, tmp_path, caplog):
    caplog.set_level("INFO")
    checkpointer = saving(keep=RetentionArguments(last=1))
    for index in range(2):
        checkpointer.save(make_checkpoint(), index)
    assert f"Removed {tmp_path / 'd' / 'model_0.pt'}: no rule keeps it." in caplog.text


def test_a_removal_that_fails_is_told_and_ends_nothing(
    saving, make_checkpoint, tmp_path, monkeypatch, caplog
):
    checkpointer = saving(keep=RetentionArguments(last=1))
    checkpointer.save(make_checkpoint(), 0)
    real = os.unlink

    def fail(path, *args, **options):
        if str(path).endswith("model_0.pt"):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        assert checkpointer.save(make_checkpoint(), 1)
    assert "Could not remove" in caplog.text
    checkpointer.save(make_checkpoint(), 2)
    assert names(tmp_path) == ["model_2.pt"], "tried again after the next save"


class FullDisk:
    """Lets saves fail while more than so many checkpoints lie in a directory."""

    def __init__(self, directory, room: int):
        self.directory, self.room, self.tries = directory, room, 0

    def __call__(self, fd, length):
        self.tries += 1
        if len(list(self.directory.glob("model_*.pt"))) >= self.room:
            raise OSError(errno.ENOSPC, "No space left on device")


@ASYNC
def test_on_a_full_disk_what_the_rules_let_go_goes_first_and_the_save_is_tried_again(
    saving, make_checkpoint, tmp_path, monkeypatch, async_save
):
    first = saving(keep=None)
    for index in range(3):
        first.save(make_checkpoint(), index)
    disk = FullDisk(tmp_path / "d", room=3)
    real = publishing._fill

    def fill(fd, write):
        disk(fd, 0)
        return real(fd, write)

    monkeypatch.setattr(publishing, "_fill", fill)
    with saving(async_save, keep=RetentionArguments(last=2), load_dir=str(tmp_path / "d")) as checkpointer:
        checkpointer.load()
        assert checkpointer.save(make_checkpoint(), 3)
    assert disk.tries == 2
    assert names(tmp_path) == ["model_2.pt", "model_3.pt"]


@pytest.mark.parametrize("on_save_error", ["raise", "warn"])
def test_where_no_room_can_be_made_the_old_checkpoints_stay(
    saving, make_checkpoint, tmp_path, monkeypatch, on_save_error
):
    checkpointer = saving(keep=RetentionArguments(last=2), on_save_error=on_save_error)
    for index in range(2):
        checkpointer.save(make_checkpoint(), index)
    disk = FullDisk(tmp_path / "d", room=0)
    monkeypatch.setattr(publishing, "_fill", disk)
    if on_save_error == "raise":
        with pytest.raises(StorageError, match="No space left"):
            checkpointer.save(make_checkpoint(), 2)
    else:
        assert checkpointer.save(make_checkpoint(), 2) is None
    assert disk.tries == 1
    assert names(tmp_path) == ["model_0.pt", "model_1.pt"]


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.AdamW,
        lambda parameters: torch.optim.Adam(parameters, amsgrad=True),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.RMSprop(parameters, momentum=0.9, centered=True),
        torch.optim.Adagrad,
        torch.optim.NAdam,
        torch.optim.Adafactor,
        torch.optim.Muon,
    ],
)
def test_the_size_of_a_checkpoint_is_foretold_before_the_first_step(make, tmp_path):
    module = torch.nn.Linear(300, 200, bias=False)
    optimizer = make(list(module.parameters()))

    def state() -> dict:
        return {"module": module.state_dict(), "optimizers": [optimizer.state_dict()]}

    foretold = predicted_size.predicted_bytes(state(), [optimizer])
    module(torch.randn(4, 300)).sum().backward()
    optimizer.step()
    torch.save(state(), tmp_path / "after.pt")
    assert foretold == pytest.approx(os.path.getsize(tmp_path / "after.pt"), rel=0.05)
    assert predicted_size.predicted_bytes(state(), [optimizer]) == pytest.approx(foretold, rel=0.01)


def test_a_run_for_which_there_is_no_room_ends_before_its_first_step(saving, monkeypatch, tmp_path):
    found = SimpleNamespace(f_bavail=1000, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    checkpointer = saving(keep=RetentionArguments(last=3))
    optimizer = torch.optim.AdamW([torch.zeros(100, requires_grad=True)])
    state = Checkpoint({"weight": torch.zeros(100)}, {"optimizers": [optimizer.state_dict()]})
    with pytest.raises(StorageError) as caught:
        checkpointer.check_space(state, [optimizer], 100)
    assert str(caught.value).startswith(
        "too little room for 3 checkpoints of 1,200 bytes and one more: 4,800"
    )
    assert "--no-space-check" in caught.value.hint
    found.f_bavail = 4800
    checkpointer.check_space(state, [optimizer], 100)
    found.f_bavail = 0
    checkpointer.args.check_space = False
    checkpointer.check_space(state, [optimizer], 100)


def test_what_the_run_has_kept_so_far_counts_as_kept(saving, make_checkpoint, monkeypatch, tmp_path):
    checkpointer = saving(keep=RetentionArguments(last=3))
    for index in range(3):
        checkpointer.save(make_checkpoint(), index)
    state = make_checkpoint()
    size = predicted_size.predicted_bytes(state.payload(), [])
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=2 * size, f_frsize=1))
    checkpointer.check_space(state, [], 100)
    with pytest.raises(StorageError, match="too little room"):
        saving(keep=RetentionArguments(last=3)).check_space(state, [], 100)
