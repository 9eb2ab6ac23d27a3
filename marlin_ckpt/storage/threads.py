"""Runs tasks on a few threads, and none after the first error."""

import errno
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, TypeVar

from marlin_ckpt.errors import StorageError

if TYPE_CHECKING:
    from concurrent.futures import Future

_THREADS = 4  # a disk reads faster when it has more to read; more cores than that add nothing
_MOST_PENDING = 4 * _THREADS

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Does some work for each item, several at a time, a bounded number ahead of whoever takes the results.

    When a task fails, or whoever takes the results stops (an error, Ctrl-C, an abandoned generator), no other
    is begun, and those under way are waited for.

    Args:
        work: is called on the threads; on the caller's own where there is one item alone.
        items: taken one by one on the caller's thread.

    Yields:
        the results in the order of the items.

    Raises:
        Whatever the first failing task raised; StorageError (EAGAIN): a thread cannot be started.
    """
    rest = iter(items)
    first = list(itertools.islice(rest, 2))
    if len(first) < 2:  # noqa: PLR2004 - threads would cost more than they gain
        yield from map(work, first)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - few commands have two items

    tasks = _Tasks()
    pool = ThreadPoolExecutor(_THREADS)
    pending: deque[Future[Result]] = deque()
    try:
        for item in itertools.chain(first, rest):
            try:
                pending.append(pool.submit(tasks.run, work, item))
            except RuntimeError as error:
                raise StorageError(f"cannot start a thread: {error}", errno=errno.EAGAIN) from error
            if len(pending) > _MOST_PENDING:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # A future holds its error, whose traceback would hold this frame and, through it, the futures.
        pending.clear()
        try:
            with_patience(tasks.stop)
        finally:
            pool.shutdown(cancel_futures=True)


class _Tasks:
    """Knows which tasks are under way.

    Threads are not joined for that: Python 3.11 takes a thread for ended whose `join` was interrupted.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._is_over = False

    def run(self, work: Callable[[Item], Result], item: Item) -> Result:
        """Runs a task; the first that fails is the last that is begun."""
        with self._changed:
            if self._is_over:
                from concurrent.futures import CancelledError  # noqa: PLC0415 - as above

                raise CancelledError  # never seen: results are taken in their order, the failure before this
            self._under_way += 1
        try:
            return work(item)
        except BaseException:
            self._is_over = True
            raise
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify()

    def stop(self) -> None:
        """Lets no task begin and waits for those under way."""
        with self._changed:
            self._is_over = True
            while self._under_way:
                self._changed.wait()


def with_patience(wait: Callable[[], None]) -> None:
    """Waits anew for as long as interrupts (Ctrl-C, any signal's handler that raises) end the waiting.

    Args:
        wait: returns once that has happened which must be waited for.

    Raises:
        Whatever interrupted it last, after it has returned.
    """
    interrupts: list[BaseException] = []  # emptied below, since an error's traceback would hold this frame
    has_ended = False
    while not has_ended:
        try:
            wait()
            has_ended = True
        except BaseException as error:  # noqa: BLE001 - raised below
            interrupts = [error]
    if interrupts:
        raise interrupts.pop()
