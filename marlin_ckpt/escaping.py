"""Makes names harmless: those of files, and those that files hold, which anybody may have chosen."""

import logging
from typing import Any


def escape(text: str) -> str:
    """A text in which nothing moves the cursor, changes a colour or turns the direction of writing.

    Control characters, bidi controls and bytes that are not UTF-8 are replaced by Python's escapes for them.
    """
    return text if text.isprintable() else "".join(map(_escape_one, text))


def _escape_one(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - a byte that os.fsdecode could not read, PEP 383
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()


def escape_lines(text: str) -> str:
    """As `escape`, of each line for itself."""
    return "\n".join(map(escape, text.split("\n")))


def get_logger(name: str) -> logging.Logger:
    """A logger whose messages are harmless, whatever their arguments hold; all modules log through these."""
    logger = logging.getLogger(name)
    if _escape_arguments not in logger.filters:
        logger.addFilter(_escape_arguments)
    return logger


class OwnLogger(logging.Logger):
    """A logger with a level of its own, beside that of the logger of its name, which is the user's to set.

    What it lets through goes to that logger, with its level, its filters and its handlers.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._users = self.parent = get_logger(name)

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - as logging has it
        """Sets its own level, if that is another one: it has all loggers forget what they let through."""
        if level not in (self.level, logging.getLevelName(self.level)):
            super().setLevel(level)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - as logging has it
        """Whether both levels let it through."""
        return level >= self.level and self._users.isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        """Hands a record on."""
        self._users.handle(record)


def _escape_arguments(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_harmless, record.args))
    return True


def _harmless(argument: Any) -> Any:
    return argument if isinstance(argument, (int, float)) else escape(str(argument))
