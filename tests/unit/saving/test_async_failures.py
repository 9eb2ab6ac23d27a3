"""Asynchronous saves that fail, and processes that end or fork while one is under way."""

from __future__ import annotations

import ctypes
import errno
import gc
import itertools
import logging
import mmap
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from marlin_ckpt import Checkpoint, StorageError, UnsavableStateError
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.saving import background
from marlin_ckpt.saving.copying import arena, owners, snapshot, staging
from marlin_ckpt.saving.copying.arena import Arena
from marlin_ckpt.storage import pages
from tests.support import warm
from tests.support.async_runs import Run, checkpointer
from tests.support.folders import REPOSITORY


def full_disk(*_: Any) -> None:
    raise StorageError("cannot write: no space left", errno=errno.ENOSPC)


@pytest.mark.parametrize("ask", ["save", "wait", "close", "with", "load"])
def test_what_fails_in_the_background_is_raised_by_the_next_call_and_only_once(tmp_path, monkeypatch, ask):
    run, one, has_begun = Run(), checkpointer(tmp_path), threading.Event()

    def fails(*_: Any) -> None:
        has_begun.set()
        full_disk()

    monkeypatch.setattr(writer, "write_image", fails)
    assert one.save(run.checkpoint(), 0)
    assert has_begun.wait(60)
    monkeypatch.undo()
    calls = {
        "save": lambda: one.save(run.checkpoint(), 1),
        "wait": one.wait,
        "close": one.close,
        "with": lambda: one.__exit__(None, None, None),
        "load": one.load,
    }
    with pytest.raises(StorageError, match="no space left") as caught:
        calls[ask]()
    assert caught.value.errno == errno.ENOSPC
    one.wait()
    one.save(run.checkpoint(), 2)
    one.close()
    assert sorted(os.listdir(tmp_path)) == ["model_1.pt"] * (ask == "save") + ["model_2.pt"]


def test_where_the_next_save_fails_as_well_both_failures_are_told_once(tmp_path, monkeypatch, caplog):
    run, one = Run(), checkpointer(tmp_path)
    monkeypatch.setattr(writer, "write_image", full_disk)
    one.save(run.checkpoint(), 0)
    with pytest.raises(UnsavableStateError):
        one.save(Checkpoint({"lock": threading.Lock()}), 1)
    assert caplog.text.count("The save before this one failed, too: cannot write: no space left") == 1
    one.close()


@pytest.mark.parametrize("is_async", [True, False])
def test_with_on_save_error_warn_a_failure_is_logged_once_and_the_run_goes_on(
    tmp_path, monkeypatch, caplog, is_async
):
    run = Run()
    with checkpointer(tmp_path, on_save_error="warn", async_save=is_async) as one:
        monkeypatch.setattr(writer, "write_image" if is_async else "write_encoded", full_disk)
        one.save(run.checkpoint(), 0)
        one.wait()
        monkeypatch.undo()
        one.save(run.checkpoint(), 1)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "Not saved: cannot write: no space left"
    ]
    assert os.listdir(tmp_path) == ["model_1.pt"]


def test_an_exception_on_its_way_is_not_replaced_by_that_of_a_save(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(writer, "write_image", full_disk)
    with pytest.raises(ZeroDivisionError), checkpointer(tmp_path) as one:
        one.save(Run().checkpoint(), 0)
        raise ZeroDivisionError
    assert "A save failed: cannot write: no space left" in caplog.text


def test_a_failure_that_nobody_asks_for_is_logged_when_the_checkpointer_is_dropped(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(writer, "write_image", full_disk)
    one, ends = checkpointer(tmp_path), []
    one.save(Run().checkpoint(), 0)
    for thread in threading.enumerate():
        if thread.name == "marlin-ckpt save":
            thread.join()
    monkeypatch.setattr(background, "_end_unwell", lambda: ends.append("unwell"))
    del one
    gc.collect()
    assert "nobody waited for it: cannot write: no space left" in caplog.text
    assert ends == ["unwell"]


def test_a_save_that_no_memory_can_be_had_for_says_how_much_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(arena, "available_bytes", lambda: 1000)
    with checkpointer(tmp_path) as one:
        with pytest.raises(StorageError, match=r"no memory .* 1,000 bytes are available") as caught:
            one.save(Run().checkpoint(), 0)
        assert caught.value.errno == errno.ENOMEM
        assert "async_save: false" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_the_memory_for_copies_is_taken_once_and_said_once(tmp_path, caplog):
    run = Run()
    caplog.set_level(logging.INFO)
    with checkpointer(tmp_path) as one:
        for index in range(5):
            run.step()
            one.save(run.checkpoint(), index)
    assert caplog.text.count("keep a copy of the state in memory") == 1


def test_the_interpreter_finishes_a_save_before_it_ends_and_fails_with_one_that_failed(tmp_path):
    script = """
import atexit, sys, torch
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.formats.torch import writer
from marlin_ckpt import Checkpoint, StorageError, UnsavableStateError

def main():
    one = DefaultCheckpointer(DefaultCheckpointerArguments(save_dir=sys.argv[1], async_save=True))
    one.save(Checkpoint({"weight": torch.ones(1_000_000)}, {}, {}), 0)
    return one

atexit.register(print, "done at the end all the same")
if sys.argv[2] != "writes":
    def fail(*_): raise StorageError("cannot write: no space left")
    writer.write_image = fail
if sys.argv[2] == "fails and is dropped":
    main()
else:
    one = main()
"""
    done = {
        how: warm.run(
            [sys.executable, "-c", script, str(tmp_path / how), how],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=120, is_torn_down=True,
        )
        for how in ("writes", "fails", "fails and is dropped")
    }  # fmt: skip
    assert [one.returncode for one in done.values()] == [0, 120, 120]
    assert {one.stdout for one in done.values()} == {"done at the end all the same\n"}
    assert torch.load(tmp_path / "writes/model_0.pt")["module_interface_state"]["weight"].sum() == 1_000_000
    assert done["writes"].stderr == ""
    told = "A save failed, and nobody waited for it: cannot write: no space left\n"
    assert done["fails"].stderr == done["fails and is dropped"].stderr == told


def child_ends_well(call: Callable[[], object]) -> bool:
    """Calls something in a forked child, which writes to the standard error what it raises."""
    child = os.fork()
    if not child:
        code = 1
        try:
            call()
            code = 0
        except BaseException:  # noqa: BLE001 - of the child nothing but this is seen
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_neither_waits_for_the_parents_save_nor_is_told_of_it(tmp_path, gate):
    run = Run()
    # AdamW asks a GPU, where there is one, what it is doing; CUDA answers no child that was forked.
    run.optimizer = torch.optim.SGD(run.module.parameters(), lr=0.1)
    one = checkpointer(tmp_path)
    one.register(run.optimizer)
    one.save(run.checkpoint(), 0)
    assert gate.reached.wait(60)

    def step_and_wait() -> None:
        run.optimizer.step()
        one.wait()

    assert child_ends_well(step_and_wait)
    gate.opened.set()
    one.close()


def test_a_forked_child_that_lets_go_of_the_memory_for_copies_lets_go_of_nothing_else():
    taken = Arena()
    size = len(taken.room(1 << 20))

    def let_go() -> None:
        own = [mmap.mmap(-1, size) for _ in range(50)]  # would fill a hole where the memory is not there
        taken.free()
        for one in own:
            one[size - 1] = 1

    assert child_ends_well(let_go)


def test_what_a_copy_is_made_into_is_not_copied_at_a_fork():
    try:
        mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE).madvise(pages._MADV_WIPEONFORK)
    except OSError:
        pytest.skip("this kernel does not know MADV_WIPEONFORK")
    taken = Arena()
    room = taken.room(4 << 20)
    room[:4] = b"told"

    def find_nothing() -> None:
        assert bytes(room[:4]) == bytes(4)

    assert child_ends_well(find_nothing)
    assert bytes(room[:4]) == b"told"


def test_a_checkpointer_that_saves_and_closes_again_and_again_keeps_no_more_than_after_the_first_time(
    tmp_path,
):
    hooks = sys.modules[torch.optim.Optimizer.__module__]._global_optimizer_pre_hooks
    gc.collect()
    before = len(owners._watchers)
    run, one, kept = Run(), checkpointer(tmp_path), []
    one.register(run.optimizer)
    for index in range(5):
        one.save(run.checkpoint(), index)
        one.close()
        kept.append((len(hooks), len(owners._watchers), len(weakref.finalize._registry)))
    assert kept == kept[:1] * 5
    one.save(run.checkpoint(), 5)
    one.wait()
    del one
    gc.collect()
    assert (len(hooks), len(owners._watchers)) == (kept[0][0], before)


def test_a_save_that_is_interrupted_twice_returns_when_nothing_is_copied_any_more(tmp_path, monkeypatch):
    memmove, calls = ctypes.memmove, itertools.count()
    main, has_left, is_over = threading.main_thread(), threading.Event(), threading.Event()
    joins = getattr(threading.Thread, "_wait_for_tstate_lock", threading.Thread.join)  # until Python 3.12
    waits = {threading.Condition.wait.__code__, joins.__code__}
    interrupts, outlived = [], []

    def interrupt(*_):
        interrupts.append(1)
        raise KeyboardInterrupt

    def waits_again(number):
        while not has_left.is_set():
            if len(interrupts) == number and sys._current_frames()[main.ident].f_code in waits:
                return
            os.sched_yield()

    def held(*args):
        if threading.current_thread() is not main and next(calls) == 0:
            for number in range(2):
                waits_again(number)
                signal.pthread_kill(main.ident, signal.SIGUSR1)
            waits_again(2)
            outlived.append(has_left.is_set())
            is_over.set()
        memmove(*args)

    monkeypatch.setattr(snapshot, "_WORTH_THREADS_BYTES", 0)
    monkeypatch.setattr(staging, "_TASK_BYTES", 64)
    monkeypatch.setattr(staging.ctypes, "memmove", held)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with checkpointer(tmp_path, overlap=False) as one:
            with pytest.raises(KeyboardInterrupt):
                one.save(Run().checkpoint(), 0)
            has_left.set()
            assert is_over.wait(60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert outlived == [False]
