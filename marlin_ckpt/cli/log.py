"""The library's log, as a command shows it."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Self

from marlin_ckpt.cli import output
from marlin_ckpt.escaping import escape

_logger = logging.getLogger("marlin_ckpt")
_added: list[logging.Handler] = []


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Shows the log as talk meanwhile; of checkpointers and trainers what their `log_level` lets through."""
    handler, level = _Handler(), _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        _logger.setLevel(level)
        for one in [handler, *_added]:
            _logger.removeHandler(one)
        _added.clear()


def add(handler: logging.Handler) -> None:
    """Has the log go to another handler too, as long as it is shown."""
    _added.append(handler)
    _logger.addHandler(handler)


def hide() -> None:
    """Shows the log no more, but for the handlers that are added."""
    for handler in _handlers():
        _logger.removeHandler(handler)


def line(record: logging.LogRecord) -> str:
    """A record as a line."""
    head = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
    return head + escape(record.getMessage())


def only_warnings() -> None:
    """Shows only warnings and errors from now on."""
    for handler in _handlers():
        handler.setLevel(logging.WARNING)


class SavesFirst:
    """A context in which the log shows what a save has led to only when the save itself has been shown.

    A trainer reports a save on its own thread, once the checkpointer has applied its rules to it, perhaps on
    another thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: set[str] = set()
        self._held: dict[str, list[logging.LogRecord]] = {}

    def __enter__(self) -> Self:
        for handler in _handlers():
            handler.addFilter(self._passes)
        return self

    def __exit__(self, *_: object) -> None:
        for handler in _handlers():
            handler.removeFilter(self._passes)
        for path in [*self._held]:
            self.shown(path)

    def shown(self, path: str) -> None:
        """Shows what has waited for the save to this path, which has been shown."""
        with self._lock:
            self._shown.add(path)
            records = self._held.pop(path, [])
        for record in records:
            for handler in _handlers():
                handler.handle(record)

    def _passes(self, record: logging.LogRecord) -> bool:
        path = getattr(record, "after_save", "")
        with self._lock:
            is_held = path and path not in self._shown
            if is_held:
                self._held.setdefault(path, []).append(record)
        return not is_held


def _handlers() -> list[logging.Handler]:
    return [handler for handler in _logger.handlers if isinstance(handler, _Handler)]


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        output.talk(line(record))
