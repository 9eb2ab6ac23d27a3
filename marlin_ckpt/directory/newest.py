"""The one search for the newest checkpoint that is good, and the one decision on what it passes over."""

import errno
import logging
import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from marlin_ckpt.directory.catalog import find
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import (
    BadFileError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    MarlinError,
    NotACheckpointError,
    StorageError,
    drop_frames,
)
from marlin_ckpt.formats.content.payload import other_content
from marlin_ckpt.formats.verdicts import Status, Verdict, status_of
from marlin_ckpt.formats.verification import examine

Found = TypeVar("Found")
Candidates = Callable[[], Iterable[Entry]]
OnPassedOver = Callable[[str, str], None]


def is_passed_over(error: MarlinError) -> bool:
    """Whether a search goes on to an older checkpoint where the newest fails with this error.

    It does where the file is bad: damaged, incomplete, something else, on a bad block of the disk; and not
    where the file may be as good as any and the fault is in what surrounds it: a class that is missing, a
    newer format, permissions, memory. An older checkpoint would then be a wrong answer.
    """
    if isinstance(error, StorageError):
        return error.errno == errno.EIO
    return isinstance(error, (CorruptCheckpointError, NotACheckpointError))


def newest(
    candidates: Candidates,
    attempt: Callable[[Entry], Found | None],
    on_bad: Callable[[MarlinError], None] = lambda _: None,
) -> Found | None:
    """Tries checkpoints, newest first, until one is good.

    Args:
        candidates: lists them; called again where one has vanished meanwhile, since a newer one may have
            come in its place.
        attempt: tries a checkpoint once. It returns None where it is to be passed over, and raises
            CheckpointNotFoundError where it has vanished; what else it raises ends the search, unless
            `is_passed_over` says that it does not.
        on_bad: told of each error for which a checkpoint is passed over.

    Returns:
        what `attempt` returned of the first good one; None where there is none.
    """
    tried: set[str] = set()
    has_vanished = True
    while has_vanished:
        has_vanished = False
        for entry in candidates():
            if entry.path in tried:
                continue
            tried.add(
                entry.path
            )  # also where it vanishes: a link that leads nowhere would be listed for ever
            try:
                found = attempt(entry)
            except CheckpointNotFoundError:
                has_vanished = True
                break
            except MarlinError as error:
                if not is_passed_over(error):
                    raise
                drop_frames(error)  # which hold the state of this file while the next one is read
                on_bad(error)
                continue
            if found is not None:
                return found
    return None


def newest_loaded(
    candidates: Candidates,
    attempt: Callable[[Entry], Found],
    logger: logging.Logger,
    on_passed_over: OnPassedOver = lambda *_: None,
) -> Found | None:
    """Loads the first of some checkpoints, newest first, that can be loaded; what it passes over is logged.

    Args:
        candidates: as for `newest`.
        attempt: loads a checkpoint.
        logger: is told of each that is passed over, with the reason.
        on_passed_over: as well, with its path and the reason.

    Returns:
        what `attempt` returned, which must not be None; None where there are no checkpoints.

    Raises:
        MarlinError: the search cannot go on; or all were passed over: the newest one's error.
    """
    passed_over: list[MarlinError] = []

    def on_bad(error: MarlinError) -> None:
        passed_over.append(error)
        logger.warning("Passed over: %s", error)
        on_passed_over(error.where, error.what)

    found = newest(candidates, attempt, on_bad)
    if found is None and passed_over:
        first = passed_over[0]
        first.hint = first.hint or f"{none_is_intact(len(passed_over))}: {rescue(first.where)}"
        try:
            raise first
        finally:
            del first, passed_over  # the traceback holds this frame
    return found


def none_is_intact(count: int) -> str:
    """That all of so many checkpoints are bad, in words."""
    return "the only checkpoint is not intact" if count == 1 else f"none of {count} checkpoints is intact"


def rescue(path: str) -> str:
    """The hint where nothing but bad checkpoints is left, of which this is the newest."""
    verify = f"`marlin-ckpt verify {os.path.dirname(path) or os.curdir}` says what is wrong with each"
    return f"{verify}, `marlin-ckpt salvage {path} --output FILE` takes out what is left"


def newest_intact(candidates: Candidates, on_passed_over: OnPassedOver = lambda *_: None) -> Entry | None:
    """The first of some checkpoints, newest first, that is intact or soundly repacked.

    Args:
        candidates: as for `newest`.
        on_passed_over: called with the path of each other one, and the reason: files without checksums are
            among them, since nothing proves their data.

    Raises:
        MarlinError: the search cannot go on; see `is_passed_over`.
    """
    return _newest_of(candidates, _unproven, on_passed_over)


def newest_beside(path: str, on_passed_over: OnPassedOver = lambda *_: None) -> str | None:
    """The path of the newest intact file beside one that is damaged, of the same extension, or None.

    The times of change decide, since names such as `last.ckpt` do not say when they were written.

    Args:
        path: of the damaged one.
        on_passed_over: as for `newest_intact`.
    """
    directory, name = os.path.split(path)

    def candidates() -> list[Entry]:
        found = find(directory or os.curdir, extension=name.rpartition(".")[2])
        return sorted((one for one in found if one.path != path), key=lambda one: -one.modified_ns)

    try:
        intact = newest_intact(candidates, on_passed_over)
    except MarlinError:  # the damage counts, whatever ends the search
        return None
    return None if intact is None else intact.path


def newest_loadable(candidates: Candidates, on_passed_over: OnPassedOver = lambda *_: None) -> Entry | None:
    """As `newest_intact`, but of the checkpoints of ours alone, also in a format that has no checksums."""

    def judge(entry: Entry, verdict: Verdict) -> str:
        if verdict.status is not Status.UNVERIFIABLE and (why := _unproven(entry, verdict)):
            return why
        other = other_content(entry)
        return f"{Status.NOT_A_CHECKPOINT}: {other}" if other else ""

    return _newest_of(candidates, judge, on_passed_over)


def _unproven(_entry: Entry, verdict: Verdict) -> str:
    return "" if verdict.status.is_sound else f"{verdict.status}: {verdict.reason}"


def _newest_of(
    candidates: Candidates, judge: Callable[[Entry, Verdict], str], on_passed_over: OnPassedOver
) -> Entry | None:
    """The first checkpoint against which nothing speaks; `judge` says what does, "" for nothing."""

    def attempt(entry: Entry) -> Entry | None:
        if why := judge(entry, examine(entry)):
            on_passed_over(entry.path, why)
            return None
        return entry

    def on_bad(error: MarlinError) -> None:
        status = f"{status_of(error)}: " if isinstance(error, BadFileError) else ""
        on_passed_over(error.where, status + error.what)

    return newest(candidates, attempt, on_bad)
