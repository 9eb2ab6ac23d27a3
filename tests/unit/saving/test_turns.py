"""Saves inside of saves, which a signal's handler asks for, and saves of several threads."""

from __future__ import annotations

import errno
import gc
import itertools
import logging
import os
import signal
import sys
import threading
import weakref

import pytest
import torch

from marlin_ckpt import Checkpoint, StorageError
from marlin_ckpt.saving import background, engine
from marlin_ckpt.saving.copying import owners, staging
from marlin_ckpt.saving.copying.arena import Arena
from tests.support.async_runs import Gate, LateCopies, Run, checkpointer, same


@pytest.mark.parametrize("call", ["save", "wait", "close"])
def test_what_a_signals_handler_asks_for_in_the_middle_of_a_save_is_refused_at_once(
    tmp_path, monkeypatch, call
):
    own, caught = checkpointer(tmp_path), []

    def handler(*_):
        calls = {"save": lambda: own.save(Run().checkpoint(), 1), "wait": own.wait, "close": own.close}
        with pytest.raises(StorageError, match="in the middle of a save") as error:
            calls[call]()
        caught.append(error.value.errno)

    def interrupted(*args, **options):
        os.kill(os.getpid(), signal.SIGUSR1)
        return room(*args, **options)

    room = Arena.room
    before = signal.signal(signal.SIGUSR1, handler)
    monkeypatch.setattr(Arena, "room", interrupted)
    try:
        own.save(Run().checkpoint(), 0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    monkeypatch.undo()
    own.close()
    assert (caught, os.listdir(tmp_path)) == ([errno.EDEADLK], ["model_0.pt"])


def test_after_a_close_that_was_refused_in_the_middle_of_a_save_the_next_step_still_waits_for_the_copy(
    tmp_path, monkeypatch
):
    parameter = torch.nn.Parameter(torch.zeros(1000))
    parameter.grad = torch.ones(1000)
    optimizer = torch.optim.SGD([parameter], lr=1.0, fused=True)
    own, late, take = checkpointer(tmp_path), LateCopies(monkeypatch), engine.take

    def closes(*args, **options):
        begun = take(*args, **options)
        with pytest.raises(StorageError, match="in the middle of a save"):
            own.close()
        return begun

    monkeypatch.setattr(engine, "take", closes)
    own.register(optimizer)
    own.save(Checkpoint({"parameter": parameter}), 0)
    optimizer.step()
    late.release()
    own.close()
    assert torch.load(tmp_path / "model_0.pt")["module_interface_state"]["parameter"].count_nonzero() == 0


def test_a_close_waits_for_the_copy_of_a_save_that_another_thread_begins_meanwhile(tmp_path, monkeypatch):
    parameter = torch.nn.Parameter(torch.zeros(1000))
    parameter.grad = torch.ones(1000)
    optimizer = torch.optim.SGD([parameter], lr=1.0, fused=True)
    own, late, ended = checkpointer(tmp_path), LateCopies(monkeypatch), background.Background.ended
    other = threading.Thread(target=lambda: own.save(Checkpoint({"parameter": parameter}), 0))

    def saves_elsewhere(self):
        monkeypatch.setattr(background.Background, "ended", ended)
        error = ended(self)
        other.start()
        other.join(60)
        return error

    own.register(optimizer)
    monkeypatch.setattr(background.Background, "ended", saves_elsewhere)
    own.close()
    optimizer.step()
    late.release()
    own.wait()
    assert torch.load(tmp_path / "model_0.pt")["module_interface_state"]["parameter"].count_nonzero() == 0


def test_and_while_a_step_waits_for_the_copy(tmp_path, monkeypatch):
    run, own, caught = Run(), checkpointer(tmp_path), []
    gate = Gate(monkeypatch)
    gate.opened.set()
    settle = staging.Copying.settle

    def handler(*_):
        with pytest.raises(StorageError) as error:
            own.save(run.checkpoint(), 1)
        caught.append(error.value.errno)

    def interrupted(copying):
        if threading.current_thread() is threading.main_thread() and not caught:
            os.kill(os.getpid(), signal.SIGUSR1)
        return settle(copying)

    own.register(run.optimizer)
    run.step()
    monkeypatch.setattr(staging.Copying, "settle", interrupted)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        own.save(run.checkpoint(), 0)
        run.step()
    finally:
        signal.signal(signal.SIGUSR1, before)
    own.close()
    assert (caught, os.listdir(tmp_path)) == ([errno.EDEADLK], ["model_0.pt"])


def test_where_the_signal_comes_while_the_loop_waits_for_the_file_the_handlers_save_is_made(
    tmp_path, monkeypatch
):
    own, gate, made = checkpointer(tmp_path), Gate(monkeypatch), []

    def handler(*_):
        gate.opened.set()
        made.append(own.save(Run().checkpoint(), 1))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        own.save(Run().checkpoint(), 0)
        assert gate.reached.wait(60)
        sender = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGUSR1))
        sender.start()
        own.wait()
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    own.close()
    assert made
    assert sorted(os.listdir(tmp_path)) == ["model_0.pt", "model_1.pt"]


def test_threads_that_save_by_one_checkpointer_take_turns_and_number_their_saves(tmp_path):
    run, counted = Run(), itertools.count()
    state = run.checkpoint()
    with checkpointer(tmp_path) as own:
        threads = [threading.Thread(target=lambda: own.save(state, next(counted))) for _ in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    found = sorted(os.listdir(tmp_path))
    assert found == [f"model_{index}.pt" for index in range(6)]
    assert all(same(torch.load(tmp_path / name), state.payload()) for name in found)
    assert owners.stepping() == {}


def test_a_thread_that_has_the_identity_of_one_that_saved_before_is_not_taken_for_it(monkeypatch):
    # The system gives an identity again at once: a thread of the user's was refused its save.
    identities, one = [], background.Background(logging.getLogger(__name__))
    one.start(lambda: identities.append((threading.get_ident(), one.is_here())), "a")
    assert one.ended() is None
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: None)  # the next one has not begun to run
        one.start(lambda: None, "a")
        patch.setattr(threading, "get_ident", lambda: identities[0][0])
        assert (one.is_busy(), one.is_here()) == (True, False)
    one._shared.is_busy = False
    assert identities[0][1]


def test_threads_that_begin_to_watch_for_steps_at_once_leave_no_error_behind(monkeypatch):
    finalize, known = weakref.finalize, [owners.KnownOptimizers(lambda: None)]

    def meanwhile(*args):
        monkeypatch.undo()
        known[0].watch()
        return finalize(*args)

    monkeypatch.setattr(owners.weakref, "finalize", meanwhile)
    errors = []
    before, sys.unraisablehook = sys.unraisablehook, errors.append
    try:
        assert known[0].watch()
        known.clear()
        gc.collect()
    finally:
        sys.unraisablehook = before
    assert errors == []
