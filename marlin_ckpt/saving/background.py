"""The thread that finishes a save while training goes on."""

import atexit
import contextlib
import logging
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from marlin_ckpt.errors import MarlinError, StorageError, drop_frames

_SILENT_S = 2.0  # for which nobody asks why a program waits
_NOTE = "In the background:\n"


@dataclass(slots=True)
class _Shared:
    """What the thread and its owner share.

    Attributes:
        changed: held while the rest is read or written, notified when the thread ends.
        is_busy: whether the thread still runs.
        error: what it failed with, until that is raised or logged.
        is_left: whether the owner is gone, so that an error can only be logged.
        process: in which the thread runs.
        thread: the identity of the thread while it runs, else 0.
        what: is saved.
    """

    changed: threading.Condition = field(default_factory=threading.Condition)
    is_busy: bool = False
    error: BaseException | None = None
    is_left: bool = False
    process: int = field(default_factory=os.getpid)
    thread: int = 0
    what: str = ""

    def waits(self, logger: logging.Logger, level: int, text: str) -> None:
        """Waits until no task is under way, and says so where that takes long; called with `changed` held."""
        if not self.changed.wait_for(lambda: not self.is_busy, _SILENT_S):
            logger.log(level, text, self.what)
            self.changed.wait_for(lambda: not self.is_busy)


class Background:
    """Runs one task at a time on a thread; an error of the task is returned once, by `ended`.

    The thread is no daemon: the interpreter waits for it before it ends.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._shared = _Shared()
        # Logs an error that nobody has waited for, when the owner is dropped or the interpreter ends.
        weakref.finalize(self, _leave, self._shared, logger)

    def is_busy(self) -> bool:
        """Whether a task is under way."""
        self._forget_parent()
        return self._shared.is_busy

    def is_here(self) -> bool:
        """Whether the task is what calls this, which cannot wait for its own end."""
        return self.is_busy() and self._shared.thread == threading.get_ident()

    def start(self, work: Callable[[], None], what: str) -> None:
        """Runs a task in the background; the one before it must have ended.

        Args:
            work: the task.
            what: it saves, for whoever waits.

        Raises:
            StorageError: no thread can be started.
            BaseException: what interrupted it; `is_busy` says whether the task goes on all the same.
        """
        shared, logger, tasks = self._shared, self._logger, [work]
        # Else what the task does first would hold the interpreter's lock while the caller waits to go on.
        begun = threading.Lock()
        begun.acquire()

        def run() -> None:
            with begun:
                pass
            if not tasks:
                return
            shared.thread = threading.get_ident()
            error = _attempt(tasks)
            with shared.changed:
                shared.thread = 0  # a later thread may have the same identity
                shared.error = error
                shared.is_busy = False
                _under_way.pop(id(shared), None)
                shared.changed.notify_all()
                if shared.is_left:
                    _tell(shared, logger)

        thread: threading.Thread | None = None
        try:
            shared.is_busy, shared.what = True, what
            _tell_at_the_end(shared, logger)
            thread = threading.Thread(target=run, name="marlin-ckpt save")
            thread.start()
        except BaseException as error:
            # After an interrupt the thread may run, and goes on, or may yet begin, and then finds no task.
            if thread is None or thread.ident is None:
                tasks.clear()
                shared.is_busy = False
                _under_way.pop(id(shared), None)
                if isinstance(error, RuntimeError):
                    raise StorageError(f"cannot start a thread that saves: {error}") from error
            raise
        finally:
            begun.release()

    def ended(self) -> BaseException | None:
        """Waits until no task is under way.

        Returns:
            what the last task failed with, unless that has been returned already.
        """
        self._forget_parent()
        shared = self._shared
        with shared.changed:
            shared.waits(self._logger, logging.INFO, "Waiting until %s is saved.")
            error, shared.error = shared.error, None
            return error

    def _forget_parent(self) -> None:
        """In a forked child, forgets the parent's task, whose thread the child does not have."""
        if self._shared.process != os.getpid():
            self._shared.process = os.getpid()
            self._shared.changed = threading.Condition()
            self._shared.is_busy = False
            self._shared.error = None


_under_way: dict[int, tuple[_Shared, logging.Logger]] = {}
_is_telling = False


def _tell_at_the_end(shared: _Shared, logger: logging.Logger) -> None:
    """Has somebody who waits for the program's end told what it waits for: an upload may take minutes."""
    global _is_telling  # noqa: PLW0603 - once in a process
    _under_way[id(shared)] = shared, logger
    if not _is_telling:
        _is_telling = True
        # What `atexit` calls comes when the threads have ended; concurrent.futures needs this as well.
        with contextlib.suppress(AttributeError, RuntimeError):
            threading._register_atexit(_wait_for_all)  # type: ignore[attr-defined]  # noqa: SLF001


def _wait_for_all() -> None:
    for shared, logger in list(_under_way.values()):
        if shared.process == os.getpid():
            with shared.changed:
                shared.waits(logger, logging.WARNING, "The program ends once %s is saved.")


def _attempt(tasks: list[Callable[[], None]]) -> BaseException | None:
    """Runs the one task, and returns what it raised, without frames that would keep the owner alive."""
    try:
        tasks.pop()()
    except BaseException as error:  # noqa: BLE001 - raised where the owner can see it
        take_frames(error)
        return error
    return None


def take_frames(error: BaseException) -> None:
    """Drops the frames of an error, which hold the state; notes them where it is none of ours."""
    is_noted = any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ()))
    if not (is_noted or isinstance(error, MarlinError)):  # noted: a user's `on_error` has raised it again
        error.add_note(_NOTE + "".join(traceback.format_tb(error.__traceback__)))
    drop_frames(error)


def _leave(shared: _Shared, logger: logging.Logger) -> None:
    if shared.process != os.getpid():  # a forked child ends: its parent waits for the thread
        return
    with shared.changed:
        shared.is_left = True
        _tell(shared, logger)


def _tell(shared: _Shared, logger: logging.Logger) -> None:
    error, shared.error = shared.error, None
    if error is not None:
        logger.error("A save failed, and nobody waited for it: %s", error)
        _end_unwell()


def _end_unwell() -> None:
    """Has the process end with another code than 0, since what runs it may not read the log.

    Python has one way to do that which leaves all else as it is: when it cannot flush the standard streams in
    the end, it exits with 120 (`sys.exit` in its documentation). `os._exit` would skip what others have
    registered to be done at the end, and what an `atexit` function raises does not change the code.
    """
    if threading.main_thread().is_alive():
        atexit.unregister(_refuse_last_flush)
        atexit.register(_refuse_last_flush, os.getpid())
    else:  # the program has ended, and functions that are registered now are not called any more
        _refuse_last_flush(os.getpid())


def _refuse_last_flush(process: int) -> None:
    if process == os.getpid() and not isinstance(sys.stderr, _Unflushed):
        sys.stderr = _Unflushed(sys.stderr)


class _Unflushed:
    """A standard stream that Python cannot flush in the end; all else it does as the stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream  # None where the process was started without one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def flush(self) -> None:
        """Flushes the stream; fails once the interpreter has done all else."""
        with contextlib.suppress(AttributeError):
            self._stream.flush()
        if sys.is_finalizing():
            raise OSError("a save has failed")
