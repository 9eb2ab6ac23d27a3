"""What retention makes of a directory: decides, and proves the newest file before any other goes."""

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.others.needed import holds_others, needed
from marlin_ckpt.directory.removing import Failure, Plan, failing, planned
from marlin_ckpt.directory.retention import decide
from marlin_ckpt.directory.retention.decide import Candidate, Decision
from marlin_ckpt.directory.retention.survey import Survey
from marlin_ckpt.entries import Entry, Identity
from marlin_ckpt.fields import PathText
from marlin_ckpt.keep import RetentionArguments
from marlin_ckpt.naming import Kind
from marlin_ckpt.storage.paths import open_store
from marlin_ckpt.storage.store import Store

Others = Literal["excluded", "kept where needed", "all"]  # what becomes of the folders of other tools
Verify = Literal["all", "newest", "none"]  # which of the files that stay are read whole before others go
_NEAREST = 8  # checkpoints on either side of a new one


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What becomes of the checkpoints of a directory; nothing is done yet.

    Attributes:
        decisions: one for each checkpoint, in order of the index.
        removal: of those that go, for `removing.carry_out`.
    """

    decisions: tuple[Decision, ...]
    removal: Plan


class Keeping:
    """Plans retention, for one directory or many; what it knows of a file it does not read again."""

    def __init__(self, *, measures: bool = False) -> None:
        """Takes whether candidates say what they take on the disk, also where no rule asks for it."""
        self._survey, self._measures = Survey(), measures
        self.trust, self.know = self._survey.trust, self._survey.know

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
        verify: Verify = "newest",
        pinned: Mapping[str, str] | None = None,
        others: Others = "excluded",
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
            others: whether checkpoints of other tools are decided about, too; and what their own bookkeeping
                still needs, which may stay.

        Raises:
            CheckpointNotFoundError: there is no such directory.
            StorageError: it, or what is to be verified, cannot be read.
        """
        failures: list[Failure] = []
        with open_store(directory, follows=False) as store:
            fail = failing(store, failures)
            found = catalog.find_in(
                store,
                prefix=prefix,
                extension=extension,
                recursive=recursive,
                foreign=others != "excluded",
                on_error=fail,
            )
            holding = {one.path for one in found if holds_others(store, one)}
            needs = needed(store, found) if others == "kept where needed" else {}
            stay = _pins(store, {**needs, **(pinned or {})}, recursive=recursive)
        measures = self._measures or rules.max_total is not None
        entries = {one.path: one for one in found if one.name and one.name.kind is Kind.CHECKPOINT}
        groups: dict[tuple[str, str, str], list[Candidate]] = {}
        for path, one in entries.items():
            candidate = self._survey.candidate(one, run_id, stay, measures=measures)
            if path in holding and not candidate.apart:
                candidate = replace(candidate, apart="it holds folders that are no part of it")
            own_prefix = one.name.prefix if one.name else ""
            key = (os.path.dirname(path), own_prefix, candidate.run_id if run_id is None else "")
            groups.setdefault(key, []).append(candidate)
        self._survey.forget_all_but(entries.values())
        settled = (self._settle(group, rules, now_s, verify, entries) for group in groups.values())
        decisions = sorted(itertools.chain(*settled), key=_order)
        removals = (
            planned(entries[one.candidate.path], "; ".join(one.reasons)) for one in decisions if not one.keep
        )
        staying = tuple(one.candidate.path for one in decisions if one.keep)
        removal = Plan(store.place, tuple(removals), tuple(failures), staying)
        return RetentionPlan(tuple(decisions), removal)

    def staying(  # noqa: PLR0913 - as `plan`
        self,
        coming: Candidate,
        rules: RetentionArguments | None,
        *,
        now_s: float,
        prefix: str,
        extension: str,
        pinned: Mapping[str, str],
    ) -> list[Candidate]:
        """Decides which other checkpoints of a run stay once a new one is there, which none of them proves.

        Args:
            coming: the new one; what has its path goes.
            rules: what to keep; None: all, of which the nearest by their index are returned.
            now_s: the time, in seconds since 1970.
            prefix: of the run's checkpoints.
            extension: likewise, without its dot.
            pinned: as for `plan`.

        Returns:
            those that count, in order of their index.

        Raises:
            CheckpointNotFoundError, StorageError: as `plan`.
        """
        with open_store(os.path.dirname(coming.path), follows=False) as store:
            found = catalog.find_in(
                store, prefix=prefix, extension=extension, on_error=failing(store, []),
            )  # fmt: skip
            stay = _pins(store, pinned, recursive=False)
        entries = [one for one in found if one.name and one.name.kind is Kind.CHECKPOINT]
        entries = [one for one in entries if one.path != coming.path]
        if rules is None:
            split = sum((one.index or 0) < coming.index for one in entries)
            entries = entries[max(0, split - _NEAREST) : split + _NEAREST]
        measures = rules is not None and rules.max_total is not None
        known = (self._survey.candidate(one, coming.run_id, stay, measures=measures) for one in entries)
        counted = [one for one in known if not one.apart]
        if rules is None:
            return counted
        decisions = decide.decide([*counted, coming], rules, now_s=now_s)
        return [one.candidate for one in decisions if one.keep and one.candidate is not coming]

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
            if verify == "none" or all(one.keep for one in decisions):
                return decisions
            wrong = {}
            for one in reversed(decisions):
                path = one.candidate.path
                if one.candidate.apart or (verify == "all" and not one.keep):
                    continue
                if reason := self._survey.why_not_intact(entries[path]):
                    wrong[path] = reason
                elif verify == "newest":  # where it fails, the one before it would be the newest
                    break
            if not wrong:
                return decisions
            candidates = [replace(one, apart=wrong.get(one.path, one.apart)) for one in candidates]


def _order(one: Decision) -> tuple[str, int, str]:
    return os.path.dirname(one.candidate.path), one.candidate.index, one.candidate.path


def _pins(store: Store, pinned: Mapping[str, str], *, recursive: bool) -> dict[Identity, str]:
    """Why files stay, by what `Item.same` says of them."""
    links = catalog.link_targets(store, recursive=recursive)
    stay: dict[Identity, str] = {inode: f"{name} links to it" for inode, name in links.items()}
    return stay | {entry.item.same: why for path, why in pinned.items() if (entry := catalog.entry(path))}
