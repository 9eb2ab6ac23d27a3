"""What a pickle must not cost those who read it, with torch or without."""

from __future__ import annotations

import pickle
from typing import Any

SMALL_INTEGERS = 2**61 - 1  # below it no two have the same hash; sys.hash_info.modulus
_MOST_NESTED = 100  # tuples in a key; hash() takes the processor's stack for each
_MOST_PARTS = 10_000  # of the tuples in a key, which may all be one


class ExcessError(pickle.UnpicklingError):
    """The pickle would cost more than a state of its length does."""


def parts_of_key(key: tuple[Any, ...]) -> int:
    """How many parts hash() goes through in a tuple.

    Raises:
        ExcessError: too many, or nested too deep.
    """
    pending, parts = [(key, 0)], 0
    while pending:
        part, depth = pending.pop()
        parts += len(part)
        if depth > _MOST_NESTED or parts > _MOST_PARTS:
            raise ExcessError("a key of too many tuples in tuples")
        pending.extend((inner, depth + 1) for inner in part if isinstance(inner, tuple))
    return parts
