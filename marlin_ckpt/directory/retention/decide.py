"""Which checkpoints of a run are kept: a pure function of what they are, the rules and the time."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from marlin_ckpt.keep import BestArguments, RetentionArguments
from marlin_ckpt.storage import space
from marlin_ckpt.storage.space import Taken, Together, alone

Found = TypeVar("Found")

_HOUR, _DAY = 3600, 86400
_MONDAY = 3  # 1 January 1970 was a Thursday: the days since then, and three, are whole weeks on Mondays
_PERIODS = (("hourly", _HOUR, 0), ("daily", _DAY, 0), ("weekly", 7 * _DAY, _MONDAY * _DAY))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One file that retention decides about.

    Attributes:
        path: the file.
        index: in its name.
        time_s: when it was written, in seconds since 1970.
        size_bytes: its length.
        metrics: its manifest's.
        run_id: of the run that wrote it; "" where that is not known.
        apart: why it is not one of the run's intact checkpoints, so that it neither counts nor is touched;
            "" where it is one.
        pinned: why it stays whatever the rules say; "" where nothing but the rules keeps it.
        taken: what it takes on the disk; None where that is its length, as far as is known.
    """

    path: str
    index: int
    time_s: float
    size_bytes: int
    metrics: dict[str, float]
    run_id: str = ""
    apart: str = ""
    pinned: str = ""
    taken: Taken | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one file.

    Attributes:
        candidate: the file.
        keep: whether it stays.
        reasons: why, all of them.
        is_wanted: whether any rule keeps it, be it too much for `max_total` or not.
    """

    candidate: Candidate
    keep: bool
    reasons: tuple[str, ...]
    is_wanted: bool = False


def decide(candidates: Iterable[Candidate], rules: RetentionArguments, *, now_s: float) -> list[Decision]:
    """Decides about the files of one run in one directory.

    Kept is what any rule keeps. The newest that counts, by index and by time, always stays. What
    `rules.max_total` then asks for goes the oldest first, those that are best by a metric last and the worst
    of them first. What several files share on the disk counts once, for as long as one of them stays.

    Args:
        candidates: the files, in any order.
        rules: what to keep.
        now_s: the time, in seconds since 1970.

    Returns:
        a decision for each file, in order of their index.
    """
    files = sorted(candidates, key=lambda one: (one.index, one.time_s, one.path))
    counted = [one for one in files if not one.apart]
    reasons: dict[str, list[str]] = {one.path: [] for one in files}
    for one, reason in _stay(counted):
        reasons[one.path].append(reason)
    staying = {path for path, why in reasons.items() if why}
    ranks: dict[str, int] = {}
    wanted = set()
    for one, reason, rank in _rules(counted, rules, now_s):
        wanted.add(one.path)
        reasons[one.path].append(reason)
        if rank:
            ranks[one.path] = min(rank, ranks.get(one.path, rank))
    dropped = _over_budget([one for one in counted if reasons[one.path]], rules, staying, ranks)
    decisions = []
    for one in files:
        why, keep = reasons[one.path], bool(one.apart or reasons[one.path])
        if one.apart:
            why = [f"left alone: {one.apart}"]
        elif one.path in dropped:
            why, keep = [dropped[one.path], *(f"though {reason}" for reason in why)], False
        decisions.append(Decision(one, keep, tuple(why) or ("no rule keeps it",), one.path in wanted))
    return decisions


def _stay(counted: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
    """What no rule can let go."""
    if not counted:
        return
    yield counted[-1], "newest"
    written_last = max(counted, key=lambda one: (one.time_s, one.index, one.path))
    if written_last is not counted[-1]:
        yield written_last, "written last"
    yield from ((one, one.pinned) for one in counted if one.pinned)


def _rules(
    counted: Sequence[Candidate], rules: RetentionArguments, now_s: float
) -> Iterator[tuple[Candidate, str, int]]:
    """What the rules keep, why, and for the best by a metric their rank, from 1."""
    if rules.last is not None:
        yield from ((one, f"last {rules.last}", 0) for one in counted[-rules.last :])
    if rules.every is not None:
        yield from ((one, f"every {rules.every}", 0) for one in counted if one.index % rules.every == 0)
    for rule in rules.best_rules():
        for rank, one in enumerate(_best(counted, rule), 1):
            yield one, f"best {rule.metric} ({rank} of {rule.count})", rank
    if (within_s := rules.within_s()) is not None:
        young = [one for one in counted if one.time_s >= now_s - within_s]
        yield from ((one, f"within {rules.within}", 0) for one in young)
    for name, length_s, shift_s in _PERIODS:
        count = getattr(rules, name) or 0
        newest = _newest_of_each(counted, length_s, shift_s)[:count]
        yield from ((one, f"{name} {count}", 0) for one in newest)
    if rules.has_no_rule():
        yield from ((one, "all", 0) for one in counted)


def _best(counted: Sequence[Candidate], rule: BestArguments) -> list[Candidate]:
    """The best by a metric, the very best first; what has no finite value of it is never best."""
    return best_first(((one, one.metrics) for one in reversed(counted)), rule)[: rule.count]


def best_first(measured: Iterable[tuple[Found, Mapping[str, float]]], rule: BestArguments) -> list[Found]:
    """Orders checkpoints by a metric, the very best first; what has no finite value of it is left out.

    Args:
        measured: the checkpoints with their metrics; of equal ones that which comes first stays first.
        rule: the metric, and whether the least or the greatest value is best.
    """
    sign = 1 if rule.mode == "min" else -1
    values = ((one, metrics.get(rule.metric, math.nan)) for one, metrics in measured)
    finite = [(one, value) for one, value in values if math.isfinite(value)]
    return [one for one, _ in sorted(finite, key=lambda pair: sign * pair[1])]


def _newest_of_each(counted: Sequence[Candidate], length_s: int, shift_s: int) -> list[Candidate]:
    """The newest of each period that has one, the last period first."""
    newest: dict[int, Candidate] = {}
    for one in sorted(counted, key=lambda one: (one.time_s, one.index, one.path)):
        newest[int((one.time_s + shift_s) // length_s)] = one
    return [newest[period] for period in sorted(newest, reverse=True)]


def _over_budget(
    kept: Sequence[Candidate], rules: RetentionArguments, staying: set[str], ranks: dict[str, int]
) -> dict[str, str]:
    """What is too much for `max_total`, and why it goes."""
    limit = rules.max_bytes()
    if limit is None:
        return {}
    together = Together(_taken(one) for one in kept)
    dropped = {}
    for one in sorted(kept, key=lambda one: (one.path in ranks, -ranks.get(one.path, 0))):
        if together.size_bytes <= limit:
            break
        if one.path not in staying:
            together.remove(_taken(one))
            dropped[one.path] = f"over max_total {rules.max_total}"
    return dropped


def _taken(one: Candidate) -> Taken:
    return one.taken or alone(one.size_bytes)


def together_bytes(candidates: Iterable[Candidate]) -> int:
    """What files take together."""
    return space.together_bytes(map(_taken, candidates))
