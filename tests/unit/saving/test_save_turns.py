"""`save` from threads, signal handlers and forked children at once, and what it says when it fails."""

from __future__ import annotations

import errno
import logging
import os
import pathlib
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from marlin_ckpt import Saver, StorageError, UnsavableStateError, load, save
from marlin_ckpt.directory import catalog
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.saving.copying.owners import Optimizers
from marlin_ckpt.storage.local import publishing, temporary
from marlin_ckpt.storage.local import writer as file_writer
from tests.support.async_runs import Run
from tests.support.oracle import differences
from tests.support.saving_memory import make_state, peak_beyond_kib
from tests.support.states import states


def numbered(directory: Path) -> dict[str, tuple[str, int]]:
    found = {}
    for name in sorted(os.listdir(directory)):
        manifest = inspect(catalog.entry(directory / name)).manifest
        found[name] = manifest.run_id, manifest.save_number
    return found


def test_files_of_threads_that_save_at_once_are_of_one_run_and_each_has_its_number(tmp_path):
    barrier = threading.Barrier(6)

    def saves(number: int) -> None:
        barrier.wait()
        for one in range(5):
            save({"number": number}, tmp_path / f"{number}_{one}.pt")

    threads = [threading.Thread(target=saves, args=(number,)) for number in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    found = numbered(tmp_path)
    assert len({run for run, _ in found.values()}) == 1
    assert len({number for _, number in found.values()}) == len(found) == 30


def test_the_files_of_a_forked_child_are_of_a_run_of_its_own(tmp_path):
    save({"a": 1}, tmp_path / "parent.pt")
    child = os.fork()
    if not child:
        code = 1
        try:
            save({"a": 1}, tmp_path / "child.pt")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    save({"a": 1}, tmp_path / "parent again.pt")
    found = numbered(tmp_path)
    assert found["parent.pt"][0] == found["parent again.pt"][0] != found["child.pt"][0]
    assert found["child.pt"][1] == 1


@pytest.mark.parametrize("when", ["the states are asked for", "the bytes are synced"])
@pytest.mark.parametrize("how", ["save", "Saver.save"])
def test_a_signals_handler_may_save_by_the_function_while_any_save_is_under_way(
    tmp_path, monkeypatch, when, how
):
    fsync, moment = os.fsync, []

    def arrives(at: str) -> None:
        if at == when and not moment:
            moment.append(at)
            os.kill(os.getpid(), signal.SIGUSR1)

    class Interrupted(torch.nn.Module):
        def state_dict(self, *_: Any, **__: Any) -> Any:
            arrives("the states are asked for")
            return {"weight": torch.ones(1)}

    def synced(fd: int) -> None:
        arrives("the bytes are synced")
        fsync(fd)

    monkeypatch.setattr(publishing.os, "fsync", synced)
    before = signal.signal(signal.SIGUSR1, lambda *_: save({"a": 1}, tmp_path / "handler.pt"))
    try:
        with Saver(asynchronous=False) as saver:
            {"save": save, "Saver.save": saver.save}[how](Interrupted(), tmp_path / "x.pt")
    finally:
        signal.signal(signal.SIGUSR1, before)
    found = numbered(tmp_path)
    assert sorted(found) == ["handler.pt", "x.pt"]
    assert len(set(found.values())) == 2


def test_the_first_step_of_another_model_meanwhile_ends_no_save(tmp_path):
    other, kept = Run(), []

    class Kept(dict[str, Any]):
        def values(self) -> Any:
            if not kept:  # what another thread may do between any two looks
                other.step()
                run.optimizer.state[kept.append(1)] = {}
            return super().values()

    run = Run()
    run.step()
    state, first = run.optimizer.state_dict(), next(iter(run.optimizer.state))
    state["state"] = {0: dict(state["state"][0])}
    run.optimizer.state[first] = Kept(run.optimizer.state[first])
    with Saver(asynchronous=False) as saver:
        saver.register(run.optimizer)
        saver.save({"optimizer": state}, tmp_path / "x.pt")
    assert kept


def test_optimizers_are_held_no_longer_than_others_hold_them_and_may_be_added_while_one_looks():
    runs, known = [Run(), Run()], Optimizers()
    known.update([runs[0].optimizer])
    looking = iter(known)
    known.update([runs[1].optimizer])
    assert list(looking) == [runs[0].optimizer]
    assert list(known) == [one.optimizer for one in runs]
    del runs[1], looking
    assert list(known) == [runs[0].optimizer]


def test_what_cannot_be_pickled_is_refused_by_its_place_and_the_old_file_stands(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"the old file")
    with pytest.raises(UnsavableStateError, match=r"at parts\.1\.lock: it cannot be pickled"):
        save({"parts": [Run().module, {"lock": threading.Lock()}]}, tmp_path / "x.pt")
    nested: list[Any] = [Run().module]
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(UnsavableStateError, match="nested too deeply"):
        save(nested, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == b"the old file"
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ["x.pt", "x.dcp"])
def test_a_tensor_whose_memory_has_been_freed_is_refused_and_the_checkpoint_before_stands(
    tmp_path, name, asynchronous
):
    state = {"whole": torch.ones(3), "part": torch.arange(1000.0)[10:]}
    with Saver(asynchronous=asynchronous) as saver:
        saver.save(state, tmp_path / name)
        state["part"].untyped_storage().resize_(0)
        with pytest.raises(UnsavableStateError, match=r"part: its memory has been freed"):
            saver.save(state, tmp_path / name)
    assert torch.equal(load(tmp_path / name)["part"], torch.arange(1000.0)[10:])


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_a_storage_error_and_nothing_is_left(tmp_path, monkeypatch, call, code):
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    where = {
        "open": (temporary, "create"), "write": (file_writer.os, "write"),
        "fsync": (publishing.os, "fsync"), "rename": (publishing.os, "rename"),
    }[call]  # fmt: skip
    (tmp_path / "x.pt").write_bytes(b"the old file")
    monkeypatch.setattr(*where, refused)
    with pytest.raises(StorageError, match=os.strerror(code)) as caught:
        save({"a": torch.ones(100)}, tmp_path / "x.pt")
    assert (caught.value.errno, caught.value.where) == (code, str(tmp_path / "x.pt"))
    assert (tmp_path / "x.pt").read_bytes() == b"the old file"
    assert os.listdir(tmp_path) == ["x.pt"]


def test_a_file_in_the_way_of_a_directory_and_a_lost_working_directory_are_storage_errors(
    tmp_path, monkeypatch
):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError, match="a file is in the way") as caught:
        save({"a": 1}, tmp_path / "file" / "x.pt")
    assert caught.value.errno == errno.ENOTDIR
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match="the working directory has been removed"):
        save({"a": 1}, "x.pt")
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_save_left_half_written_in_the_directory_is_removed(tmp_path, caplog):
    (tmp_path / "x.pt").write_bytes(b"mine")
    left = tmp_path / f".y.pt.elsewhere.1.0123abcd{temporary.SUFFIX}"
    left.write_bytes(b"half of it")
    save({"a": 1}, tmp_path / "y.pt")
    assert sorted(os.listdir(tmp_path)) == ["x.pt", "y.pt"]
    assert f"Removed {left}" in caplog.text


def test_numpy_values_and_paths_are_not_converted_and_a_warning_says_what_a_load_needs(tmp_path, caplog):
    odd = {"rate": np.float32(0.5), "place": pathlib.PurePosixPath("a/b"), "weights": np.arange(3)}
    save(odd, tmp_path / "x.pt")
    found = torch.load(tmp_path / "x.pt", weights_only=False)
    assert [type(one) for one in found.values()] == [np.float32, pathlib.PurePosixPath, np.ndarray]
    assert (found["rate"], found["place"]) == (odd["rate"], odd["place"])
    assert "will need weights_only: false to load" in caplog.text
    caplog.clear()
    save({"rate": 0.5}, tmp_path / "x.pt")
    assert caplog.text == ""


def by_save(path: str, state: Any) -> tuple[str, ...]:
    """Saves; returns what `weights_only` will refuse, as the log says."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("marlin_ckpt.saving.saver")
    logger.addHandler(handler)
    try:
        save(state, path)
    finally:
        logger.removeHandler(handler)
    return tuple(one for one in said if "will need weights_only" in one)


def test_whatever_torch_saves_comes_back_the_same_from_save(cases):
    @settings(max_examples=cases(30, 3000))
    @given(state=states())
    def check(state: Any) -> None:
        assert differences(state, by_save) == []

    check()


def test_a_save_that_does_not_run_behind_the_loop_takes_no_memory_for_a_copy(directory):
    size = 64 << 20
    state, path = make_state(size), os.path.join(directory, "x.pt")
    with Saver(asynchronous=False) as saver:
        for saves in (save, saver.save):
            saves({"small": torch.ones(1)}, path)
            assert peak_beyond_kib(lambda saves=saves: saves(state, path)) < size // 4 >> 10
    with Saver() as saver:
        assert peak_beyond_kib(lambda: saver.save(state, path)) > size // 2 >> 10
