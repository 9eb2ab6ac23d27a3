"""Threads that die while they save, callers who are interrupted, and disks that keep each write waiting."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from pathlib import Path

import pytest

from marlin_ckpt.formats.torch import writer
from marlin_ckpt.saving.copying import staging
from marlin_ckpt.storage.local import direct, system_calls
from marlin_ckpt.storage.local import writer as local_writer
from marlin_ckpt.storage.local.threads import WritingThreads
from tests.support.async_runs import checkpointer
from tests.support.async_trainings import is_behind
from tests.support.small_training import Training, as_it_is

pytestmark = pytest.mark.usefixtures("small_pieces", "no_hang")
PATIENCE_S = 60
NAME = "model_0.pt"


class Unforeseen(Exception):
    """None that the package knows."""


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(local_writer, "_LARGE_BYTES", 0)
    monkeypatch.setattr(direct, "_PIECE_BYTES", 4096)
    monkeypatch.setattr(local_writer, "_CACHED_PIECE_BYTES", 4096)
    monkeypatch.setattr(staging, "_TASK_BYTES", 4096)


@pytest.fixture
def no_hang():
    """Ends a test that waits for a thread in vain."""

    def give_up(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(2 * PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def savers():
    return [one for one in threading.enumerate() if one.name.startswith("marlin-ckpt")]


def faults_of_a_death(directory, monkeypatch, owner, name, number):
    """Lets a function of the background raise at one of its calls, and tells what is then wrong."""
    training, struck = Training(), []
    one = checkpointer(directory)
    one.register(training.optimizer)
    one.save(training.checkpoint(), 0)
    one.wait()
    old = (directory / NAME).read_bytes()
    real = getattr(owner, name)

    def dies(*args, **kwargs):
        if threading.current_thread() in savers():
            struck.append(name)
            if len(struck) == number:
                raise Unforeseen
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        patch.setattr(staging, "_PATIENCE_S", 0)  # so that the thread ends by itself
        one.save(training.checkpoint(), 0)
        for thread in savers():
            thread.join(PATIENCE_S)
    assert len(struck) >= number
    try:
        one.wait()
    except Unforeseen:
        pass
    else:
        yield "not told"
    try:
        one.wait()
    except Unforeseen:
        yield "told again"
    if (directory / NAME).read_bytes() != old or os.listdir(directory) != [NAME]:
        yield "the old file is gone, or there is litter"
    if savers():
        yield "a thread is left"
    training.step()
    one.save(training.checkpoint(), 0)
    one.close()
    if not training.is_in(directory / NAME, training.checkpoint()):
        yield "the next save does not work"


DEATHS = [
    ("direct", system_calls, "allocate", 1),
    ("direct", os, "pwrite", 2),
    ("buffered", os, "write", 2),
    ("buffered", system_calls, "start_writeback", 2),
    ("buffered", writer, "write_state", 1),
    ("buffered", ctypes, "memmove", 2),
    ("buffered", os, "fsync", 1),
    ("buffered", os, "rename", 1),
]


@pytest.mark.parametrize(
    ("way", "owner", "name", "number"), DEATHS, ids=[f"{one[0]} {one[2]}" for one in DEATHS]
)
def test_a_thread_that_dies_in_the_middle_of_a_save_is_told_of_once_and_the_next_save_works(
    tmp_path, monkeypatch, way, owner, name, number
):
    if way == "buffered":
        monkeypatch.setattr(local_writer, "_LARGE_BYTES", 1 << 40)
    assert list(faults_of_a_death(tmp_path, monkeypatch, owner, name, number)) == []


def test_a_death_that_nobody_looks_at_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(WritingThreads, "check", lambda _: None)
    assert "not told" in list(faults_of_a_death(tmp_path, monkeypatch, os, "pwrite", 2))


class Disk:
    """Takes no write until the loop has made another step since it was asked to, or patience is over."""

    def __init__(self, monkeypatch, training, patience_s):
        self.changed = threading.Condition()
        self.steps_went_on = []
        pwrite = os.pwrite

        def slow(*args):
            with self.changed:
                before = training.steps
                went_on = self.changed.wait_for(lambda: training.steps > before, patience_s)
                self.steps_went_on.append(went_on)
            return pwrite(*args)

        monkeypatch.setattr(os, "pwrite", slow)


def train_on_a_slow_disk(directory, monkeypatch, *, behind):
    training = Training()
    one = checkpointer(directory, async_save=behind)
    one.register(training.optimizer)
    disk = Disk(monkeypatch, training, PATIENCE_S if behind else 0)
    wanted = as_it_is(training.checkpoint())
    one.save(training.checkpoint(), 0)
    while not one.take_reports():
        with disk.changed:
            training.step()
            disk.changed.notify_all()
    one.close()
    assert training.is_in(directory / NAME, wanted)
    return disk.steps_went_on


def test_while_the_disk_takes_nothing_the_loop_goes_on_and_the_file_is_that_of_when_it_was_asked_for(
    tmp_path, monkeypatch
):
    steps_went_on = train_on_a_slow_disk(tmp_path, monkeypatch, behind=True)
    assert len(steps_went_on) >= 10
    assert all(steps_went_on)


def test_no_step_goes_on_while_a_synchronous_save_waits_for_the_disk(tmp_path, monkeypatch):
    steps_went_on = train_on_a_slow_disk(tmp_path, monkeypatch, behind=False)
    if not steps_went_on:
        pytest.skip("the file system of the temporary directory has no O_DIRECT")
    assert not any(steps_went_on)


class CopiesOfTheCaller:
    """Leaves copies to the caller, who is met in one of them."""

    def __init__(self, monkeypatch, number, meet):
        self.met = threading.Event()
        work, memmove, begun = staging.Copying.work, ctypes.memmove, []

        def after_the_caller(copying):
            assert not is_behind() or self.met.wait(PATIENCE_S)
            work(copying)

        def copied(*args):
            if threading.current_thread() is threading.main_thread() and not self.met.is_set():
                begun.append(args)
                if len(begun) == number:
                    self.met.set()
                    meet()
            return memmove(*args)

        monkeypatch.setattr(staging.Copying, "work", after_the_caller)
        monkeypatch.setattr(ctypes, "memmove", copied)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_what_the_caller_has_begun_to_copy_is_not_written_before_it_is_there(directory, monkeypatch, number):
    training, written, write_state = Training(), threading.Event(), writer.write_state

    def told(*args):
        write_state(*args)
        written.set()

    monkeypatch.setattr(writer, "write_state", told)
    with checkpointer(directory) as one:
        one.register(training.optimizer)
        wanted = as_it_is(training.checkpoint())
        # A save that waits for this thread is right to do so.
        copies = CopiesOfTheCaller(monkeypatch, number, lambda: written.wait(0.2))
        one.save(training.checkpoint(), 0)
        training.step()
        assert copies.met.is_set()
    assert training.is_in(Path(directory) / NAME, wanted)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_an_interrupt_while_the_caller_copies_never_leaves_a_file_without_what_was_not_copied(
    directory, monkeypatch, number, goes_on
):
    monkeypatch.setattr(staging, "_PATIENCE_S", 0.1)
    training = Training()
    with checkpointer(directory) as one:
        one.register(training.optimizer)
        wanted = as_it_is(training.checkpoint())
        CopiesOfTheCaller(monkeypatch, number, interrupt)
        one.save(training.checkpoint(), 0)
        with pytest.raises(KeyboardInterrupt):
            training.step()
        if goes_on:
            training.step()
    if os.path.exists(Path(directory) / NAME):
        assert training.is_in(Path(directory) / NAME, wanted)


def test_a_save_that_is_interrupted_again_and_again_leaves_the_old_file_and_nobody_who_writes(
    tmp_path, monkeypatch
):
    training, struck, ending = Training(), [], threading.Event()
    one = checkpointer(tmp_path, async_save=False)
    one.save(training.checkpoint(), 0)
    old = (tmp_path / NAME).read_bytes()
    pwrite, end = os.pwrite, WritingThreads._end

    def slow(*args):
        struck.append(args[0])
        for _ in range(3 if len(struck) == 1 else 0):
            os.kill(os.getpid(), signal.SIGINT)
            while not ending.wait(0.05):  # one that comes just before a wait is seen only after it
                os.kill(os.getpid(), signal.SIGINT)
            ending.clear()
        return pwrite(*args)

    def told(writing):
        ending.set()
        end(writing)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", slow)
        patch.setattr(WritingThreads, "_end", told)
        with pytest.raises(KeyboardInterrupt):
            one.save(training.checkpoint(), 0)
    if not struck:
        pytest.skip("the file system of the temporary directory has no O_DIRECT")
    assert (tmp_path / NAME).read_bytes() == old
    assert os.listdir(tmp_path) == [NAME]
    assert savers() == []
    training.step()
    one.save(training.checkpoint(), 0)
    assert training.is_in(tmp_path / NAME, training.checkpoint())
