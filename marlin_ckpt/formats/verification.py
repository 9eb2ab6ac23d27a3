"""Whether a file is intact: every byte accounted for, every checksum holding. Without torch."""

import contextlib
import os

from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import BadFileError, CorruptCheckpointError
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.format import refuse_shard
from marlin_ckpt.formats.layouts import digests
from marlin_ckpt.formats.registry import open_format
from marlin_ckpt.formats.verdicts import Verdict, status_of
from marlin_ckpt.formats.zip.records import OnBytes
from marlin_ckpt.storage.local.files import again_if_stale
from marlin_ckpt.storage.paths import look, open_source, open_store
from marlin_ckpt.storage.source import Source
from marlin_ckpt.urls import is_url


def verify(what: Entry | str, on_bytes: OnBytes = lambda _: None, *, deep: bool = False) -> Verdict:
    """Reads a whole checkpoint and compares it with all that it says of itself.

    Args:
        what: the checkpoint, or the path of a file.
        on_bytes: told, from several threads, how many more bytes have been read.
        deep: also compare what lies in a cache of the Hugging Face hub with the digests that name it.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    try:
        return examine(what, on_bytes, deep=deep)
    except BadFileError as error:
        tensors = error.tensors if isinstance(error, CorruptCheckpointError) else ()
        path = what.path if isinstance(what, Entry) else what
        return Verdict(path, status_of(error), error.what, tensors, _size_bytes(path), error.hint)


def verify_source(source: Source, on_bytes: OnBytes = lambda _: None) -> Verdict:
    """Reads a whole file that is open, and compares it with all that it says of itself.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return _examine_source(source, on_bytes)
    except BadFileError as error:
        tensors = error.tensors if isinstance(error, CorruptCheckpointError) else ()
        return Verdict(source.path, status_of(error), error.what, tensors, source.size_bytes, error.hint)


def _examine_source(source: Source, on_bytes: OnBytes) -> Verdict:
    found = open_format(source).verify(source, on_bytes)
    return Verdict(source.path, found.status, found.reason, (), source.size_bytes)


def examine(what: Entry | str, on_bytes: OnBytes = lambda _: None, *, deep: bool = False) -> Verdict:
    """The verdict on a checkpoint, as `verify`; of a file that is bad, the error that says why.

    Raises:
        BadFileError: it is a file whose content is bad.
        CheckpointNotFoundError, StorageError: as `verify` raises them.
    """
    if isinstance(what, Entry) and (layout := layouts.of(what)):
        with open_store(what.place or os.curdir) as store:
            return (layout.deep if deep else layout.verify)(store, what, on_bytes)
    path = what.path if isinstance(what, Entry) else what

    def read() -> Verdict:
        with open_source(path) as source:
            refuse_shard(source)
            verdict = _examine_source(source, on_bytes)
            return digests.verify_file(source, verdict) if deep else verdict

    return again_if_stale(read)


def _size_bytes(path: str) -> int:
    with contextlib.suppress(OSError):
        item = look(path) if is_url(path) else None
        return item.size_bytes if item else os.stat(path).st_size
    return 0
