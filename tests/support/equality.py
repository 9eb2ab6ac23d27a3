"""Whether what was loaded is what was saved."""

from __future__ import annotations

from typing import Any

import torch


def is_same(one: Any, other: Any) -> bool:
    """Whether two states are equal to the last bit; NaN in the state would spoil this."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape and one.stride() == other.stride()
        return alike and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other)
