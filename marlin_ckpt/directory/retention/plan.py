"""What retention makes of a directory: decides, and proves the newest file before any other goes."""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog, removing
from marlin_ckpt.directory.retention import decide
from marlin_ckpt.directory.retention.decide import Candidate, Decision
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.inspection import Inspection, inspect
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.keep import RetentionArguments
from marlin_ckpt.naming import Kind

_Seen = tuple[str, int, int, tuple[int, int]]


class Verify(StrEnum):
    """Which of the files that stay are read whole before others go."""

    ALL = "all"
    NEWEST = "newest"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What becomes of the checkpoints of a directory; nothing is done yet.

    Attributes:
        decisions: one for each checkpoint, in order of the index.
        removal: of those that go, for `pruning.carry_out`.
    """

    decisions: tuple[Decision, ...]
    removal: removing.Plan


class Keeping:
    """Plans retention, for one directory or many; what it knows of a file it does not read again."""

    def __init__(self) -> None:
        self._inspections: dict[_Seen, Inspection] = {}
        self._verdicts: dict[_Seen, str] = {}  # why it is not intact; "" where it is

    def trust(self, path: str) -> None:
        """Takes a file for intact as it is now: this process has written and checked it."""
        if entry := catalog.entry(path):
            self._verdicts[_seen(entry)] = ""

    def plan(  # noqa: PLR0913 - what decides, each by its name
        self,
        directory: PathText,
        rules: RetentionArguments,
        *,
        now_s: float,
        prefix: str | None = None,
        extension: str = "pt",
        run_id: str | None = None,
        recursive: bool = False,
        verify: Verify = Verify.NEWEST,
        pinned: Mapping[str, str] | None = None,
    ) -> RetentionPlan:
        """Decides about the checkpoints of a directory.

        The rules are applied to each run, prefix and sub-directory apart. What is corrupt, cannot be
        verified, is a symbolic link or of another run neither counts nor is touched, and what a symbolic
        link in the directory leads to stays.

        Args:
            directory: that is looked at; a symbolic link to one is refused.
            rules: what to keep.
            now_s: the time, in seconds since 1970.
            prefix: only checkpoints of this prefix; None: of all.
            extension: without its dot.
            run_id: only checkpoints of this run; None: of all, each for itself.
            recursive: sub-directories too.
            verify: what is read whole before anything goes; what fails there counts as corrupt.
            pinned: paths of files that stay, each with the reason.

        Raises:
            CheckpointNotFoundError: there is no such directory.
            StorageError: it, or what is to be verified, cannot be read.
        """
        text = os.fspath(directory).rstrip("/") or "/"
        found = catalog.find(text, prefix=prefix, extension=extension, recursive=recursive)
        entries = [one for one in found if one.name is not None and one.name.kind is Kind.CHECKPOINT]
        stay = _pins(text, pinned or {}, recursive=recursive)
        by_path = {one.path: one for one in entries}
        groups: dict[tuple[str, str, str], list[Candidate]] = {}
        for one in entries:
            candidate = self._candidate(one, run_id, stay)
            own_prefix = one.name.prefix if one.name else ""
            key = (os.path.dirname(one.path), own_prefix, candidate.run_id if run_id is None else "")
            groups.setdefault(key, []).append(candidate)
        self._forget_all_but(entries)
        settled = (self._settle(group, rules, now_s, verify, by_path) for group in groups.values())
        decisions = sorted(itertools.chain(*settled), key=lambda one: naming.order(one.candidate.path))
        doomed = {
            one.candidate.path: (_identity(by_path[one.candidate.path]), "; ".join(one.reasons))
            for one in decisions
            if not one.keep
        }
        return RetentionPlan(tuple(decisions), removing.plan_files(text, doomed, recursive=recursive))

    def _settle(
        self,
        candidates: list[Candidate],
        rules: RetentionArguments,
        now_s: float,
        verify: Verify,
        entries: Mapping[str, Entry],
    ) -> list[Decision]:
        """Decides, and anew for each file that turns out not to be intact."""
        while True:
            decisions = decide.decide(candidates, rules, now_s=now_s)
            if verify is Verify.NONE or all(one.keep for one in decisions):
                return decisions
            kept = [one.candidate for one in decisions if one.keep and not one.candidate.apart]
            if verify is Verify.NEWEST:  # and where it fails the next one, which would be the newest then
                kept = [one.candidate for one in reversed(decisions) if not one.candidate.apart]
            wrong = self._not_intact(kept, entries, until_one_holds=verify is Verify.NEWEST)
            if not wrong:
                return decisions
            candidates = [replace(one, apart=wrong.get(one.path, one.apart)) for one in candidates]

    def _not_intact(
        self, candidates: Iterable[Candidate], entries: Mapping[str, Entry], *, until_one_holds: bool
    ) -> dict[str, str]:
        wrong = {}
        for one in candidates:
            if reason := self._why_not_intact(entries[one.path]):
                wrong[one.path] = reason
            elif until_one_holds:
                break
        return wrong

    def _why_not_intact(self, entry: Entry) -> str:
        seen = _seen(entry)
        if seen not in self._verdicts:
            try:
                verdict = verification.verify(entry.path)
            except CheckpointNotFoundError:
                return "it has vanished"
            is_intact = verdict.status is Status.INTACT
            self._verdicts[seen] = "" if is_intact else f"{verdict.status}: {verdict.reason}"
        return self._verdicts[seen]

    def _candidate(self, entry: Entry, run_id: str | None, stay: Mapping[tuple[int, int], str]) -> Candidate:
        seen = _seen(entry)
        if seen not in self._inspections:
            self._inspections[seen] = inspect(entry)
        found = self._inspections[seen]
        about = found.manifest
        return Candidate(
            path=entry.path,
            index=entry.index or 0,
            time_s=_time_s(entry, about.created if about else ""),
            size_bytes=entry.size_bytes,
            metrics=about.metrics if about else {},
            run_id=about.run_id if about else "",
            apart=_apart(found, run_id),
            pinned=stay.get(entry.inode, ""),
        )

    def _forget_all_but(self, entries: Iterable[Entry]) -> None:
        there = {_seen(one) for one in entries}
        self._inspections = {seen: one for seen, one in self._inspections.items() if seen in there}
        self._verdicts = {seen: one for seen, one in self._verdicts.items() if seen in there}


def _apart(found: Inspection, run_id: str | None) -> str:
    about = found.manifest
    if found.entry.is_link:
        return "a symbolic link"
    if found.status is not Status.COMPLETE:
        return f"corrupt: {found.reason}" if found.status is Status.CORRUPT else found.reason
    if about is not None and about.kind is not Kind.CHECKPOINT:
        return f"it holds a {about.kind}"
    if about is not None and about.lost:
        return "salvaged, with tensors lost"
    if run_id is None or (about is not None and about.run_id == run_id):
        return ""
    return "of no known run" if about is None else f"of another run, {about.run_id}"


def _pins(directory: str, pinned: Mapping[str, str], *, recursive: bool) -> dict[tuple[int, int], str]:
    """Why files stay, by device and inode."""
    try:
        links = catalog.link_targets(directory, recursive=recursive)
    except OSError as error:
        raise StorageError.of("cannot read the directory", directory, error) from error
    stay = {inode: f"{os.path.relpath(link, directory)} links to it" for inode, link in links.items()}
    return stay | {entry.inode: why for path, why in pinned.items() if (entry := catalog.entry(path))}


def _time_s(entry: Entry, created: str) -> float:
    try:
        return datetime.datetime.fromisoformat(created).timestamp()
    except (ValueError, OverflowError):
        return entry.modified_ns / 1e9


def _seen(entry: Entry) -> _Seen:
    return entry.path, entry.size_bytes, entry.modified_ns, entry.inode


def _identity(entry: Entry) -> tuple[int, ...]:
    return (*entry.inode, entry.modified_ns)
