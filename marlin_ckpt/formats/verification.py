"""Whether a file is intact: every byte accounted for, every checksum holding. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    NotACheckpointError,
    UnknownFormatError,
    UnsafeCheckpointError,
)
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.registry import open_format
from marlin_ckpt.formats.verdicts import Status, Verdict
from marlin_ckpt.formats.zip.records import OnBytes
from marlin_ckpt.storage.local.files import open_source
from marlin_ckpt.storage.local.store import open_store

# What verify looks for in a directory.
EXTENSIONS = ("bin", "ckpt", "pt", "pth", "safetensors")


def verify(what: Entry | str, on_bytes: OnBytes = lambda _: None) -> Verdict:
    """Reads a whole checkpoint and compares it with all that it says of itself.

    Args:
        what: the checkpoint, or the path of a file.
        on_bytes: told, from several threads, how many more bytes have been read.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    if isinstance(what, Entry) and (layout := layouts.of(what)):
        with open_store(what.place) as store:
            return layout.verify(store, what, on_bytes)
    path = what.path if isinstance(what, Entry) else what
    with open_source(path) as source:
        size = source.size_bytes
        try:
            found = open_format(source).verify(source, on_bytes)
        except CorruptCheckpointError as error:
            return Verdict(path, Status.CORRUPT, error.what, error.tensors, size, error.hint)
        except (NotACheckpointError, UnsafeCheckpointError) as error:
            return Verdict(path, Status.NOT_A_CHECKPOINT, error.what, (), size, error.hint)
        except UnknownFormatError as error:
            return Verdict(path, Status.UNVERIFIABLE, error.what, (), size, error.hint)
    return Verdict(path, found.status, found.reason, (), size)


def newest_intact(
    candidates: Callable[[], Iterable[str]], on_skip: Callable[[Verdict], None] = lambda _: None
) -> str:
    """The first of some files, newest first, that verifies.

    Args:
        candidates: lists the files; called again where one has vanished meanwhile, since a newer one may have
            come in its place.
        on_skip: told of each file that does not verify, once.

    Returns:
        its path, or "" where none does. A file without checksums does not: nothing says that it is whole.
    """
    skipped: set[str] = set()
    has_vanished = True
    while has_vanished:
        has_vanished = False
        for path in candidates():
            if path in skipped:
                continue
            try:
                verdict = verify(path)
            except CheckpointNotFoundError:
                skipped.add(path)  # a link that leads nowhere would be listed for ever
                has_vanished = True
                break
            if verdict.status is Status.INTACT:
                return path
            skipped.add(path)
            on_skip(verdict)
    return ""
