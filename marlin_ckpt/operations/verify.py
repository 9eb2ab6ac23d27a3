"""Verifies files one after the other, and decides whether the verdicts are a failure of the command."""

import contextlib
import os
from collections.abc import Container, Iterable, Iterator, Sequence

from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.layouts import hub
from marlin_ckpt.formats.verdicts import Status, Verdict
from marlin_ckpt.formats.zip.records import OnBytes
from marlin_ckpt.operations.rescue import copies as physical
from marlin_ckpt.operations.rescue import remedies as rescue
from marlin_ckpt.operations.rescue.copies import Copies
from marlin_ckpt.operations.rescue.remedies import Remedy
from marlin_ckpt.storage.local.files import open_standard_input
from marlin_ckpt.storage.paths import exists, open_store, real

_MOST_NAMES = 3
_NOT_BAD = (Status.INTACT, Status.REPACKED, Status.UNVERIFIABLE)


def verify(
    entries: Iterable[Entry], on_bytes: OnBytes = lambda _: None, *, deep: bool = False
) -> Iterator[Verdict]:
    """Reads files whole, one after the other.

    Args:
        entries: the files; those that have been removed meanwhile are left out.
        on_bytes: called, from several threads, with each further number of bytes that were read.
        deep: also compare what lies in a cache of the Hugging Face hub with the digests that name it.

    Yields:
        the verdict on each.

    Raises:
        StorageError: a file cannot be read.
    """
    for entry in entries:
        with contextlib.suppress(CheckpointNotFoundError):
            yield verification.verify(entry, on_bytes, deep=deep)


def verify_standard_input(on_bytes: OnBytes = lambda _: None) -> Verdict:
    """Reads a file from standard input whole.

    Raises:
        StorageError: it cannot be read, or not be copied, which a pipe needs.
    """
    with open_standard_input() as source:
        return verification.verify_source(source, on_bytes)


def has_digest(entries: Iterable[Entry]) -> bool:
    """Whether any file lies in a cache of the Hugging Face hub, so that a digest names it."""
    files = ((one.place, file.name) for one in entries for file in one.members or (one.item,))
    return any(hub.digest(os.path.join(*file)) for file in files)


def nothing_in(named: Iterable[str], entries: Sequence[Entry]) -> list[CheckpointNotFoundError]:
    """An error for each directory that the user named and in which there is nothing to verify.

    Args:
        named: the paths that the user named.
        entries: the files that were found by them.
    """
    found = [os.path.join(real(one.path), "") for one in entries]
    errors = []
    for path in named:
        place = os.path.join(real(path), "")
        if not any(one.startswith(place) for one in found):
            with open_store(path) as store:
                listing = store.list()
            names = sorted((*listing.objects, *listing.folders))
            some = ", ".join(names[:_MOST_NAMES]) + ", ..." * (len(names) > _MOST_NAMES)
            hint = (
                f"it holds {some}: name a file, or look below it with --recursive" if names else "it is empty"
            )
            errors.append(CheckpointNotFoundError("nothing to verify in this directory", path, hint))
    return errors


def copies(entries: Iterable[Entry], found: Iterable[Verdict], named: Container[str]) -> Copies:
    """How many physical copies there are of what the checkpoints in directories share.

    Args:
        entries: the files.
        found: the verdicts on them; what is damaged counts as no copy.
        named: the paths that the user named. What else is in the directory of one, and may have a copy, is
            not known, so that these are left out.
    """
    sound = {one.path for one in found if one.status in _NOT_BAD}
    return physical.count(one for one in entries if one.path in sound and one.path not in named)


def remedies(found: Sequence[Verdict]) -> dict[str, Remedy]:
    """What to do about each file that is damaged or incomplete, by its path."""
    bad = [one.path for one in found if one.status.is_bad and exists(one.path)]
    others = [one.path for one in found if bad and one.status in _NOT_BAD and exists(one.path)]
    return rescue.remedies(bad, others)


def is_bad(found: Iterable[Verdict], named: Container[str], *, strict: bool = False) -> bool:
    """Whether any file is damaged, or is no checkpoint although the user named it.

    Args:
        found: the verdicts.
        named: the paths that the user named; other files in a directory need not be checkpoints.
        strict: what cannot be verified counts as bad.
    """
    return any(
        one.status.is_bad
        or (one.status is Status.NOT_A_CHECKPOINT and one.path in named)
        or (strict and one.status is Status.UNVERIFIABLE)
        for one in found
    )
