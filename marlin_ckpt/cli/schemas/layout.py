"""How a document is laid out as JSON: a line for each key, and one for each list of plain values."""

import json
from typing import Any

from marlin_ckpt.formats.manifest import json_ready

_PLAIN = {str, int, float, bool, type(None)}
_STEP = "  "
_encode = json.JSONEncoder(allow_nan=False).encode


def is_plain(values: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list has no list, dict or object in it."""
    return _PLAIN.issuperset(map(type, values))


def text_of(value: Any, indent: str = "") -> str:
    """The JSON of a value, in ASCII: all other characters are escapes in it.

    Args:
        value: dicts with texts for keys, lists and plain values. Numbers that JSON cannot spell become texts.
        indent: of the line that it begins on.
    """
    inner = indent + _STEP
    if isinstance(value, dict) and value:
        parts = [f"{_encode(str(key))}: {text_of(part, inner)}" for key, part in value.items()]
        first, last = "{}"
    elif isinstance(value, (list, tuple)) and not is_plain(value):
        parts = [text_of(part, inner) for part in value]
        first, last = "[]"
    else:
        return line_of(value)
    return f"{first}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{last}"


def line_of(value: Any) -> str:
    """As `text_of`, in one line."""
    try:
        return _encode(value)  # a list of numbers with an indent takes ten times as long
    except ValueError:
        return _encode(json_ready(value))
