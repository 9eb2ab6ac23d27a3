"""What the keys of a pickle's dicts and sets take: hostile ones are slow to hash or to compare."""

from collections import Counter
from typing import Any

from marlin_ckpt.formats.budget import Budget

# Room that one of each takes at most, as sys.getsizeof says it of Python 3.11, with its reference.
ITEM = 100  # of a dict or set that grows
FIRST_ITEM = 168
_HASH = 160  # of a key whose hash is remembered
_COMPARISON = 4  # of two keys, in time
SHORT = 256  # characters of a key; to compare more takes longer than the rest
_SMALL_INTEGERS = 2**61 - 1  # below it no two have the same hash; sys.hash_info.modulus
_MOST_NESTED = 100  # tuples in a key; hash() takes the processor's stack for each
_MOST_PARTS = 10_000  # of the tuples in a key, which may all be one


class Keys:
    """Charges a budget for the keys of dicts and sets.

    Args:
        budget: what reading the pickle may take.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._hashes: Counter[tuple[int, int]] = Counter()

    def charge_all(self, keys: list[Any] | tuple[Any, ...], target: Any) -> None:
        """Charges what a dict or set takes that is made of such keys."""
        self._budget.charge(FIRST_ITEM + ITEM * len(keys))
        for key in keys:
            self.charge(key, target)

    def charge(self, key: Any, target: Any) -> None:
        """Charges what hashing a key takes, and comparing it with those before it that have the same hash.

        Args:
            key: the key.
            target: the dict or set that it is put into.

        Raises:
            ExcessError: it takes more than is left.
        """
        kind = type(key)
        if (kind is str and len(key) <= SHORT) or (kind is int and -_SMALL_INTEGERS < key < _SMALL_INTEGERS):
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
