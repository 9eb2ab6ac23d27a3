"""What rules of retention would do with the checkpoints of a directory, by their manifests alone."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from marlin_ckpt.directory.history.events import Event, Started
from marlin_ckpt.directory.retention.decide import Decision, together_bytes
from marlin_ckpt.directory.retention.plan import Keeping
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.keep import BestArguments, RetentionArguments
from marlin_ckpt.operations.report.course import Point
from marlin_ckpt.operations.report.values import Retention
from marlin_ckpt.storage import paths


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of retention, and the runs that they are for.

    Attributes:
        rules: they.
        runs: the ids of the runs that have them; None: all.
        source: where they are from, as `Retention.source`.
    """

    rules: RetentionArguments
    runs: tuple[str, ...] | None
    source: Literal["run", "options"]


def rules_of_runs(events: Iterable[Event]) -> list[Rules]:
    """The rules that the last start of each run has, equal ones together."""
    last = {event.run_id: event.keep for event in events if isinstance(event, Started)}
    found: dict[str, tuple[RetentionArguments, list[str]]] = {}
    for run_id, keep in last.items():
        if keep and (rules := _read(keep)):
            found.setdefault(repr(rules), (rules, []))[1].append(run_id)
    return [Rules(rules, tuple(run_ids), "run") for rules, run_ids in found.values()]


def _read(keep: Mapping[str, Any]) -> RetentionArguments | None:
    """Rules as YAML has them; None where a newer marlin-ckpt has others."""
    try:
        best = keep.get("best")
        if isinstance(best, Mapping):
            best = BestArguments(**best)
        elif isinstance(best, list):
            best = [BestArguments(**one) for one in best]
        return RetentionArguments(**{**keep, "best": best})
    except (MarlinError, TypeError, ValueError):
        return None


def words(rules: RetentionArguments) -> str:
    """Rules in words: `last 3, best val_loss:min:2`."""
    return ", ".join(f"{name} {value}" for name, value in _parts(rules))


def options(rules: RetentionArguments) -> str:
    """Rules as options of `clean`, for a shell."""
    names = {"max_total": "--max-total"}
    found = ((names.get(name, f"--keep-{name}"), value) for name, value in _parts(rules))
    return " ".join(f"{name} {shlex.quote(value)}" for name, value in found)


def _parts(rules: RetentionArguments) -> Iterator[tuple[str, str]]:
    for one in fields(rules):
        value = getattr(rules, one.name)
        if one.name == "best":
            yield from (("best", str(rule)) for rule in rules.best_rules())
        elif value is not None:
            yield one.name, str(value)


def kept(
    directory: str,
    found: Sequence[tuple[str, Inspection]],
    points: Sequence[Point],
    all_rules: Sequence[Rules],
    *,
    recursive: bool,
) -> tuple[list[Point], tuple[Retention, ...]]:
    """Decides about the checkpoints of a directory; nothing is read or removed.

    Args:
        directory: of them.
        found: what is in it, each with its name relative to it.
        points: the same, and what was in it.
        all_rules: what to keep.
        recursive: whether its sub-directories count.

    Returns:
        the points with what becomes of each, and what becomes of all.
    """
    keeping = Keeping(measures=True)
    for _, inspection in found:
        keeping.know(inspection)
    names = (inspection.entry.name for _, inspection in found)
    extensions = {name.extension for name in names if name} or {"pt"}
    place = paths.real(directory)
    decided: dict[str, Decision] = {}
    sums = []
    for one in all_rules:
        of_these: dict[str, Decision] = {}
        for extension in sorted(extensions):
            plan = keeping.plan(
                place,
                one.rules,
                now_s=time.time(),
                extension=extension,
                recursive=recursive,
                verify="none",
                others="excluded" if one.source == "run" else "kept where needed",
            )
            for decision in plan.decisions:
                if one.runs is None or decision.candidate.run_id in one.runs:
                    of_these.setdefault(os.path.relpath(decision.candidate.path, place), decision)
        decided |= of_these
        sums += [_sum(one, run_id, of_these.values()) for run_id in one.runs or ("",)]
    return [_with(one, decided.get(one.name)) for one in points], tuple(sums)


def _with(point: Point, decision: Decision | None) -> Point:
    if decision is None or not point.is_there:
        return point
    return replace(point, keeps=decision.keep, reasons=decision.reasons)


def _sum(rules: Rules, run_id: str, decisions: Iterable[Decision]) -> Retention:
    of_run = [one for one in decisions if rules.runs is None or one.candidate.run_id == run_id]
    stay = [one.candidate for one in of_run if one.keep]
    kept_bytes = together_bytes(stay)
    return Retention(
        run_id=run_id,
        rules=words(rules.rules),
        source=rules.source,
        kept=len(stay),
        kept_bytes=kept_bytes,
        removed=len(of_run) - len(stay),
        removed_bytes=together_bytes(one.candidate for one in of_run) - kept_bytes,
        options=options(rules.rules),
    )
