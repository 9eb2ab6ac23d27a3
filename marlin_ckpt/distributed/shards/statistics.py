"""The statistics of tensors in a sharded checkpoint: each rank's of what it writes, combined at rank 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from marlin_ckpt.formats import statistics
from marlin_ckpt.formats.pickle.labels import join
from marlin_ckpt.formats.shards.nesting import Path
from marlin_ckpt.formats.statistics import Statistics
from marlin_ckpt.formats.values.gathering import Stretch, has_numbers
from marlin_ckpt.storage.target import OnStored

_ROW = np.dtype([("norm", "<f8"), ("low", "<f8"), ("high", "<f8"), ("nans", "<i8"), ("infinities", "<i8")])


class OfRank:
    """The statistics of the parts of tensors that one rank writes, made of the bytes that are stored."""

    def __init__(self, parts: Iterable[tuple[str, int]]) -> None:
        """Takes the dtype and the length in bytes of each part, in the order of the shard."""
        self._known = [*parts]
        self._parts: list[Stretch] = []

    def observers(self) -> list[OnStored | None]:
        """What is told of the data of each part; what earlier ones were told no longer counts."""
        self._parts = [Stretch(0, size, name) for name, size in self._known]
        return [one.add if has_numbers(one.dtype) else None for one in self._parts]

    def to_bytes(self) -> bytes:
        """They as `combined` takes them, once all is written."""
        return np.array([tuple(one.found.statistics()) for one in self._parts], _ROW).tobytes()


class Tensors(NamedTuple):
    """The tensors that all ranks write.

    Attributes:
        dtypes: of each.
        names: under which they are in the state, each with the number of its tensor.
        of_ranks: the numbers of those that each rank writes a part of, in the order of its shard.
    """

    dtypes: Sequence[str]
    names: Sequence[tuple[str, int]]
    of_ranks: Sequence[np.ndarray]


def name_of(path: Path) -> str:
    """The name of a tensor as `show` prints it, from the keys that lead to it."""
    return reduce(join, (key if type(key) is str else f"[{key}]" for key in path), "")


def combined(tensors: Tensors, of_ranks: Iterable[bytes]) -> bytes:
    """The record of the statistics of whole tensors.

    Args:
        tensors: what was written.
        of_ranks: what each rank has sent, by `OfRank.to_bytes`.

    Returns:
        the bytes; none where they would be longer than a reader takes.
    """
    whole = np.zeros(len(tensors.dtypes), _ROW)
    whole["low"] = whole["high"] = np.nan
    for numbers, sent in zip(tensors.of_ranks, of_ranks, strict=True):
        part, before = np.frombuffer(sent, _ROW), whole[numbers]
        with np.errstate(over="ignore"):
            before["norm"] = np.hypot(before["norm"], part["norm"])
        before["low"] = np.fmin(before["low"], part["low"])  # which passes over NaN
        before["high"] = np.fmax(before["high"], part["high"])
        before["nans"] += part["nans"]
        before["infinities"] += part["infinities"]
        whole[numbers] = before
    rows = whole.tolist()
    data = statistics.to_json(
        {name: Statistics(*rows[at]) for name, at in tensors.names if has_numbers(tensors.dtypes[at])}
    )
    return data if len(data) <= statistics.MOST_BYTES else b""
