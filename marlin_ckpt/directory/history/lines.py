"""Events as the lines in which a directory keeps them: an object of JSON each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from marlin_ckpt.directory.history.events import KINDS, Event
from marlin_ckpt.errors import BadFileError
from marlin_ckpt.formats.budget import check_json

_KIND, _AT, _RUN = "event", "at", "run_id"
_NOT_FINITE = ("nan", "inf", "-inf")  # as `json_ready` writes them
_FLOATS = {float}
_SHORT = 100_000  # bytes; no JSON of this length takes much memory, as `check_json` counts it

_raw_decode = json.JSONDecoder().raw_decode


def to_line(event: Event) -> bytes:
    """The line of an event, with the line feed at its end."""
    values = {_AT: event.at, _KIND: event.kind, _RUN: event.run_id, **event.facts()}
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def from_line(line: bytes) -> Event | None:
    """Reads a line.

    Args:
        line: with or without the line feed.

    Returns:
        the event; None where its kind is not known, as a newer marlin-ckpt may write it. Keys that are not
        known are ignored, and those that are missing have their defaults.

    Raises:
        ValueError: it is no such line.
    """
    try:
        if len(line) > _SHORT:
            check_json(line, "")
        text = line.decode()
        values, end = _raw_decode(text)
        kind = _kind_of(values)
        if text[end:].strip():
            raise ValueError("not an event: something follows it")
        return None if kind is None else kind(**_known(values, _TYPES[kind]))
    except (BadFileError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not an event: {error!r}") from error


def _kind_of(values: Any) -> type[Event] | None:
    what = values[_KIND]
    if type(what) is not str or type(values[_AT]) is not str:
        raise TypeError("expected texts")
    return KINDS.get(what)


def _type(one: Any) -> type:
    if one.name == "metrics":
        return Mapping
    return type(one.default if one.default_factory is MISSING else one.default_factory())


_TYPES: dict[type[Event], list[tuple[str, type]]] = {
    kind: [(one.name, _type(one)) for one in fields(kind)] for kind in KINDS.values()
}


def _known(values: dict[str, Any], types: list[tuple[str, type]]) -> dict[str, Any]:
    """What a line says of an event's fields, in their types: no other is converted, but whole numbers."""
    known = {}
    for name, kind in types:
        if name not in values:
            continue
        value = values[name]
        if type(value) is not kind:
            if kind is float:
                value = _number(value)
            elif kind is Mapping and type(value) is dict:
                if not _FLOATS.issuperset(map(type, value.values())):
                    value = {key: _number(one) for key, one in value.items()}
            else:
                raise TypeError(f"expected {kind.__name__}")
        known[name] = value
    return known


def _number(value: Any) -> float:
    if type(value) in (int, float) or value in _NOT_FINITE:
        return float(value)
    raise TypeError("expected a number")
