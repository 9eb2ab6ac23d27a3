"""Whether a file is intact: every byte accounted for, every checksum holding. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from marlin_ckpt.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    NotACheckpointError,
    UnknownFormatError,
)
from marlin_ckpt.formats.safetensors.header import read_header
from marlin_ckpt.formats.zip import reader
from marlin_ckpt.formats.zip.records import OnBytes, read_records
from marlin_ckpt.storage.local.files import open_source
from marlin_ckpt.storage.source import Source

# What verify looks for in a directory.
EXTENSIONS = ("bin", "ckpt", "pt", "pth", "safetensors")


class Status(StrEnum):
    """What can be said of a file."""

    INTACT = "intact"
    CORRUPT = "corrupt"
    UNVERIFIABLE = "unverifiable"
    NOT_A_CHECKPOINT = "not a checkpoint"


@dataclass(frozen=True)
class Verdict:
    """What was found out about one file.

    Attributes:
        path: the file.
        status: the verdict.
        reason: where it is corrupt, why it is unverifiable, what it is instead; "" where it is intact.
        tensors: the names of the tensors whose bytes are damaged, as far as the file still tells.
        size_bytes: its length.
    """

    path: str
    status: Status
    reason: str = ""
    tensors: tuple[str, ...] = ()
    size_bytes: int = 0


def verify(path: str, on_bytes: OnBytes = lambda _: None) -> Verdict:
    """Reads a whole file and compares it with all that it says of itself.

    Args:
        path: the file.
        on_bytes: told, from several threads, how many more bytes have been read.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    with open_source(path) as source:
        size = source.size_bytes
        try:
            reason = _why_unverifiable(source, on_bytes)
        except CorruptCheckpointError as error:
            return Verdict(path, Status.CORRUPT, error.what, error.tensors, size)
        except NotACheckpointError as error:
            return Verdict(path, Status.NOT_A_CHECKPOINT, error.what, (), size)
        except UnknownFormatError as error:
            return Verdict(path, Status.UNVERIFIABLE, error.what, (), size)
    return Verdict(path, Status.UNVERIFIABLE if reason else Status.INTACT, reason, (), size)


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


def _why_unverifiable(source: Source, on_bytes: OnBytes) -> str:
    """Checks what there is to check.

    Returns:
        why nothing more can be said of a file that is not known to be bad; "" where everything holds.

    Raises:
        BadFileError: it is bad.
    """
    kind = reader.what_it_is(source)
    if kind == "legacy":
        return "a legacy torch file, which has no checksums: it cannot be verified"
    if kind == "a safetensors file":
        read_header(source)
        return "the structure holds; safetensors files have no checksums"
    container = reader.read_container(source)
    if not reader.has_checksums(container):
        return "saved without checksums"
    read_records(source, container, on_bytes=on_bytes)
    return ""
