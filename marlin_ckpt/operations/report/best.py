"""Finds the best checkpoints of each run, by its rules, or by what names of metrics mean everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from marlin_ckpt.keep import BestArguments
from marlin_ckpt.operations.listing.marks import usual_mode
from marlin_ckpt.operations.report.course import Point
from marlin_ckpt.operations.report.keeping import Rules
from marlin_ckpt.operations.report.values import Best

_MOST = 8  # metrics of a run without rules


def best(points: Sequence[Point], all_rules: Sequence[Rules]) -> tuple[Best, ...]:
    """The best checkpoints: of each metric the best ever, and where it is gone the best that is left.

    Args:
        points: run by run.
        all_rules: those whose `best` name metrics.
    """
    found: list[Best] = []
    for run_id in dict.fromkeys(one.run_id for one in points):
        of_run = [(place, one) for place, one in enumerate(points) if one.run_id == run_id]
        named = [
            rule
            for one in all_rules
            if one.runs is None or run_id in one.runs
            for rule in one.rules.best_rules()
        ]
        source: Literal["rules", "name"] = "rules" if named else "name"
        for rule in named or _known(point for _, point in of_run):
            found += _best_of(run_id, of_run, rule, source)
    return tuple(found)


def _known(points: Iterator[Point]) -> list[BestArguments]:
    names = dict.fromkeys(name for one in points for name in one.metrics if name)
    return [BestArguments(name, mode) for name in names if (mode := usual_mode(name))][:_MOST]


def _best_of(
    run_id: str,
    points: Sequence[tuple[int, Point]],
    rule: BestArguments,
    source: Literal["rules", "name"],
) -> Iterator[Best]:
    """The best, as retention finds it: of equal ones the last."""
    sign = 1 if rule.mode == "min" else -1
    ranked = sorted(
        (
            (sign * one.metrics[rule.metric], -place, one)
            for place, one in points
            if one.complete is not False and math.isfinite(one.metrics.get(rule.metric, math.nan))
        ),
        key=lambda three: three[:2],
    )
    ever = ranked[:1]
    left = [one for one in ranked if one[2].is_there][:1]
    for value, place, one in ever if ever == left else [*ever, *left]:
        yield Best(
            run_id=run_id,
            metric=rule.metric,
            mode=rule.mode,
            point=-place,
            name=one.name,
            index=one.index,
            value=sign * value,
            is_there=one.is_there,
            source=source,
        )
