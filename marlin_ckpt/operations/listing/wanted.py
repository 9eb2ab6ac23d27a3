"""What is to be listed."""

import contextlib
import datetime
from collections.abc import Sequence
from typing import NamedTuple

from marlin_ckpt.fields import duration_of

KEYS = ("index", "age", "size", "name")  # of `--sort`, which also takes the name of a metric


class Wanted(NamedTuple):
    """What is to be listed.

    Attributes:
        directory: that is looked through.
        prefix: only names with it; None: of any.
        extension: only files of it; None: of all that checkpoints have.
        recursive: look in sub-directories too, and go run by run.
        run: only files of the run with this id, or whose id begins so; None: of all.
        since: only files that were written then or later, in seconds since 1970.
        by: what they are ordered by: one of `KEYS`, or a metric.
        best: only files that have this metric, the best first, which are those of `min` or `max`.
        last: only so many of the last, of each run if it goes run by run; with `best` the best.
        reverse: put the last first.
        metrics: that are shown; none: the usual ones.
        drawn: a metric that is drawn over the index.
    """

    directory: str
    prefix: str | None = None
    extension: str | None = None
    recursive: bool = False
    run: str | None = None
    since: float | None = None
    by: str = "index"
    best: tuple[str, str] | None = None
    last: int | None = None
    reverse: bool = False
    metrics: Sequence[str] = ()
    drawn: str | None = None

    @property
    def asked(self) -> list[str]:
        """The metrics that they are ordered by."""
        return [*(self.best or ())[:1], *({self.by} - {*KEYS})]


def moment_s(text: str, *, now_s: float) -> float:
    """Reads a moment of the past: `2d` or `12h` before now, or a date or time in ISO 8601.

    Args:
        text: the moment; a date or time without a zone is in that of this machine.
        now_s: the present, in seconds since 1970.

    Returns:
        the moment, in seconds since 1970.

    Raises:
        ValueError: it is neither.
    """
    with contextlib.suppress(ValueError):
        return now_s - duration_of(text)
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"expected a time such as 2d, 12h or 2026-01-31, not {text!r}") from None


def best_by(text: str) -> tuple[str, str]:
    """Reads `METRIC`, `METRIC:min` or `METRIC:max`; returns the metric and the mode, which is else `min`."""
    name, colon, mode = text.rpartition(":")
    return (name, mode) if colon and name and mode in ("min", "max") else (text, "min")
