"""A run that goes on shares with the file that it was loaded from, if that is unchanged since."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from marlin_ckpt import (
    Checkpoint,
    CheckpointDirectory,
    DefaultCheckpointer,
    DefaultCheckpointerArguments,
    Saver,
    StateMismatchError,
    Status,
    load,
    verify,
)
from marlin_ckpt.formats import digests
from tests.support.shared_saves import base, origins, saves

FROZEN = "data/0"


def origin_at(directory, index: int) -> int:
    return origins(directory / f"model_{index}.pt")[FROZEN]


def goes_on(directory, prepare=lambda there: there.load(), count: int = 3) -> list[int]:
    """Saves a few times after what went before; the numbers of the saves that wrote the frozen tensor."""
    with CheckpointDirectory(directory, keep=3, share_unchanged=True) as there:
        prepare(there)
        for index in range(3, 3 + count):
            there.save(base(), index)
            assert verify(directory / f"model_{index}.pt").status is Status.INTACT
        return [origin_at(directory, index) for index in range(3, 3 + count)]


@pytest.fixture
def earlier(tmp_path, clones):
    """Three checkpoints of a process that has ended; the last shares with the first."""
    saves(tmp_path, [base()] * 3)
    assert origin_at(tmp_path, 2) == 1
    return tmp_path


def test_the_first_save_after_a_load_writes_a_copy_of_its_own_and_the_second_shares_with_what_was_loaded(
    earlier,
):
    assert goes_on(earlier) == [4, 1, 4]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_checkpointer_that_goes_on_shares_with_what_it_has_loaded(tmp_path, clones, asynchronous):
    def checkpointer() -> DefaultCheckpointer:
        args = {"save_dir": tmp_path, "load_dir": tmp_path, "model_state_save_dir": None}
        return DefaultCheckpointer(
            DefaultCheckpointerArguments(**args, share_unchanged=True, async_save=asynchronous)
        )

    with checkpointer() as first:
        for index in range(3):
            first.save(Checkpoint(base()), index)
    live = {name: torch.zeros_like(one) for name, one in base().items()}
    with checkpointer() as second:
        second.load(into=Checkpoint(live))
        for index in range(3, 5):
            second.save(Checkpoint(live), index)
    assert [origin_at(tmp_path, index) for index in range(5)] == [1, 2, 1, 4, 1]
    loaded = load(tmp_path / "model_4.pt")["module_interface_state"]
    assert all(torch.equal(loaded[name], one) for name, one in base().items())


def test_with_an_older_checkpoint_that_is_loaded_the_first_save_shares_if_its_neighbour_has_other_bytes(
    earlier,
):
    assert goes_on(earlier, lambda there: there.load(1), count=1) == [2]


def test_a_file_that_was_replaced_since_it_was_loaded_is_not_shared_with(earlier):
    def replaced_after_the_load(there):
        there.load()
        shutil.copy2(earlier / "model_2.pt", earlier / "other")
        os.rename(earlier / "other", earlier / "model_2.pt")

    assert goes_on(earlier, replaced_after_the_load) == [4, 5, 4]


def test_a_file_that_was_replaced_while_it_was_loaded_is_not_shared_with(earlier, monkeypatch):
    def replaced_meanwhile(there):
        there.load()
        one = there._saves.sharing._past
        one.reads(earlier / "model_2.pt")
        os.utime(earlier / "model_2.pt")
        one.has_read(earlier / "model_2.pt")

    assert goes_on(earlier, replaced_meanwhile) == [4, 5, 4]


def refused(there):
    with pytest.raises(StateMismatchError):
        there.load(into={"frozen": torch.zeros(3)})


@pytest.mark.parametrize(
    "prepare", [refused, lambda there: there.latest(), lambda there: load(there.path + "/model_2.pt")]
)
def test_a_file_that_the_run_has_not_loaded_in_full_is_not_shared_with(earlier, prepare):
    assert goes_on(earlier, prepare)[:2] == [1, 2]


def test_a_run_that_is_continued_by_a_look_at_its_file_shares_with_its_own_files_alone(earlier):
    with Saver(share_unchanged=True) as saver:
        saver.continue_run(earlier / "model_2.pt")
        for index in (3, 4):
            saver.save(base(), earlier / f"model_{index}.pt")
    assert [origin_at(earlier, index) for index in (3, 4)] == [4, 5]


def test_a_file_of_another_run_that_was_looked_at_before_is_not_shared_with(tmp_path, clones):
    saves(tmp_path, [base()], prefix="other")
    saves(tmp_path, [base()] * 3)
    with CheckpointDirectory(tmp_path, keep=3, share_unchanged=True) as there:
        there.load()
        past = there._saves.sharing._past
        past.reads(tmp_path / "other_0.pt")
        past.has_read(tmp_path / "other_0.pt")
        there.save(base(), 3)
    assert origin_at(tmp_path, 3) == 4


def test_digests_in_a_file_that_are_those_of_other_data_do_not_make_it_shared_with(
    tmp_path, clones, monkeypatch
):
    states = [{**base(), "frozen": base()["frozen"] + 1}] * 3
    with monkeypatch.context() as patch:
        wrong = digests.Hashing()
        wrong.add(memoryview(base()["frozen"].numpy()).cast("B"))
        found = wrong.digest()
        patch.setattr(digests.Hashing, "digest", lambda _: found)
        saves(tmp_path, states)
    assert goes_on(tmp_path)[1] == 5
    assert torch.equal(load(tmp_path / "model_4.pt")["frozen"], base()["frozen"])


def test_a_file_without_digests_is_not_shared_with(tmp_path, clones):
    with CheckpointDirectory(tmp_path) as there:
        for index in range(3):
            there.save(base(), index)
    assert goes_on(tmp_path) == [4, 5, 4]
