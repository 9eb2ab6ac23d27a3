"""The section `keep` of a checkpointer's YAML: which checkpoints retention keeps."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields

from marlin_ckpt.errors import ArgumentsError, Fault
from marlin_ckpt.fields import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    Checked,
    duration_of,
    size_of,
    suggestion,
)

_COUNT = {"minimum": 1}


def _unreadable(read: Callable[[str], float]) -> Callable[[str], str]:
    """Makes a check of a field that a function must be able to read."""

    def fault(text: str) -> str:
        try:
            read(text)
        except ValueError as error:
            return str(error)
        return ""

    return fault


def _total_fault(value: str | int) -> str:
    return _unreadable(size_of)(str(value))


# Of a field that says how long something takes.
DURATION = {"check": _unreadable(duration_of), "pattern": DURATION_PATTERN}


@dataclass
class BestArguments(Checked):
    """One rule `best`: keep the checkpoints with the best values of a metric.

    Attributes:
        metric: the name of the metric, as it was given to `save` or as `get_metrics` returns it.
        mode: whether the smallest (`min`) or the largest (`max`) value is the best.
        count: how many of the best are kept. Of two with equal values the newer is kept.
    """

    metric: str = field(default="", metadata={"required": "is missing; it names what is compared"})
    mode: str = field(default="min", metadata={"choices": ("min", "max")})
    count: int = field(default=1, metadata=_COUNT)

    def __str__(self) -> str:
        return f"{self.metric}:{self.mode}:{self.count}"


@dataclass
class RetentionArguments(Checked):
    """Which checkpoints of a run are kept: those that any rule keeps; all others are removed.

    Whatever the rules say, the newest intact checkpoint stays, and so does every file that is not known to be
    a checkpoint of the run.

    Attributes:
        last: keep this many of the newest checkpoints.
        every: keep checkpoints whose index is divisible by this.
        best: keep the checkpoints with the best values of a metric; one rule, or a list of rules.
        within: keep checkpoints saved within this duration before now, such as `7d` or `12h`.
        hourly: keep the newest checkpoint of each hour (in UTC), for this many of the latest hours that have
            one.
        daily: keep the newest checkpoint of each day (in UTC), for this many of the latest days that have
            one.
        weekly: keep the newest checkpoint of each week (in UTC, from Monday), for this many of the latest
            weeks that have one.
        max_total: the bytes that all kept checkpoints may take together, such as `50GB`. What they share on
            the disk counts once. When they take more, the oldest are removed first, and those that are best
            by a metric last. Without another rule all are kept up to this size.

    Raises:
        ArgumentsError: at construction, naming every field that is wrong; or nothing would be kept.
    """

    last: int | None = field(default=None, metadata=_COUNT)
    every: int | None = field(default=None, metadata=_COUNT)
    best: BestArguments | list[BestArguments] | None = None
    within: str | None = field(default=None, metadata=DURATION)
    hourly: int | None = field(default=None, metadata=_COUNT)
    daily: int | None = field(default=None, metadata=_COUNT)
    weekly: int | None = field(default=None, metadata=_COUNT)
    max_total: str | int | None = field(
        default=None, metadata={"check": _total_fault, "pattern": SIZE_PATTERN, "minimum": 1}
    )

    def faults(self) -> list[Fault]:
        """Everything that is wrong with the fields now."""
        found = super().faults()
        if not found and self.max_total is None and self.has_no_rule():
            message = "are missing, so that nothing would be kept; name one, such as last: 3"
            found.append(Fault("rules", message))
        return found

    def has_no_rule(self) -> bool:
        """Whether nothing but `max_total` limits what is kept."""
        return not any(getattr(self, one.name) for one in fields(self) if one.name != "max_total")

    def best_rules(self) -> list[BestArguments]:
        """The rules `best`, however they were written."""
        if self.best is None:
            return []
        return self.best if isinstance(self.best, list) else [self.best]

    def within_s(self) -> float | None:
        """`within` in seconds."""
        return None if self.within is None else duration_of(self.within)

    def max_bytes(self) -> int | None:
        """`max_total` in bytes."""
        return size_of(self.max_total) if isinstance(self.max_total, str) else self.max_total


def unknown_metric(name: str, known: Iterable[str], directory: str) -> ArgumentsError:
    """The error of a metric that no checkpoint of a directory has, wherever it was named."""
    names = sorted(known)
    what = f"no checkpoint in {directory} has {name!r}{suggestion(name, names)}"
    return ArgumentsError([Fault("metric", what)], there_are(names) or "they have no metrics")


def there_are(metrics: Iterable[str]) -> str:
    """The hint that names the metrics that checkpoints have; "" where they have none."""
    names = ", ".join(metrics)
    return f"they have {names}" if names else ""
