"""Runs tasks on a few threads, and none after the first error."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

_THREADS = 4  # a disk reads faster when it has more to read; more cores than that add nothing
_MOST_PENDING = 4 * _THREADS

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Does some work for each item, several at a time, a bounded number ahead of whoever takes the results.

    When a task fails, or whoever takes the results stops (an error, Ctrl-C, an abandoned generator), no other
    is begun, those under way are waited for, and no thread is left.

    Args:
        work: is called on the threads; on the caller's own where there is one item alone.
        items: taken one by one on the caller's thread.

    Yields:
        the results in the order of the items.

    Raises:
        Whatever the first failing task raised.
    """
    rest = iter(items)
    first = list(itertools.islice(rest, 2))
    if len(first) < 2:  # noqa: PLR2004 - threads would cost more than they gain
        yield from map(work, first)
        return
    has_failed = threading.Event()

    def run(item: Item) -> Result:
        if has_failed.is_set():
            raise CancelledError  # never seen: the results before it end with the failure
        try:
            return work(item)
        except BaseException:
            has_failed.set()
            raise

    pool = ThreadPoolExecutor(_THREADS)
    pending: deque[Future[Result]] = deque()
    try:
        for item in itertools.chain(first, rest):
            pending.append(pool.submit(run, item))
            if len(pending) > _MOST_PENDING:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        has_failed.set()
        # A future holds its error, whose traceback would hold this frame and, through it, the futures.
        pending.clear()
        _join(pool)


def _join(pool: ThreadPoolExecutor) -> None:
    """Waits for the threads of a pool, however often it is interrupted; then raises the last interrupt."""
    interrupt: BaseException | None = None
    is_over = False
    while not is_over:
        try:
            pool.shutdown(cancel_futures=True)
            is_over = True
        except BaseException as error:  # noqa: BLE001 - what a signal handler raises; raised below
            interrupt = error
    if interrupt is not None:
        raise interrupt
