"""The library's log, as a command shows it."""

import contextlib
import logging
from collections.abc import Iterator

from marlin_ckpt.cli import output
from marlin_ckpt.escaping import escape

_logger = logging.getLogger("marlin_ckpt")


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
        _logger.removeHandler(handler)


def only_warnings() -> None:
    """Shows only warnings and errors from now on."""
    for handler in _logger.handlers:
        if isinstance(handler, _Handler):
            handler.setLevel(logging.WARNING)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        head = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        output.talk(head + escape(record.getMessage()))
