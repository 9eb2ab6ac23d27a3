"""Colours for a terminal; nothing is said by colour alone."""

import os
from collections.abc import Callable

from marlin_ckpt.cli import output

_STYLES = {
    "bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36
}  # fmt: skip


def painter() -> Callable[[str, str], str]:
    """A function that gives a text a style, or several: `paint("failed", "bold red")`.

    It leaves the text alone where stdout is no terminal that has colours, and where NO_COLOR is set.
    """
    if not output.is_on_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return lambda text, styles: text  # noqa: ARG005 - named as in the other
    return _paint


def _paint(text: str, styles: str) -> str:
    codes = ";".join(str(_STYLES[one]) for one in styles.split())
    return f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text
