"""How much room a text takes on a terminal, and where its lines are broken there."""

import contextlib
import os
import re
from typing import TextIO

_WIDE, _NO_WIDTH = ("W", "F"), ("Mn", "Me")  # East Asian widths, and categories, of Unicode
# What is between two blanks; or between two quotes, where a blank more would change the word.
_WORD = r"(?<!\S)(?:'[^']*'|\"[^\"]*\")(?!\w)\S*|\S+"


def width_of(text: str) -> int:
    """How many columns of a terminal a harmless text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        2 if unicodedata.east_asian_width(one) in _WIDE else unicodedata.category(one) not in _NO_WIDTH
        for one in text
    )


def fitted(text: str, stream: TextIO) -> str:
    """A harmless text for a stream; a terminal breaks its lines at blanks, not inside a word.

    A line is filled up with blanks in place of a line feed: to the terminal it stays one line, so that a
    command in it is copied whole. A word that is longer than a line of the terminal is left to it.

    Args:
        text: one line or several.
        stream: that it is printed to.
    """
    with contextlib.suppress(OSError, ValueError):
        if stream.isatty():
            # Of the terminal itself: what is filled up to another width, as COLUMNS may be, has gaps.
            columns = os.get_terminal_size(stream.fileno()).columns
            return "\n".join([_broken(line, columns) for line in text.split("\n")])
    return text


def _broken(line: str, columns: int) -> str:
    if not columns or width_of(line) <= columns:
        return line
    parts, column, end = [], 0, 0
    words = [*re.finditer(_WORD, line)]
    for word in words:
        blanks, width = word.start() - end, width_of(word[0])
        # Behind a word that is not the last one a blank has to fit, too.
        room = columns - (word is not words[-1])
        if column and column + blanks + width > room >= width:
            blanks, column = columns - column, 0
        else:
            column += blanks
        parts.append(" " * blanks + word[0])
        column = (column + width) % columns
        end = word.end()
    return "".join(parts)
