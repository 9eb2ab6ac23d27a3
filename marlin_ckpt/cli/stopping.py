"""What a command that is stopped by a signal says of the work that it has done."""

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Sequence
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import count, some
from marlin_ckpt.escaping import escape
from marlin_ckpt.urls import is_url

_VERBS = {128 + signal.SIGINT: "interrupted", 128 + signal.SIGTERM: "terminated"}


def says(words: Callable[[], str], document_of: Callable[[], dict[str, Any]] = dict) -> None:
    """Takes what is to be said, and what the document holds, if a signal stops the command from now on.

    Args:
        words: makes the end of the line `interrupted: 3 of 10 files verified`, of harmless text.
        document_of: makes the document of what was done; with `--json` the error is added to it.
    """
    output.documents.when_stopped = words
    output.so_far(document_of)


def writes(path: str, cache: str = "") -> None:
    """Says for a command that writes one file or folder, whole or not at all, whether it has done so.

    Args:
        path: what it writes.
        cache: a file that keeps what the command has read so far, also where it is stopped; "": none does.
    """
    before, kept_before = _identity(path), _identity(cache)

    def words() -> str:
        if is_url(path):  # to ask the store may take long, and whoever stops a command waits for it
            return f"`marlin-ckpt list {escape(os.path.dirname(path))}` says whether it is written"
        if _identity(path) != before:
            return f"{escape(path)} is written"
        is_kept = cache and _identity(cache) != kept_before
        kept = "; what was read so far is kept, so that the next time is shorter"
        return "nothing was written" if not is_kept else f"{escape(path)} was not written{kept}"

    says(words)


def _identity(path: str) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError, ValueError):  # ValueError: a null byte in the name
        found = os.lstat(path.rstrip("/") or path)
        return found.st_dev, found.st_ino, found.st_mtime_ns
    return None


def progress(done: int, total: int, noun: str, verb: str, bad: Sequence[str], adjective: str) -> str:
    """How far a check has come: `3 of 10 files verified, none damaged so far`.

    Args:
        done: how many are done.
        total: of how many.
        noun: for one of them.
        verb: what was done to them.
        bad: the names of those that were found to be so.
        adjective: how they are.
    """
    found = f"{len(bad)} {adjective} so far: {some(bad)}" if bad else f"none {adjective} so far"
    return f"{done} of {count(total, noun)} {verb}, {found}"


def removed(done: Collection[object], verb: str = "removed") -> str:
    """How many files are gone: `2 files were removed`."""
    if not done:
        return f"nothing was {verb}"
    return f"{count(len(done), 'file')} {'was' if len(done) == 1 else 'were'} {verb}"


def line(exit_code: int) -> str:
    """The line for a command that a signal has stopped; "" where it has nothing to say."""
    words = output.documents.when_stopped
    return f"{_VERBS[exit_code]}: {words()}" if words is not None and exit_code in _VERBS else ""
