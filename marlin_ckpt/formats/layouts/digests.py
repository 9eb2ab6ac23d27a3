"""Compares files with the digests that name them: the blobs in the cache of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from marlin_ckpt.formats.layouts import hub
from marlin_ckpt.formats.layouts.members import Folder
from marlin_ckpt.formats.layouts.parts import listed
from marlin_ckpt.formats.verdicts import Status, Verdict
from marlin_ckpt.storage.threads import in_order

if TYPE_CHECKING:
    from marlin_ckpt.entries import Entry
    from marlin_ckpt.formats.layouts.layout import Layout
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.storage.source import Source
    from marlin_ckpt.storage.store import Store

_PIECE_BYTES = 1 << 20
_SHA256_LENGTH = 64  # in hexadecimal; the other one is that of git's SHA-1


def verify(layout: Layout, store: Store, entry: Entry, on_bytes: OnBytes) -> Verdict:
    """Verifies a folder, and compares its files with their digests; see `Layout.deep`."""
    folder = Folder(store, entry)
    digests = {name: found for name in folder.items if (found := hub.digest(os.path.join(folder.path, name)))}
    is_whole = len(digests) == len(folder.items)
    if bad := differing(digests, folder.open, on_bytes if is_whole else lambda _: None):
        return _differs(entry.path, entry.path, bad, entry.size_bytes)
    if not is_whole:
        verdict = layout.verify(store, entry, on_bytes)
        if digests or verdict.status is not Status.UNVERIFIABLE:
            return verdict
        return verdict._replace(reason=f"{verdict.reason}; none of them has a digest in a cache of the hub")
    looked_at = layout.inspect(store, entry)
    if looked_at.status is not Status.COMPLETE:
        status = looked_at.status or Status.UNVERIFIABLE
        return Verdict(entry.path, status, looked_at.reason, (), entry.size_bytes)
    gaps = layout.contents(store, entry).gaps
    status = Status.CORRUPT if gaps else Status.INTACT
    return Verdict(entry.path, status, "; ".join(gaps), (), entry.size_bytes)


def verify_file(source: Source, found: Verdict) -> Verdict:
    """Compares a file of a snapshot with its digest.

    Args:
        source: the file.
        found: what is said of it otherwise; it stands where the file has no digest.
    """
    digest = hub.digest(source.path)
    if not digest or found.status.is_bad:
        return found
    if differing({"": digest}, lambda _: contextlib.nullcontext(source), lambda _: None):
        folder, name = os.path.split(source.path)
        return _differs(source.path, folder, [name], found.size_bytes)
    return found._replace(status=Status.INTACT, reason="") if found.status is Status.UNVERIFIABLE else found


def differing(
    digests: Mapping[str, str], opening: Callable[[str], AbstractContextManager[Source]], on_bytes: OnBytes
) -> list[str]:
    """The names of the files that do not have their digests.

    Args:
        digests: by the files' names; a SHA-256, or the SHA-1 of git, which is shorter.
        opening: opens a file by its name.
        on_bytes: told, from several threads, how many more bytes have been read.

    Raises:
        BadFileError, StorageError: as `opening` raises them, and reading does.
    """

    def holds(name: str) -> tuple[str, bool]:
        with opening(name) as source:
            return name, _digest(source, len(digests[name]), on_bytes) == digests[name]

    return [name for name, is_held in in_order(holds, digests) if not is_held]


def _digest(source: Source, length: int, on_bytes: OnBytes) -> str:
    made = hashlib.sha256() if length == _SHA256_LENGTH else hashlib.sha1(usedforsecurity=False)
    if length != _SHA256_LENGTH:
        made.update(b"blob %d\0" % source.size_bytes)
    memory = memoryview(bytearray(_PIECE_BYTES))
    for start in range(0, source.size_bytes, _PIECE_BYTES):
        read = source.read_into(start, memory[: min(_PIECE_BYTES, source.size_bytes - start)])
        made.update(memory[:read])
        on_bytes(read)
    return made.hexdigest()


def _differs(path: str, folder: str, names: list[str], size_bytes: int) -> Verdict:
    reason = f"the digest by which the hub names it does not hold: {listed(names)}"
    typed = hub.fetching(os.path.abspath(folder))
    hint = f"`{typed} --force-download` fetches it again" if typed else ""
    return Verdict(path, Status.CORRUPT, reason, (), size_bytes, hint)
