"""Converts values that `weights_only` loading refuses to plain ones, where that loses nothing.

NumPy scalars become Python numbers, NumPy arrays become tensors of the same dtype, paths become strings,
dates and times become their ISO 8601 strings. What has no lossless plain form is left as it is.
"""

import datetime
import sys
from pathlib import PurePath
from typing import Any

import torch

from marlin_ckpt.saving.replacing import replaced

_DATES = (datetime.datetime, datetime.date, datetime.time)


def plain(state: Any) -> Any:
    """A state in plain values.

    Containers are copied only when something in them changes; sharing between them, and cycles, are kept.

    Raises:
        UnsavableStateError: it is nested too deeply.
    """
    return replaced(state, lambda one: _plain_leaf(one) is not one, _plain_leaf, keys=True)


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
