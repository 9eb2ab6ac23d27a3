"""Steps, asynchronous saves and waits in random order, against a writer that does its worst."""

from __future__ import annotations

import os
import random
import sys
from functools import partial

import pytest

from marlin_ckpt import StorageError
from marlin_ckpt.saving import engine
from tests.support.async_runs import checkpointer
from tests.support.async_trainings import Adversary, CopiesAtTheBarrier, Training, described, described_file


@pytest.fixture
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def run_schedule(directory, monkeypatch, caplog, seed):
    """Steps, saves and waits in random order; returns what was told of each failure, and what should be."""
    chance = random.Random(seed)
    raises = chance.random() < 0.6
    skips = chance.random() < 0.4
    training = Training(chance.choice(["SGD", "AdamW foreach", "AdamW fused", "several"]), seed=seed)
    adversary = Adversary(monkeypatch)
    if chance.random() < 0.5:
        CopiesAtTheBarrier(monkeypatch)
    one = checkpointer(
        directory,
        on_save_error="raise" if raises else "warn",
        when_busy="skip" if skips else "wait",
        check_overlap=chance.random() < 0.2,
        overlap=chance.random() < 0.8,
    )
    wanted, told, failing, durable = {}, [], [], []

    def attempt(call, may_block=True):
        try:
            with adversary.released_meanwhile(may_block):
                return call()
        except (StorageError, RuntimeError) as error:
            told.append(str(error))
        return None

    for number in range(chance.randrange(10, 20)):
        action = chance.choices(
            ["step", "save", "wait", "release", "forward", "register"], [6, 8, 1, 2, 2, 1]
        )[0]
        if action == "save":
            plan = chance.choice(Adversary.PLANS)
            is_good, index = adversary.plan(number, plan), chance.randrange(8)
            forced = chance.random() < 0.3
            state = training.checkpoint(number)
            expected = described(state)
            # A save that may be skipped must come back while the one before it is blocked.
            before = len(told)
            path = attempt(partial(one.save, state, index, forced), may_block=not skips or forced)
            # What is raised is of an earlier save; this one was made first.
            is_made = path is not None or len(told) > before
            if is_made and is_good:
                wanted[f"model_{index}.pt"] = expected
                durable.append(os.path.join(directory, f"model_{index}.pt"))
            elif is_made:
                failing.append(f"save {number} failed")
        elif action == "wait":
            attempt(one.wait)
        elif action == "release":
            adversary.release()
        elif action == "register":
            one.register(*training.optimizers)
        else:
            getattr(training, action)()
    attempt(one.close)
    attempt(one.close)
    assert [report.path for report in one.take_reports()] == durable
    logged = [record.message for record in caplog.records if record.levelname == "ERROR"]
    told += [message.removeprefix("Not saved: ") for message in logged]
    files = {name: described_file(os.path.join(directory, name)) for name in os.listdir(directory)}
    assert files.keys() == wanted.keys()
    assert [name for name in files if files[name] != wanted[name]] == []
    return sorted(told), sorted(failing)


def run_schedules(directory, caplog, seeds):
    failures = 0
    for seed in seeds:
        caplog.clear()
        with pytest.MonkeyPatch.context() as patch:
            told, failing = run_schedule(os.path.join(directory, str(seed)), patch, caplog, seed)
        assert told == failing, seed
        failures += len(told)
    return failures


def test_whatever_the_writer_does_files_are_right_and_each_failure_is_told_once(directory, caplog, cases):
    assert run_schedules(directory, caplog, range(cases(20, 200))) > cases(20, 200)


def test_and_so_when_threads_take_turns_a_thousand_times_as_often(directory, caplog, cases, quick_switches):
    assert run_schedules(directory, caplog, range(1000, 1000 + cases(20, 200))) > cases(20, 200)


def test_a_failure_that_is_kept_to_be_told_again_is_noticed(directory, caplog, monkeypatch):
    ended, kept = engine.Background.ended, []

    def again(background):
        error = ended(background)
        if error is not None and error not in kept:
            kept.append(error)
            background._shared.error = error
        return error

    monkeypatch.setattr(engine.Background, "ended", again)
    with pytest.raises(AssertionError, match="assert"):
        run_schedules(directory, caplog, range(10))
