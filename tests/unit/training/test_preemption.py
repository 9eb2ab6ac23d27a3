"""Signals: SIGTERM and SIGINT save and stop, SIGUSR1 saves and goes on, a second one ends at once."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments, Preempted
from marlin_ckpt.training import preemption, workers
from tests.support import warm
from tests.support.folders import REPOSITORY, visible
from tests.support.proven_modules import Careful
from tests.support.stopped_runs import StopsAt, assert_same, trainer_in


def position(directory, name) -> tuple[int, int]:
    """The last epoch done, and the global step, that a file holds; loading checks every byte."""
    args = DefaultCheckpointerArguments(load_dir=str(directory), load_filename=name)
    loaded = DefaultCheckpointer(args).load()
    return loaded.trainer_state["last_epoch"], loaded.trainer_backend_state["global_step_completed"]


class InValidation(Careful):
    """Is sent SIGTERM in its second validation."""

    sends = True

    def val_step(self, global_step, batch, device):
        if global_step == 12 and self.sends:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().val_step(global_step, batch, device)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("is_behind", [False, True])
def test_it_finishes_the_step_saves_and_stops_with_the_signals_exit_code(tmp_path, number, code, is_behind):
    observer = StopsAt(8, number=number)
    trainer = trainer_in(tmp_path, observer, checkpointer={"async_save": is_behind})
    with pytest.raises(Preempted) as caught:
        trainer.train()
    assert (caught.value.code, caught.value.signal) == (code, number)
    assert observer.losses[-1][0] == 8
    assert caught.value.path == str(tmp_path / "model_1.pt")
    assert observer.saved[-1] == "model_1.pt"
    assert position(tmp_path, "model_1.pt") == (0, 8)


def test_within_a_validation_it_saves_the_state_from_before_it_and_validates_again(tmp_path):
    whole = trainer_in(tmp_path / "whole")
    whole.train()
    with pytest.raises(Preempted):
        trainer_in(tmp_path / "cut", module=InValidation).train()
    assert position(tmp_path / "cut", "model_1.pt") == (0, 12)
    cut = trainer_in(tmp_path / "cut")
    cut.train()
    assert_same(whole, cut)


def test_before_the_first_step_it_saves_the_beginning(tmp_path):
    with preemption.listening() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.stop == signal.SIGTERM
        with pytest.raises(Preempted) as caught:
            trainer_in(tmp_path).train()
    assert caught.value.code == 143
    assert position(tmp_path, "model_0.pt") == (-1, 0)
    whole, cut = trainer_in(tmp_path / "whole"), trainer_in(tmp_path)
    whole.train()
    cut.train()
    assert_same(whole, cut)


def test_sigusr1_saves_and_goes_on(tmp_path):
    whole = trainer_in(tmp_path / "whole")
    whole.train()
    observer = StopsAt(3, 4, number=signal.SIGUSR1)
    trainer = trainer_in(tmp_path / "cut", observer)
    trainer.train()
    assert observer.saved == [
        "model_0.pt",
        "model_0.pt",
        "model_0.pt",
        "model_1.pt",
        "model_2.pt",
    ]
    assert_same(whole, trainer)


def test_handlers_are_as_before_when_training_has_ended(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    trainer_in(tmp_path).train()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_without_handle_signals_they_are_left_alone(tmp_path):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    try:
        trainer_in(tmp_path, StopsAt(3, number=signal.SIGUSR1), handle_signals=False).train()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [1]


def test_what_is_not_saved_is_not_told_as_saved(tmp_path):
    trainer = trainer_in(tmp_path, StopsAt(3), checkpointer={"checkpoint": False})
    with pytest.raises(Preempted) as caught:
        trainer.train()
    assert (caught.value.path, visible(tmp_path)) == (None, [])


def test_a_machine_that_leaves_too_little_time_is_warned_of_at_the_start(tmp_path, caplog):
    trainer_in(tmp_path, StopsAt(), epochs=1).train()
    assert "preempt_grace_seconds" not in caplog.text
    trainer_in(tmp_path, preempt_grace_seconds=1e-9).train()
    assert caplog.text.count("longer than preempt_grace_seconds") == 1


@pytest.mark.parametrize("is_behind", [False, True])
def test_a_first_run_is_warned_of_that_once_it_knows_how_long_a_save_takes(tmp_path, caplog, is_behind):
    checkpointer = {"async_save": is_behind}
    trainer_in(tmp_path, epochs=3, preempt_grace_seconds=1e-9, checkpointer=checkpointer).train()
    assert caplog.text.count("longer than preempt_grace_seconds") == 1


_TWICE = """
import os, signal, sys
sys.path.insert(0, {root!r})
from marlin_ckpt.training import preemption
with preemption.listening() as asked:
    os.kill(os.getpid(), signal.SIGTERM)
    assert asked.stop
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not any more", flush=True)
"""


def test_a_second_signal_ends_the_process_at_once():
    command = [sys.executable, "-c", _TWICE.format(root=os.fspath(REPOSITORY))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "still here\n")


def test_a_signal_to_the_whole_group_leaves_a_loaders_workers_to_finish_the_step(tmp_path):
    script = f"""
import os, signal, sys
os.setpgrp()
sys.path.insert(0, {os.fspath(REPOSITORY)!r})
from tests.support.stopped_runs import StopsAt, trainer_in
from tests.support.proven_modules import Careful
class Group(StopsAt):
    def on_global_step(self, step, loss):
        if step == 2:
            os.killpg(0, signal.SIGTERM)
trainer_in({str(tmp_path)!r}, Group(), lambda: Careful(workers=2), gpu_batch_size_limit=2).train()
"""
    command = [sys.executable, "-c", script]
    ended = warm.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (143, "")
    assert position(tmp_path, "model_0.pt") == (-1, 2)


def test_a_save_that_was_given_up_is_made_again_before_the_run_stops(tmp_path):
    class Clamped(Careful):
        def on_end_train_step(self, global_step, *outputs):
            if global_step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = trainer_in(tmp_path, module=Clamped, checkpointer={"async_save": True}, index_by="step")
    save = trainer.checkpointer.save

    def given_up(state, index, force=False):
        path = save(state, index, force)
        if index == 6 and not force:
            with torch.no_grad():
                trainer.module.layers[0].weight.add_(1.0)
        return path

    trainer.checkpointer.save = given_up
    with pytest.raises(Preempted) as caught:
        trainer.train()
    assert caught.value.path == str(tmp_path / "model_6.pt")
    assert position(tmp_path, "model_6.pt") == (-1, 6)


class Refusing:
    """Refuses the syncs of so many files."""

    def __init__(self, monkeypatch, times):
        self.times, real = times, os.fsync

        def call(descriptor):
            if self.times and stat.S_ISREG(os.fstat(descriptor).st_mode):
                self.times -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", call)


@pytest.mark.parametrize("is_behind", [False, True])
def test_a_path_is_named_only_where_the_file_is_there(tmp_path, monkeypatch, is_behind):
    Refusing(monkeypatch, 100)
    options = {"async_save": is_behind, "on_save_error": "warn"}
    trainer = trainer_in(tmp_path, StopsAt(3), checkpointer=options)
    with pytest.raises(Preempted) as caught:
        trainer.train()
    assert (caught.value.path, visible(tmp_path)) == (None, [])


def test_a_save_that_failed_before_costs_the_state_at_the_signal_nothing_and_is_logged(
    tmp_path, monkeypatch, caplog
):
    Refusing(monkeypatch, 1)
    observer = StopsAt(8)  # the save of epoch 0, at 6 steps, fails in the background
    trainer = trainer_in(tmp_path, observer, checkpointer={"async_save": True})
    with pytest.raises(Preempted) as caught:
        trainer.train()
    assert caught.value.path == str(tmp_path / "model_1.pt")
    assert position(tmp_path, "model_1.pt") == (0, 8)
    assert caplog.text.count("Input/output error") == 1


def _worker(connection):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    loader = DataLoader(range(4), num_workers=1)
    workers.prepare(loader)
    loader.worker_init_fn(0)
    connection.send("ready")
    while True:
        connection.send(connection.recv())


def test_a_worker_outlives_a_strangers_sigterm_and_obeys_its_loaders():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_worker, args=(theirs,), daemon=True)
    worker.start()
    assert ours.recv() == "ready"
    subprocess.run(["/bin/kill", "-TERM", str(worker.pid)], check=True)
    ours.send("still there?")
    assert ours.poll(30)
    assert ours.recv() == "still there?"
    for _ in range(60):  # a signal that comes while another one of its kind is pending is none of its own
        worker.terminate()
        worker.join(0.5)
        if not worker.is_alive():
            break
    assert worker.exitcode == 0


_DIES_HOLDING_A_LOCK = """
import os, signal
from torch.utils.data import DataLoader
from marlin_ckpt.training import workers
loader = DataLoader(range(1000), num_workers=2)
workers.prepare(loader)
batches = iter(loader)
next(batches)
batches._workers_done_event._cond.acquire()
print("dies", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_workers_of_a_trainer_that_was_killed_while_it_ended_them_end_too(repository):
    # Else they would wait for ever for a lock of its, and hold its output open.
    environment = {**os.environ, "PYTHONPATH": os.fspath(repository)}
    command = [sys.executable, "-c", _DIES_HOLDING_A_LOCK]
    done = warm.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "dies\n"), done.stderr
