"""One tool's names, and what a name says of its place in a run."""

import re
from typing import NamedTuple, Protocol


class Reading(NamedTuple):
    """What a name says of its place in a run: never a metric, a decimal or an exponent.

    Attributes:
        step: of the optimizer, from the run's beginning; None where the name has none.
        epoch: None where the name has none.
        version: counts the files that were written under one name after the first.
    """

    step: int | None = None
    epoch: int | None = None
    version: int = 0


class Grammar(Protocol):
    """How a tool names its checkpoints.

    Attributes:
        has_metrics: whether its names have metrics in them, `val_loss=0.12`.
    """

    has_metrics: bool = False

    def read(self, stem: str) -> Reading | None:
        """Reads a name without its extension; None where it does not fit as a whole."""


class Pattern(Grammar):
    """A grammar that is one regular expression, with groups named after the fields of a reading."""

    def __init__(self, pattern: str, *, has_metrics: bool = False) -> None:
        self._pattern = re.compile(pattern, re.DOTALL)
        self.has_metrics = has_metrics

    def read(self, stem: str) -> Reading | None:
        """Reads a name; see `Grammar.read`."""
        found = self._pattern.fullmatch(stem)
        return found and Reading(**{field: int(digits) for field, digits in found.groupdict().items()})


_PAIR = re.compile(r"([^=]+)=(-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")
_START = re.compile(r".*-|.*_[0-9]+_|[^A-Za-z]+")  # what may stand before the first name of a pair
_NO_LETTERS = re.compile(r"[^A-Za-z]+")


def metrics_in(stem: str) -> dict[str, float]:
    """The metrics in a name, `val_loss=0.12`, rounded as they are there; steps and epochs are none."""
    found = {}
    for pair in _PAIR.finditer(stem):
        start = _START.match(pair[1]) if pair.start() == 0 else _NO_LETTERS.match(pair[1])
        found[pair[1][start.end() if start else 0 :]] = float(pair[2])
    return {name: value for name, value in found.items() if name not in ("", *Reading._fields)}
