"""Converts values that `weights_only` loading refuses to plain ones, where that loses nothing.

NumPy scalars become Python numbers, NumPy arrays become tensors of the same dtype, paths become strings,
dates and times become their ISO 8601 strings. What has no lossless plain form is left as it is.
"""

import datetime
import sys
from collections import Counter, OrderedDict
from pathlib import PurePath
from typing import Any

import torch

from marlin_ckpt.errors import UnsavableStateError

_DICTS = (dict, OrderedDict, Counter)
_CONTAINERS = (*_DICTS, list, tuple, set)
_DATES = (datetime.datetime, datetime.date, datetime.time)


def plain(state: Any) -> Any:
    """A state in plain values.

    Containers are copied only when something in them changes; sharing between them, and cycles, are kept.

    Raises:
        UnsavableStateError: it is nested too deeply.
    """
    try:
        return _Copier().copy(state) if _needs_work(state) else state
    except RecursionError as error:
        raise UnsavableStateError("the state is nested too deeply to be saved") from error


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
            made.extend(map(self.copy, value))
        elif kind is set:
            made = {self.copy(part) for part in value}
            made = made if len(made) == len(value) else value
            self._done[id(value)] = (value, made)
        elif kind in _DICTS:
            made = kind()
            self._done[id(value)] = (value, made)
            # torch hangs the versions of a state dict's modules on it, as an attribute.
            vars(made).update(vars(value)) if kind is OrderedDict else None
            keys = [self.copy(key) for key in value]
            if len(set(keys)) < len(value):  # a path and the string it would become
                keys = list(value)
            for key, part in zip(keys, value.values(), strict=True):  # a Counter's update would count them
                made[key] = self.copy(part)
        elif kind is tuple:
            made = tuple([self.copy(part) for part in value])
            # A tuple that holds itself through a list was made while its parts were, as pickle does it.
            made = self._done.setdefault(id(value), (value, made))[1]
        else:
            made = _plain_leaf(value)
            if made is not value:
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


def _has_fixed_zone(value: datetime.datetime | datetime.date | datetime.time) -> bool:
    # A named zone knows its rules for other dates; an offset in a string does not.
    zone = value.tzinfo if isinstance(value, (datetime.datetime, datetime.time)) else None
    return zone is None or type(zone) is datetime.timezone


def _plain_array(array: Any) -> Any:
    """A tensor of the same values, and of the same memory where only NumPy has that: arrays may be large."""
    owner = array
    while type(owner.base) is type(array):
        owner = owner.base
    is_copied = owner.base is not None or not array.flags.writeable
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=is_copied)
    try:
        return torch.from_numpy(native)
    except TypeError:  # strings, objects, dates, structures: torch has no such dtype
        return array
