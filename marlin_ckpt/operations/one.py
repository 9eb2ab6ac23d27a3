"""One checkpoint, by its path, be it a file or a folder: what the package exports of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from marlin_ckpt.directory import catalog
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CorruptCheckpointError, MarlinError
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import layouts, statistics
from marlin_ckpt.formats.content.contents import Contents, read_contents
from marlin_ckpt.formats.format import Format, format_of, refuse_shard
from marlin_ckpt.formats.layouts import sharded
from marlin_ckpt.formats.statistics import Columns, Statistics
from marlin_ckpt.formats.verdicts import Verdict
from marlin_ckpt.storage.local.files import (
    STANDARD_INPUT,
    again_if_stale,
    open_standard_input,
)
from marlin_ckpt.storage.paths import is_folder, open_source, open_store
from marlin_ckpt.storage.source import Source

if TYPE_CHECKING:
    from marlin_ckpt.formats.values.checked import Checked


def verify(path: PathText) -> Verdict:
    """Reads a whole checkpoint and checks every checksum, as `marlin-ckpt verify` does.

    No code of the file is run, and torch is not imported.

    Args:
        path: a file, or a folder that is one checkpoint.

    Returns:
        the verdict. A damaged file, or one that is no checkpoint, is a verdict and no exception.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: the file cannot be read.
        MarlinError: the path is a directory that is not one checkpoint.
    """
    from marlin_ckpt.formats import verification  # noqa: PLC0415 - `show` goes without

    text = os.fspath(path)
    if found := catalog.entry(text):
        return verification.verify(found)
    if is_folder(text):
        hint = f"verify each of its checkpoints; `marlin-ckpt verify {text}` does"
        raise MarlinError("a directory, not one checkpoint", text, hint)
    return verification.verify(text)


def inspect(path: PathText) -> Contents:
    """Reads what a checkpoint holds without the data of its tensors, as `marlin-ckpt show` does.

    No code of the file is run, and torch is not imported.

    Args:
        path: a file that `torch.save`, safetensors or marlin-ckpt wrote, or a folder that is one checkpoint.

    Returns:
        the tree of its values, its tensors, its manifest, and what loading it would import.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: the file cannot be read, or the path is a directory that is not one checkpoint.
        CorruptCheckpointError: bytes are missing or changed.
        NotACheckpointError: the file is something else.
        UnknownFormatError: a newer marlin-ckpt wrote the file.
        UnsafeCheckpointError: reading it would take more time or memory than a file of this length needs.
    """
    text = os.fspath(path)
    return read(os.path.join(os.curdir, text) if text == STANDARD_INPUT else text)


def read_statistics(path: PathText) -> dict[str, Statistics] | None:
    """Reads the statistics of tensors that were saved with a checkpoint, and not its tensors.

    Nothing else of the file is checked. torch is not imported.

    Args:
        path: a file, or a sharded checkpoint.

    Returns:
        the statistics by the names of the tensors; None where none were saved, as in files and folders of
        other tools, and without `statistics`.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: the file cannot be read.
        CorruptCheckpointError: the statistics are damaged.
        UnsafeCheckpointError: reading them would take far more memory than statistics of their length.
    """
    found = statistics_of(os.fspath(path))
    return None if found is None else found.by_name()


def statistics_of(path: str, entry: Entry | None = None) -> Columns | None:
    """As `read_statistics`, column by column.

    Args:
        path: of the checkpoint.
        entry: what has the path, where that is known.
    """
    if entry is None and is_folder(path):
        entry = catalog.entry(path)
        if entry is None:
            return None

    def look() -> Columns | None:
        if entry is not None and entry.layout:
            with open_store(entry.place or os.curdir) as store:
                return sharded.statistics_of(store, entry) if entry.layout == sharded.NAME else None
        with open_source(path) as source:
            return statistics.read(source) if format_of(source) is Format.ZIP else None

    return again_if_stale(look)


def read(path: str) -> Contents:
    """What a checkpoint holds, without the data of its tensors; `-` is the standard input.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: it cannot be read, or is a directory that is not one checkpoint.
        BadFileError: it is damaged or something else; as `read_contents` raises it.
    """
    if path == STANDARD_INPUT:
        with open_standard_input() as source:
            return read_contents(source)
    entry = _folder(path)

    def look() -> Contents:
        if entry is None:
            with open_source(path) as source:
                refuse_shard(source)
                return read_contents(source)
        with open_store(entry.place or os.curdir) as store:
            return _layout(entry).contents(store, entry)

    with _with_remedy(path):
        return again_if_stale(look)


@contextlib.contextmanager
def _with_remedy(path: str) -> Iterator[None]:
    """Has the error that a checkpoint is damaged name the next command."""
    try:
        yield
    except CorruptCheckpointError as error:
        if not error.hint and f"{error.where}/".startswith(f"{path.rstrip('/')}/"):
            from marlin_ckpt.operations.rescue.remedies import remedy  # noqa: PLC0415 - whole files go without

            error.hint = str(remedy(path))
        raise


@contextlib.contextmanager
def opened(path: str) -> Iterator[Checked]:
    """Opens a checkpoint to read its tensors; `-` is the standard input.

    Raises:
        CorruptCheckpointError: a part of it is missing, beside what `read` raises.
    """
    from marlin_ckpt.formats.layouts.members import Folder  # noqa: PLC0415 - files go without
    from marlin_ckpt.formats.values.checked import CheckedFile  # noqa: PLC0415 - numpy, which `show` goes without
    from marlin_ckpt.formats.values.sharded import CheckedFolder  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        if path == STANDARD_INPUT:
            source: Source = stack.enter_context(open_standard_input())
            yield CheckedFile(source, read_contents(source))
            return
        stack.enter_context(_with_remedy(path))
        entry = _folder(path)
        if entry is None:
            source = stack.enter_context(open_source(path))
            refuse_shard(source)
            yield CheckedFile(source, read_contents(source))
            return
        store = stack.enter_context(open_store(entry.place or os.curdir))
        contents = _layout(entry).contents(store, entry)
        if contents.gaps:
            hint = f"`marlin-ckpt verify {path}` says all that is wrong"
            raise CorruptCheckpointError(f"incomplete: {contents.gaps[0]}", path, hint)
        folder = Folder(store, entry)
        yield CheckedFolder(contents, folder.open, stack, tuple(folder.items))


def _folder(path: str) -> Entry | None:
    """The folder that is one checkpoint; None for a file, and for a directory that is none."""
    return catalog.entry(path) if is_folder(path) else None


def _layout(entry: Entry) -> layouts.Layout:
    found = layouts.of(entry)
    if found is None:
        raise MarlinError("not a folder", entry.path)
    return found
