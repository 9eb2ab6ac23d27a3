"""Turns values that `weights_only` loading refuses into plain ones, where that loses nothing.

NumPy scalars become Python numbers, NumPy arrays become tensors of the same dtype, paths become strings,
dates and times become their ISO 8601 strings. What has no lossless plain form is left as it is.
"""

from __future__ import annotations

import datetime
import sys
from collections import OrderedDict
from pathlib import PurePath
from typing import Any

import torch

_CONTAINERS = (dict, OrderedDict, list, tuple)
_DATES = (datetime.datetime, datetime.date, datetime.time)


def plain(state: Any) -> Any:
    """A state in plain values.

    Containers are copied only when something in them changes; sharing between them, and cycles, are kept.
    """
    return _Copier().copy(state) if _needs_work(state) else state


def _needs_work(state: Any) -> bool:
    seen: set[int] = set()
    pending = [state]
    while pending:
        value = pending.pop()
        kind = type(value)
        if kind in _CONTAINERS:
            if id(value) not in seen:
                seen.add(id(value))
                pending.extend(value.values() if isinstance(value, dict) else value)
                if isinstance(value, dict):
                    pending.extend(value)
        elif _plain_leaf(value) is not value:
            return True
    return False


class _Copier:
    def __init__(self) -> None:
        # The original is kept beside its copy, so that its id is not given to another object meanwhile.
        self._done: dict[int, tuple[Any, Any]] = {}

    def copy(self, value: Any) -> Any:
        if id(value) in self._done:
            return self._done[id(value)][1]
        kind = type(value)
        if kind is list:
            made: Any = []
            self._done[id(value)] = (value, made)
            made.extend(self.copy(part) for part in value)
        elif kind is dict or kind is OrderedDict:
            made = kind()
            self._done[id(value)] = (value, made)
            # torch hangs the versions of a state dict's modules on it, as an attribute.
            vars(made).update(vars(value)) if kind is OrderedDict else None
            made.update((self.copy(key), self.copy(part)) for key, part in value.items())
        elif kind is tuple:
            made = tuple(self.copy(part) for part in value)
            self._done[id(value)] = (value, made)
        else:
            made = _plain_leaf(value)
            self._done[id(value)] = (value, made)
        return made


def _plain_leaf(value: Any) -> Any:
    kind = type(value)
    if issubclass(kind, PurePath):
        return str(value)
    if kind in _DATES:
        return value.isoformat() if _has_fixed_zone(value) else value
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return value
    if kind is numpy.ndarray:
        return _plain_array(value)
    if issubclass(kind, numpy.generic) and kind is not numpy.void and value.dtype.hasobject is False:
        item = value.item()
        # A long double or a date comes back from item() as something less, or as itself.
        exact = type(item) in (bool, int, float, complex, str, bytes) and (item == value or value != value)  # noqa: PLR0124 - NaN
        return item if exact else value
    return value


def _has_fixed_zone(value: Any) -> bool:
    # A named zone knows its rules for other dates; an offset in a string does not.
    return isinstance(value, datetime.date) and (
        not isinstance(value, datetime.datetime)
        or value.tzinfo is None
        or type(value.tzinfo) is datetime.timezone
    )


def _plain_array(array: Any) -> Any:
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
    try:
        return torch.from_numpy(native)
    except TypeError:  # strings, objects, dates, structures: torch has no such dtype
        return array
