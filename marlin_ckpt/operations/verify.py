"""Verifies files one after the other, and decides whether the verdicts are a failure of the command."""

import contextlib
from collections.abc import Container, Iterable

from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.verdicts import Status, Verdict
from marlin_ckpt.formats.zip.records import OnBytes


def verify(entries: Iterable[Entry], on_bytes: OnBytes = lambda _: None) -> list[Verdict]:
    """Reads files whole, one after the other.

    Args:
        entries: the files; those that have been removed meanwhile are left out.
        on_bytes: called, from several threads, with each further number of bytes that were read.

    Raises:
        StorageError: a file cannot be read.
    """
    found = []
    for entry in entries:
        with contextlib.suppress(CheckpointNotFoundError):
            found.append(verification.verify(entry, on_bytes))
    return found


def is_bad(found: Iterable[Verdict], named: Container[str]) -> bool:
    """Whether any file is damaged, or is no checkpoint although the user named it.

    Args:
        found: the verdicts.
        named: the paths that the user named; other files in a directory need not be checkpoints.
    """
    return any(
        one.status.is_bad or (one.status is Status.NOT_A_CHECKPOINT and one.path in named) for one in found
    )
