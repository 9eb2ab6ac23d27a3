"""Saves into a `CheckpointDirectory`, at once or behind the loop, and what the command says of it."""

from __future__ import annotations

import errno
import json
import threading

import pytest
import torch

from marlin_ckpt import CheckpointDirectory, SaveReport, StorageError, UnsavableStateError, load
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.torch import writer
from tests.support.async_runs import Gate, LateCopies, Run, same
from tests.support.checkpoint_directories import fill_folder, filled, listed, manifest_of, names, state

BOTH = pytest.mark.parametrize("is_async", [True, False])


class UploadError(Exception):
    """What a user's callback raises: none of ours."""


def full_disk(*_) -> None:
    raise StorageError("cannot write: no space left", errno=errno.ENOSPC)


@BOTH
def test_on_durable_is_told_once_of_each_checkpoint_on_the_writing_thread_after_retention(tmp_path, is_async):
    seen: list[tuple[int, str, list[str]]] = []

    def durable(report: SaveReport) -> None:
        thread = threading.current_thread().name
        seen.append((load(report.path)["step"], thread, listed(tmp_path)))

    with CheckpointDirectory(tmp_path, keep=1, asynchronous=is_async, on_durable=durable) as here:
        reports = [here.save(state(index), index) for index in range(3)]
    thread = "marlin-ckpt save" if is_async else threading.current_thread().name
    assert seen == [(index, thread, [f"model_{index}.pt"]) for index in range(3)]
    assert [one and one.index for one in reports] == ([None] * 3 if is_async else [0, 1, 2])


@BOTH
def test_what_on_durable_raises_is_raised_once_and_the_file_is_there_with_its_number(tmp_path, is_async):
    def durable(report: SaveReport) -> None:
        if report.index == 1:
            raise UploadError

    here = CheckpointDirectory(tmp_path, asynchronous=is_async, on_durable=durable)
    if is_async:
        here.save(state(1), 1)
        with pytest.raises(UploadError):
            here.save(state(2), 2)
    else:
        with pytest.raises(UploadError):
            here.save(state(1), 1)
        here.save(state(2), 2)
    here.save(state(3), 3)
    here.close()
    assert [manifest_of(one.path).save_number for one in here] == [1, 2, 3]


@BOTH
@pytest.mark.parametrize("call", ["save", "load", "wait", "close", "prune"])
def test_what_on_durable_asks_of_its_own_object_is_refused_and_does_not_hang(tmp_path, is_async, call):
    caught: list[int | None] = []

    def durable(_: SaveReport) -> None:
        calls = {
            "save": lambda: here.save(state(9), 9),
            "load": here.load,
            "wait": here.wait,
            "close": here.close,
            "prune": here.prune,
        }
        with pytest.raises(StorageError, match="in the middle of a save") as error:
            calls[call]()
        caught.append(error.value.errno)
        assert here.latest().index == 1  # what only reads may be asked

    with CheckpointDirectory(tmp_path, keep=3, asynchronous=is_async, on_durable=durable) as here:
        here.save(state(1), 1)
    assert caught == [errno.EDEADLK]


@pytest.mark.parametrize("ask", ["save", "load", "prune", "wait", "close", "with"])
def test_what_fails_in_the_background_is_raised_by_the_next_call_once(tmp_path, monkeypatch, ask):
    here = CheckpointDirectory(tmp_path, keep=1, asynchronous=True)
    here.save(state(1), 1)
    here.wait()
    has_come = threading.Event()

    def write(*args, **kwargs):
        has_come.set()
        full_disk(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_image", write)
        here.save(state(2), 2)
        here.latest()  # which waits for nothing
        assert has_come.wait(60)
        with pytest.raises(StorageError, match="no space left"):
            calls = {"save": lambda: here.save(state(3), 3), "with": lambda: here.__exit__(None, None, None)}
            patch.undo()
            calls.get(ask, getattr(here, ask, None))()
    here.wait()
    here.close()
    assert names(here) == ["model_3.pt" if ask == "save" else "model_1.pt"]
    here.close()


def test_a_failure_does_not_replace_the_exception_that_ends_the_with_statement(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(writer, "write_image", full_disk)
    with pytest.raises(ZeroDivisionError), CheckpointDirectory(tmp_path, asynchronous=True) as here:
        here.save(state(1), 1)
        raise ZeroDivisionError
    assert "A save failed: cannot write: no space left" in caplog.text


def test_what_cannot_be_pickled_is_refused_at_once_and_closing_twice_is_nothing(tmp_path):
    here = CheckpointDirectory(tmp_path, asynchronous=True)
    with pytest.raises(UnsavableStateError):
        here.save({"lock": threading.Lock()}, 1)
    here.close()
    here.close()
    here.save(state(1), 1)  # a later save takes the memory anew
    here.close()
    assert names(here) == ["model_1.pt"]


def test_latest_sees_what_is_durable_and_load_waits_for_what_is_being_saved(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    with CheckpointDirectory(tmp_path, asynchronous=True) as here:
        here.save(state(1), 1)
        assert gate.reached.wait(60)
        assert (here.latest(), list(here)) == (None, [])
        gate.opened.set()
        assert here.load()["step"] == 1
        assert here.latest().index == 1


@pytest.mark.parametrize("how", ["in obj", "registered"])
def test_the_state_of_a_known_optimizer_is_copied_late_and_its_step_waits_for_that(
    tmp_path, monkeypatch, how
):
    run, late = Run(), LateCopies(monkeypatch)
    run.step()
    with CheckpointDirectory(tmp_path, asynchronous=True) as here:
        obj = {"model": run.module, "optimizer": run.optimizer}
        if how == "registered":
            here.register(run.optimizer)
            obj["optimizer"] = run.optimizer.state_dict()
        run.forward()
        before = [one.clone() for one in run.module.parameters()]
        here.save(obj, 1)
        run.optimizer.step()  # settles the copy, as the writing thread is held up
        assert not any(map(torch.equal, before, run.module.parameters()))
        late.release()
        here.wait()
    saved = load(tmp_path / "model_1.pt")["model"]
    assert same([saved[name] for name, _ in run.module.named_parameters()], before)
    assert [list(one) for one in manifest_of(tmp_path / "model_1.pt").optimizers.values()] == [
        [[f"model.{name}" for name, _ in run.module.named_parameters()]]
    ]


def test_what_an_optimizer_in_the_object_owns_may_not_be_changed_by_others_while_it_is_copied(
    tmp_path, monkeypatch
):
    run, late = Run(), LateCopies(monkeypatch)
    here = CheckpointDirectory(tmp_path, asynchronous=True)
    here.save({"model": run.module, "optimizer": run.optimizer}, 1)
    with torch.no_grad():
        run.module[0].weight.add_(1)
    late.release()
    with pytest.raises(StorageError, match=r"model\.0\.weight changed outside") as caught:
        here.wait()
    assert (caught.value.errno, list(here)) == (errno.EBUSY, [])
    here.close()


def test_a_checkpoint_of_the_index_is_replaced_and_a_save_that_fails_leaves_it(tmp_path, monkeypatch):
    here = filled(tmp_path, {1: None})
    here.save(state(7), 1)
    assert here.load(1)["step"] == 7
    monkeypatch.setattr(writer, "write_encoded", full_disk)
    with pytest.raises(StorageError, match="no space left"):
        here.save(state(8), 1)
    assert here.load(1)["step"] == 7
    assert listed(tmp_path) == ["model_1.pt"]


def test_two_objects_in_one_directory_see_each_others_checkpoints_and_keep_their_own(tmp_path):
    one, two = (CheckpointDirectory(tmp_path, keep=1) for _ in range(2))
    assert one.run_id != two.run_id
    for index in range(3):
        one.save(state(index), 2 * index)
        two.save(state(index), 2 * index + 1)
    assert names(one) == names(two) == ["model_4.pt", "model_5.pt"]
    assert [info.run_id for info in one] == [one.run_id, two.run_id]
    one.load()  # it goes on as the other run, whose rules are its own then
    one.save(state(6), 6)
    assert names(two) == ["model_4.pt", "model_6.pt"]
    assert [manifest_of(info.path).save_number for info in two] == [3, 4]


def test_the_command_lists_names_and_cleans_what_is_there(tmp_path, capsys):
    here = filled(tmp_path, {1: 0.3, 2: 0.1})
    fill_folder(here, "model_3", metrics={"loss": 0.2})
    assert main(["list", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["checkpoints"]
    known = list(here)
    assert [one["path"] for one in listed] == [one.path for one in known]
    assert [one["metrics"] for one in listed] == [one.metrics for one in known]
    assert [one["run_id"] for one in listed] == [one.run_id for one in known]
    assert main(["latest", str(tmp_path), "--intact"]) == 0
    assert capsys.readouterr().out.strip() == here.latest().path
    rules = ["clean", str(tmp_path), "--keep-last", "1", "--yes"]
    assert main(rules) == 0
    assert names(here) == ["model_3"]
