"""Writes values as YAML that `scalars` reads as the same values, and that is harmless to a terminal."""

import contextlib
import math
import re
from collections.abc import Iterable
from typing import Any

import yaml

from marlin_ckpt.config import scalars, tree
from marlin_ckpt.errors import ConfigError

# What is read alike within a list, as a key, and before a comment.
_PLAIN = re.compile(r"[A-Za-z0-9_./~-][A-Za-z0-9_./~:-]*")
_LITERALS = {None: "null", True: "true", False: "false"}
_INFINITE = {float("inf"): ".inf", float("-inf"): "-.inf"}


def value(one: Any) -> str:
    """A value in one line: a scalar, or a list or mapping in brackets."""
    if one is None or isinstance(one, bool):
        return _LITERALS[one]
    if isinstance(one, (list, tuple)):
        return f"[{', '.join(map(value, one))}]"
    if isinstance(one, dict):
        return f"{{{', '.join(f'{text(str(key))}: {value(part)}' for key, part in one.items())}}}"
    if isinstance(one, float):
        return ".nan" if math.isnan(one) else _INFINITE.get(one, repr(one))
    return repr(one) if isinstance(one, int) else text(str(one))


def text(one: str) -> str:
    """A string, in quotes where it could be read as something else, or holds more than common letters."""
    return one if _PLAIN.fullmatch(one) and _is_plain(one) else _quoted(one)


def _is_plain(one: str) -> bool:
    with contextlib.suppress(ConfigError):
        node = tree.compose(one, "")
        return node is not None and scalars.is_text(node) and node.value == one
    return False


def _quoted(one: str) -> str:
    written: str = yaml.dump(one, Dumper=yaml.SafeDumper, default_style='"', width=float("inf"))
    return written.rstrip("\n")


def comment(lines: str, indent: str, width: int) -> Iterable[str]:
    """A text as lines of comments of so many characters at most, words permitting."""
    import textwrap  # noqa: PLC0415 - for `init` alone

    begin = f"{indent}# "
    return textwrap.wrap(lines, width, initial_indent=begin, subsequent_indent=begin, break_long_words=False)
