"""A lock for what must not be begun again before it has ended, not even by a signal handler."""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator

from marlin_ckpt.errors import StorageError


class Turn:
    """A lock that other threads wait for, and that its own thread is refused.

    Python runs a signal's handler on the main thread, between any two of its instructions: what the handler
    calls there cannot wait for what it has interrupted.
    """

    def __init__(self, is_inside: Callable[[], bool] = lambda: False) -> None:
        """Takes who else is refused.

        Args:
            is_inside: whether the calling thread is one that a thread with the lock may wait for.
        """
        self._is_inside = is_inside
        # Reentrant, so that a handler gets through to the flag, which says at which end of `taken` it came.
        self._lock = threading.RLock()
        self._is_taken = False
        self._process = os.getpid()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Waits for other threads, and keeps them out while the context lasts.

        Raises:
            StorageError: EDEADLK, this thread has it already, or is waited for: a signal's handler, a state
                that saves, or `on_durable`.
        """
        if self._process != os.getpid():  # forked: whoever had it in the parent is not here
            self.__init__(self._is_inside)  # type: ignore[misc]
        if self._is_inside():
            raise _refusal()
        with self._lock:
            if self._is_taken:
                raise _refusal()
            self._is_taken = True
            try:
                yield
            finally:
                self._is_taken = False


def _refusal() -> StorageError:
    return StorageError(
        "refused: this thread is in the middle of a save",
        "",
        "let the signal's handler, or on_durable, set a flag, and save when the training loop sees it",
        errno=errno.EDEADLK,
    )
