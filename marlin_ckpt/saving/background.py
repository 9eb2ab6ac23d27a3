"""The thread that finishes a save while training goes on."""

import logging
import os
import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from marlin_ckpt.errors import MarlinError, StorageError, drop_frames


@dataclass(slots=True)
class _Shared:
    """What the thread and its owner share.

    Attributes:
        changed: held while the rest is read or written, notified when the thread ends.
        is_busy: whether the thread still runs.
        error: what it failed with, until that is raised or logged.
        is_left: whether the owner is gone, so that an error can only be logged.
    """

    changed: threading.Condition = field(default_factory=threading.Condition)
    is_busy: bool = False
    error: BaseException | None = None
    is_left: bool = False


class Background:
    """Runs one task at a time on a thread; an error of the task is raised once, by `wait`.

    The thread is no daemon: the interpreter waits for it before it ends.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._shared = _Shared()
        self._process = os.getpid()
        # Logs an error that nobody has waited for, when the owner is dropped or the interpreter ends.
        weakref.finalize(self, _leave, self._shared, logger)

    def is_busy(self) -> bool:
        """Whether a task is under way."""
        self._forget_parent()
        return self._shared.is_busy

    def start(self, work: Callable[[], None]) -> None:
        """Runs a task in the background; the one before it must have ended.

        Raises:
            StorageError: no thread can be started.
        """
        shared, logger, tasks = self._shared, self._logger, [work]
        shared.is_busy = True

        def run() -> None:
            error = _attempt(tasks)
            with shared.changed:
                shared.error = error
                shared.is_busy = False
                shared.changed.notify_all()
                if shared.is_left:
                    _tell(shared, logger)

        try:
            threading.Thread(target=run, name="marlin-ckpt save").start()
        except RuntimeError as error:
            shared.is_busy = False
            raise StorageError(f"cannot start a thread that saves: {error}") from error

    def wait(self) -> None:
        """Waits until no task is under way.

        Raises:
            BaseException: what the last task failed with, unless that has been raised already.
        """
        self._forget_parent()
        shared = self._shared
        with shared.changed:
            shared.changed.wait_for(lambda: not shared.is_busy)
            error, shared.error = shared.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame, and so the callers' states

    def _forget_parent(self) -> None:
        """In a forked child, forgets the parent's task, whose thread the child does not have."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._shared.changed = threading.Condition()
            self._shared.is_busy = False
            self._shared.error = None


def _attempt(tasks: list[Callable[[], None]]) -> BaseException | None:
    """Runs the one task, and returns what it raised, without frames that would keep the owner alive."""
    try:
        tasks.pop()()
    except BaseException as error:  # noqa: BLE001 - raised where the owner can see it
        if not isinstance(error, MarlinError):
            error.add_note("In the background:\n" + "".join(traceback.format_tb(error.__traceback__)))
        drop_frames(error)
        return error
    return None


def _leave(shared: _Shared, logger: logging.Logger) -> None:
    with shared.changed:
        shared.is_left = True
        _tell(shared, logger)


def _tell(shared: _Shared, logger: logging.Logger) -> None:
    error, shared.error = shared.error, None
    if error is not None:
        logger.error("A save failed, and nobody waited for it: %s", error)
