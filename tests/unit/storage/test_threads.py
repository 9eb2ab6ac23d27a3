"""Tasks on threads: in order, bounded, and none after the first error."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from marlin_ckpt.errors import StorageError
from marlin_ckpt.storage.threads import in_order

WAIT = threading.Condition.wait.__code__
PATIENCE = 30.0  # seconds until a test that waits for what never comes fails


def test_results_come_in_the_order_of_the_items_whatever_order_they_end_in() -> None:
    second_is_over = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_is_over.wait(PATIENCE)
        if item == 1:
            second_is_over.set()
        return item * item

    assert list(in_order(work, range(100))) == [item * item for item in range(100)]


def test_one_item_alone_needs_no_thread() -> None:
    assert list(in_order(lambda _: threading.current_thread(), [1])) == [threading.main_thread()]


def test_items_are_taken_only_a_few_ahead_of_the_results() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = in_order(lambda item: item, items())
    assert next(results) == 0
    assert len(taken) < 30


@pytest.mark.parametrize("most", [0, 1])
def test_where_no_thread_can_be_started_that_is_said_and_none_is_left(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, started, is_over = threading.active_count(), [], threading.Event()
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if len(started) == most:
            is_over.set()
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(StorageError, match="cannot start a thread: can't start new thread"):
        list(in_order(lambda _: is_over.wait(PATIENCE), range(100)))
    assert threading.active_count() == before


class Failure(Exception):
    """What a task raises."""


def test_after_an_error_nothing_is_begun_and_no_thread_is_left() -> None:
    before = threading.active_count()
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            raise Failure

    with pytest.raises(Failure):
        list(in_order(work, range(1000)))
    assert len(begun) < 30
    assert threading.active_count() == before


def test_an_abandoned_run_begins_nothing_more_and_leaves_no_thread() -> None:
    before = threading.active_count()
    begun: list[int] = []
    results = in_order(begun.append, range(1000))
    next(results)
    results.close()
    assert len(begun) < 30
    assert threading.active_count() == before


def test_an_interrupt_is_raised_when_the_tasks_under_way_have_ended_however_often_it_comes() -> None:
    before = set(threading.enumerate())
    goes_on = threading.Event()
    interrupts: list[int] = []
    ended: list[int] = []
    main = threading.main_thread().ident

    def handle(*_: object) -> None:
        interrupts.append(1)
        if len(interrupts) == 3:
            goes_on.set()
        raise KeyboardInterrupt

    def work(item: int) -> None:
        for number in range(3 if item == 0 else 0):
            while len(interrupts) <= number:
                if sys._current_frames()[main].f_code is WAIT:
                    signal.pthread_kill(main, signal.SIGUSR1)
                    # Again, if need be: Python tells of one that comes just before a wait when that ends.
                    time.sleep(0.05)
                os.sched_yield()
        assert goes_on.wait(PATIENCE)
        ended.append(item)

    old = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(in_order(work, range(1000)))
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert len(interrupts) >= 3
    assert 0 < len(ended) < 30
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)  # idle ones, which the interrupts kept the pool from waiting for
    assert set(threading.enumerate()) <= before


def test_an_error_is_freed_without_the_cyclic_collector() -> None:
    class Held:
        """Is held by a frame of the error's traceback."""

    held: list[weakref.ref[Held]] = []

    def work(item: int) -> int:
        own = Held()
        held.append(weakref.ref(own))
        if item:
            raise Failure
        return item

    def run() -> None:
        try:
            list(in_order(work, range(50)))
        except Failure:
            return

    gc.disable()
    try:
        run()
        assert [one() for one in held if one() is not None] == []
    finally:
        gc.enable()
