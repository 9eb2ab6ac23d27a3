"""Reads a scalar for the type of its field.

PyYAML reads YAML 1.1, in which `no` is false, `12:30` is 750 and `1e-3` is a string. Here a scalar is read as
YAML 1.2 reads it, and a scalar that the two read differently is refused where that matters.
"""

import contextlib
import math
import re
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml

from marlin_ckpt.fields import alternatives, words

NULL_TAG = "tag:yaml.org,2002:null"
STRING_TAG = "tag:yaml.org,2002:str"

# No underscores, no leading zeros, no other bases: YAML 1.1 and 1.2 and people read those differently. Python
# reads no integer of more than 4,300 digits.
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,999})")
_INTEGER_LIKE = re.compile(r"[-+]?[0-9][0-9_]*|0o[0-7_]+")
_NUMBER = re.compile(
    r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = {"", "~", "null", "Null", "NULL"}
_OLD_BOOLS = {"y", "n", "yes", "no", "on", "off"}


class MismatchError(Exception):
    """A value is not of its field's type."""


def is_null(node: yaml.Node) -> bool:
    """Whether a node means null."""
    return _is_plain(node) and node.value in _NULLS


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None


def read(node: yaml.Node, hint: Any) -> Any:
    """Reads a scalar as one type.

    Args:
        node: the scalar.
        hint: bool, int, float, str, NoneType or a Literal of strings.

    Raises:
        MismatchError: it is not of that type.
    """
    text = node.value
    plain = _is_plain(node)
    if hint is NoneType and is_null(node):
        return None
    if hint is bool and plain and text in _BOOLS:
        return _BOOLS[text]
    if hint is int and plain and _INTEGER.fullmatch(text):
        return int(text)
    if hint is float and plain and _NUMBER.fullmatch(text):
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if math.isinf(number) and "inf" not in text.lower():
            raise MismatchError  # 1e999
        return number
    if is_text(node) and (hint is str or (get_origin(hint) is Literal and text in get_args(hint))):
        return text
    raise MismatchError


def is_text(node: yaml.Node) -> bool:
    """Whether a node is a string to every reader."""
    return isinstance(node, yaml.ScalarNode) and (not _is_plain(node) or _is_clearly_text(node))


def _is_clearly_text(node: yaml.Node) -> bool:
    text = node.value
    return node.tag == STRING_TAG and not (_NUMBER.fullmatch(text) or _INTEGER_LIKE.fullmatch(text))


def read_any(node: yaml.Node) -> Any:
    """Reads a scalar of a field without a type.

    Raises:
        MismatchError: it has several readings.
    """
    hints: tuple[type, ...] = (NoneType, bool, int, float, str)
    if _is_plain(node) and _INTEGER_LIKE.fullmatch(node.value):
        hints = (int,)  # one that cannot be read exactly must not become a float
    for hint in hints:
        with contextlib.suppress(MismatchError):
            return read(node, hint)
    raise MismatchError


def found(node: yaml.Node) -> str:
    """What a node is, in the words of an error message."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if is_null(node) else repr(node.value)


def mismatch(node: yaml.Node, hint: Any) -> str:
    """Why a node does not fit a field, and what to write instead."""
    message = f"expected {words(hint)}, not {found(node)}"
    if not _is_plain(node) or is_null(node):
        return message
    kinds = alternatives(hint)
    if str in kinds:
        return f"{message}; put it in quotes"
    return f"{message}; write true or false" if bool in kinds else message


def ambiguity(node: yaml.Node) -> str:
    """Why a scalar of a field without a type is refused, and what to write instead."""
    is_bool = node.value.lower() in _OLD_BOOLS
    advice = "true or false" if is_bool else "a plain decimal number"
    return f"{node.value!r} means different things to different readers; write {advice}, or put it in quotes"
