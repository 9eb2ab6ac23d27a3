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
    """How a tool names its checkpoints."""

    def read(self, stem: str) -> Reading | None:
        """Reads a name without its extension; None where it does not fit as a whole."""


class Pattern(Grammar):
    """A grammar that is one regular expression, with groups named after the fields of a reading."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.DOTALL)

    def read(self, stem: str) -> Reading | None:
        """Reads a name; see `Grammar.read`."""
        found = self._pattern.fullmatch(stem)
        return found and Reading(**{field: int(digits) for field, digits in found.groupdict().items()})
