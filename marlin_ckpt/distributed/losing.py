"""Refuses what would be lost where rank 0 alone writes the states of all ranks into one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch.distributed.tensor import DTensor

from marlin_ckpt.distributed.failures import together
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.errors import UnsavableStateError

_HINT = "have all ranks save a folder, under a name that ends in .dcp: it takes what each of them has"
_NUMBERS = 1 << 62  # `Ranks.are_alike` compares 63 bits


def check(state: Any, ranks: Ranks) -> None:
    """Compares the names in the states of the ranks; all of them call this.

    Args:
        state: of this rank.
        ranks: of the run.

    Raises:
        UnsavableStateError: a rank has sharded tensors that rank 0 has not, or in another order; or names
            of anything else that rank 0 has not.
    """
    parts: list[str] = []
    others: list[str] = []
    for name, value in _named(state, ""):
        if isinstance(value, DTensor):
            dtype = str(value.dtype).removeprefix("torch.")
            parts.append(f"{name} {dtype} {[*value.shape]}")
        else:
            others.append(name)
    if ranks.are_alike(_number(parts), _number(others)):
        return
    of_main = ranks.told((parts, others))

    def compare() -> None:
        if parts != of_main[0]:
            only = next((one for one in parts if one not in of_main[0]), "")
            what = f"this rank has the sharded tensor {only}, and rank 0 has not" if only else ""
            raise UnsavableStateError(what or "this rank has other sharded tensors than rank 0", "", _HINT)
        if lost := sorted({*others} - {*of_main[1]}):
            raise UnsavableStateError(f"this rank has {lost[0]}, which rank 0 has not", "", _HINT)

    together(ranks, compare)


def _named(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What is no container, by its keys; of what stands in lists only where keys or sharded tensors are."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            path = f"{name}.{key}" if name else str(key)
            if isinstance(one, (Mapping, list, tuple)):
                yield from _named(one, path)
            else:
                yield path, one
    elif isinstance(value, (list, tuple)):
        for place, one in enumerate(value):
            yield from _named(one, f"{name}[{place}]")
    elif isinstance(value, DTensor):
        yield name, value


def _number(names: list[str]) -> int:
    """A number that is the same in every process, as `hash` is not."""
    data = "\0".join(names).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) % _NUMBERS
