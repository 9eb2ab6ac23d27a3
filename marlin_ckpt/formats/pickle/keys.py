"""What it takes to hash the keys of dicts and sets, and to compare those of one hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from marlin_ckpt.formats.budget import Budget

# Bytes of memory that an item of a dict or a set takes at most, and what the first one takes beside that.
ITEM = 100
FIRST_ITEM = 168
LONGEST_SHORT = 256  # characters of a key; to compare more takes longer than the rest
_HASH = 160  # of a key whose hash is remembered
_COMPARISON = 4  # of two keys, in time
_SMALL_INTEGERS = 2**61 - 1  # below it no two have the same hash; sys.hash_info.modulus
_MOST_NESTED = 100  # tuples in a key; hash() takes the processor's stack for each
_MOST_PARTS = 10_000  # of the tuples in a key, which may all be one


class Keys:
    """Charges a budget for keys before they are hashed.

    The hash of a tuple in a million others ends the process, that of 2^40 shared ones never ends, and neither
    do a million keys of one hash, or of long equal texts.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._hashes: Counter[tuple[int, int]] = Counter()

    def charge_all(self, keys: Collection[Any], target: Any) -> None:
        """Charges what a dict or set takes that is made of such keys."""
        self._budget.charge(FIRST_ITEM + ITEM * len(keys))
        for key in keys:
            self.charge(key, target)

    def charge(self, key: Any, target: Any) -> None:
        """Charges what hashing a key takes, and comparing it with those in the target that have its hash."""
        kind = type(key)
        if (kind is str and len(key) <= LONGEST_SHORT) or (
            kind is int and -_SMALL_INTEGERS < key < _SMALL_INTEGERS
        ):
            return
        cost = self._cost(key)
        self._budget.charge(cost + _HASH)
        number = id(target), hash(key)
        self._hashes[number] += 1
        self._budget.charge((cost + _COMPARISON) * self._hashes[number])

    def _cost(self, key: Any) -> int:
        pending, parts, cost = [(key, 0)], 0, 0
        while pending:
            part, depth = pending.pop()
            if isinstance(part, (str, bytes)):
                cost += len(part)
            elif isinstance(part, int):
                cost += part.bit_length() // 8
            elif isinstance(part, (tuple, frozenset)):
                parts += len(part)
                if depth > _MOST_NESTED or parts > _MOST_PARTS:
                    self._budget.refuse("it has a key of too many tuples in tuples")
                pending.extend((inner, depth + 1) for inner in part)
        return cost + parts
