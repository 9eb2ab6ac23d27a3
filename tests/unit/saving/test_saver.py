"""`Saver`: any object behind the training loop, and what becomes of each file."""

from __future__ import annotations

import copy
import errno
import gc
import os
import threading
import weakref
from typing import Any

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import CheckpointNotFoundError, Saver, StorageError, UnsavableStateError
from marlin_ckpt.directory import catalog
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.saving import background
from marlin_ckpt.saving.copying import staging
from tests.support.async_runs import Run
from tests.support.equality import is_same


def loaded(path: Any) -> Any:
    return torch.load(path, weights_only=True)


def manifest_of(path: Any) -> Any:
    return inspect(catalog.entry(path)).manifest


WAYS = {
    "live": lambda run: {"model": run.module, "optimizer": run.optimizer},
    "states": lambda run: {"model": run.module.state_dict(), "optimizer": run.optimizer.state_dict()},
}


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("registers", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_each_file_holds_what_the_objects_were_when_it_was_asked_for(tmp_path, overlap, registers, way):
    run, wanted = Run(), {}
    with Saver(overlap=overlap) as saver:
        if registers:
            saver.register(run.optimizer)
        for step in range(6):
            run.step()
            wanted[step] = copy.deepcopy(WAYS["states"](run))
            saver.save(WAYS[way](run), tmp_path / f"step_{step}.pt")
    for step, states in wanted.items():
        assert is_same(loaded(tmp_path / f"step_{step}.pt"), states), step


@pytest.mark.parametrize("way", ["live", "registered"])
def test_what_a_known_optimizer_owns_is_copied_while_the_loop_goes_on_and_the_next_step_waits(
    tmp_path, monkeypatch, late, way
):
    run, counts = Run(), []
    run.step()
    init = staging.Copying.__init__

    def counting(self: Any, copies: Any, watched: Any, wrong: Any, **how: Any) -> None:
        counts.append(len(watched.tensors))
        init(self, copies, watched, wrong, **how)

    monkeypatch.setattr(staging.Copying, "__init__", counting)
    with Saver() as saver:
        if way == "registered":
            saver.register(run.optimizer)
        wanted = copy.deepcopy(WAYS["states"](run))
        saver.save(WAYS["live" if way == "live" else "states"](run), tmp_path / "x.pt")
        run.step()
        late.release()
    assert counts == [4 * len(list(run.module.parameters()))]  # each with two moments and a count of steps
    assert is_same(loaded(tmp_path / "x.pt"), wanted)


def test_what_was_saved_behind_the_loop_is_loaded_into_objects_like_it(tmp_path):
    def whole(run: Run) -> dict[str, Any]:
        scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 2)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0 * len(run.optimizer.state) + 1)
        return {"parts": [run.module, (run.optimizer, scheduler)], "scaler": scaler, "epoch": 3}

    saved, other = Run(), Run()
    saved.step()
    live, into = whole(saved), whole(other)
    with Saver() as saver:
        saver.save(live, tmp_path / "x.pt")
    found = marlin_ckpt.load(tmp_path / "x.pt", into=into)
    assert found["parts"][0] is other.module
    assert found["epoch"] == 3
    assert is_same(other.module.state_dict(), saved.module.state_dict())
    assert is_same(other.optimizer.state_dict(), saved.optimizer.state_dict())
    assert found["scaler"].state_dict() == live["scaler"].state_dict()


def test_a_change_outside_of_a_step_is_an_error_at_the_next_call_and_later_saves_copy_all(tmp_path, late):
    run = Run()
    run.step()
    with Saver() as saver:
        saver.save(WAYS["live"](run), tmp_path / "a.pt")
        with torch.no_grad():
            run.module[2].weight.clamp_(-0.01, 0.01)
        late.release()
        with pytest.raises(StorageError, match=r"model\.2\.weight changed") as caught:
            saver.wait()
        assert caught.value.errno == errno.EBUSY
        assert caught.value.where == str(tmp_path / "a.pt")
        wanted = copy.deepcopy(WAYS["states"](run))
        saver.save(WAYS["live"](run), tmp_path / "b.pt")
        with torch.no_grad():
            run.module[2].weight.zero_()
    assert os.listdir(tmp_path) == ["b.pt"]
    assert is_same(loaded(tmp_path / "b.pt"), wanted)


def test_a_file_is_written_where_a_relative_path_led_to_when_it_was_saved(tmp_path, monkeypatch, gate):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Saver() as saver:
        saver.save({"a": 1}, "x.pt")
        assert gate.reached.wait(60)
        os.chdir(tmp_path / "there")
        gate.opened.set()
        saver.wait()
        assert [one.path for one in saver.take_reports()] == ["x.pt"]
    assert os.listdir(tmp_path / "here") == ["x.pt"]
    assert os.listdir(tmp_path / "there") == []


@pytest.mark.parametrize("length", [0, 24, 4096])
def test_a_storage_may_be_resized_once_its_save_has_returned(tmp_path, gate, length):
    state = {"one": torch.arange(6.0), "two": torch.ones(2)}
    wanted = copy.deepcopy(state)
    with Saver() as saver:
        saver.save(state, tmp_path / "x.pt")
        assert gate.reached.wait(60)
        state["one"].untyped_storage().resize_(length)
        gate.opened.set()
        saver.wait()
        assert saver.take_reports()[0].size_bytes == os.path.getsize(tmp_path / "x.pt")
    assert is_same(loaded(tmp_path / "x.pt"), wanted)


def test_files_are_numbered_and_those_that_fail_take_no_number(tmp_path):
    saver = Saver(asynchronous=False)
    saver.save({"a": 1}, tmp_path / "1.pt", metrics={"loss": 1})
    with pytest.raises(UnsavableStateError):
        saver.save({"a": threading.Lock()}, tmp_path / "none.pt")
    saver.save({"a": 1}, tmp_path / "2.pt", index=9)
    manifests = [manifest_of(tmp_path / name) for name in ("1.pt", "2.pt")]
    assert [(one.run_id, one.save_number) for one in manifests] == [(saver.run_id, 1), (saver.run_id, 2)]
    assert [(one.index, one.metrics) for one in manifests] == [(0, {"loss": 1.0}), (9, {})]
    assert Saver().run_id != saver.run_id


def test_a_run_that_was_loaded_goes_on_with_its_id_and_its_numbers(tmp_path):
    with Saver() as first:
        for name in ("a.pt", "b.pt"):
            first.save({"a": 1}, tmp_path / name)
    second = Saver(asynchronous=False)
    torch.save({"a": 1}, tmp_path / "theirs.pt")
    second.continue_run(tmp_path / "theirs.pt")
    assert second.run_id != first.run_id
    with pytest.raises(CheckpointNotFoundError):
        second.continue_run(tmp_path / "missing.pt")
    second.continue_run(tmp_path / "b.pt")
    second.save({"a": 1}, tmp_path / "c.pt")
    manifest = manifest_of(tmp_path / "c.pt")
    assert (manifest.run_id, manifest.save_number, manifest.parent.name) == (first.run_id, 3, "b.pt")


def test_threads_that_save_by_one_saver_get_different_numbers_of_one_run(tmp_path):
    with Saver() as saver:
        threads = [
            threading.Thread(target=saver.save, args=({"a": number}, tmp_path / f"{number}.pt"))
            for number in range(6)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    manifests = [manifest_of(tmp_path / f"{number}.pt") for number in range(6)]
    assert {one.run_id for one in manifests} == {saver.run_id}
    assert sorted(one.save_number for one in manifests) == [1, 2, 3, 4, 5, 6]


def test_reports_are_handed_over_once(tmp_path):
    with Saver() as saver:
        assert saver.take_reports() == []
        saver.save({"a": 1}, tmp_path / "step_1.pt", metrics={"loss": 2})
        saver.save(torch.nn.Linear(1, 1), tmp_path / "step_2.pt")
        saver.wait()
        reports = saver.take_reports()
        assert saver.take_reports() == []
    assert [(one.index, one.is_model, one.metrics) for one in reports] == [
        (1, False, {"loss": 2.0}),
        (2, True, {}),
    ]


def test_close_twice_a_save_after_it_and_a_wait_for_nothing_do_no_harm(tmp_path):
    run = Run()
    saver = Saver()
    saver.wait()
    saver.close()
    saver.save(WAYS["live"](run), tmp_path / "a.pt")
    saver.close()
    saver.close()
    run.step()
    wanted = copy.deepcopy(WAYS["states"](run))
    saver.save(WAYS["live"](run), tmp_path / "b.pt")
    run.step()
    saver.close()
    assert is_same(loaded(tmp_path / "b.pt"), wanted)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_saver_keeps_nothing_of_what_it_has_saved(tmp_path, is_async):
    run = Run()
    run.step()
    saver = Saver(asynchronous=is_async)
    saver.save(WAYS["live"](run), tmp_path / "x.pt")
    saver.wait()
    held = [weakref.ref(one) for one in (run.module, run.optimizer, run.module[0].weight)]
    del run
    gc.collect()
    assert [one() for one in held] == [None] * 3


def test_a_name_that_is_taken_is_refused_at_once_and_one_that_the_save_before_takes_later(
    tmp_path, monkeypatch, gate
):
    ended = background.Background.ended

    def only_then(self: Any) -> Any:
        gate.opened.set()
        return ended(self)

    (tmp_path / "x.pt").write_bytes(b"mine")
    with Saver() as saver:
        with pytest.raises(StorageError, match="a file of this name exists"):
            saver.save({"a": 1}, tmp_path / "x.pt", overwrite=False)
        saver.save({"a": 1}, tmp_path / "y.pt", overwrite=False)
        monkeypatch.setattr(background.Background, "ended", only_then)
        saver.save({"a": 2}, tmp_path / "y.pt", overwrite=False)
        with pytest.raises(StorageError, match="a file of this name exists") as caught:
            saver.wait()
    assert caught.value.errno == errno.EEXIST
    assert loaded(tmp_path / "y.pt") == {"a": 1}
    assert (tmp_path / "x.pt").read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["x.pt", "y.pt"]
