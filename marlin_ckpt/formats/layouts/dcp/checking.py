"""Reads the shards of a folder whole, and compares the checksums of every item in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from marlin_ckpt.errors import BadFileError, CorruptCheckpointError
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.layouts.dcp.faults import short_names
from marlin_ckpt.formats.layouts.dcp.saved import Item, Saved
from marlin_ckpt.formats.layouts.parts import listed
from marlin_ckpt.formats.values.window import Memory, Window
from marlin_ckpt.formats.zip.reader import read_saved as read_saved_zip
from marlin_ckpt.formats.zip.records import read_records
from marlin_ckpt.storage.threads import in_order

if TYPE_CHECKING:
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.zip.container import Container
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.storage.source import Source

_TOGETHER_BYTES = 4 << 20  # of small items, which are read in one call
_PIECE_BYTES = 1 << 20  # that is hashed at once
INTEGRITY = "integrity.json"
_SHA256 = "sha256"


class Checked(NamedTuple):
    """What was found by reading items.

    Attributes:
        wrong: what is damaged, one sentence for a file.
        names: the flat names of what is damaged.
        unsummed: how many items have no checksums, or are packed in a way that is not read here.
    """

    wrong: list[str]
    names: list[str]
    unsummed: int


class _Group(NamedTuple):
    file: str
    items: list[Item]

    @property
    def start(self) -> int:
        return self.items[0].place.start

    @property
    def size_bytes(self) -> int:
        last = self.items[-1].place
        return last.start + last.size_bytes - self.start


class _Bad(NamedTuple):
    item: Item
    why: str


def check(folder: Folder, saved: Saved, unreadable: set[Item], on_bytes: OnBytes) -> Checked:
    """Reads items whole.

    Args:
        folder: that they are in.
        saved: which they are, and where.
        unreadable: those that are known not to be whole.
        on_bytes: told, from several threads, how many more bytes have been read.

    Raises:
        StorageError: a shard cannot be read.
    """
    unsummed = 0
    bad: dict[str, list[_Bad]] = {}

    def read(group: _Group) -> tuple[str, list[_Bad], int]:
        with folder.open(group.file) as source:
            return group.file, *_read_group(source, group, on_bytes)

    for file, found, unsummed_there in in_order(read, _groups(saved, unreadable)):
        unsummed += unsummed_there
        bad.setdefault(file, []).extend(found)
    wrong, names = [], []
    for file, each in bad.items():
        if each:
            lost = short_names([one.item for one in each])
            wrong.append(f"{file}: {each[0].why}" + f" (also {listed(lost[1:])})" * (len(lost) > 1))
            names.extend(lost)
    return Checked(wrong, names, unsummed)


def _groups(saved: Saved, unreadable: set[Item]) -> Iterator[_Group]:
    """The items of each file as they follow each other, as many together as are read in one call."""
    for file, items in saved.files().items():
        group = _Group(file, [])
        for one in items:
            if one in unreadable:
                continue
            if group.items and one.place.start + one.place.size_bytes - group.start > _TOGETHER_BYTES:
                yield group
                group = _Group(file, [])
            group.items.append(one)
        if group.items:
            yield group


def _read_group(source: Source, group: _Group, on_bytes: OnBytes) -> tuple[list[_Bad], int]:
    if len(group.items) == 1:
        place = group.items[0].place
        windows: list[Source] = [Window(source, place.start, place.size_bytes)]
    else:
        data = memoryview(bytearray(group.size_bytes))
        if source.read_into(group.start, data) < len(data):
            raise CorruptCheckpointError("truncated while it was read", source.path)
        places = [(one.place.start - group.start, one.place.size_bytes) for one in group.items]
        windows = [Memory(source.path, data[start : start + size]) for start, size in places]
    bad, unsummed = [], 0
    for item, window in zip(group.items, windows, strict=True):
        if item.place.packing:
            unsummed += 1
            continue
        try:
            container = _structure(item, window)
            unsummed += not container.has_checksums
            why = _why_not(item, window, container, on_bytes)
        except BadFileError as error:
            why = f"{item.name[:100]}: {error.what}"
        if why:
            bad.append(_Bad(item, why))
    return bad, unsummed


def _structure(item: Item, window: Source) -> Container:
    """The structure of an item, whose tensor is what the metadata says; raises as `read_contents`."""
    if item.chunk is None:
        return read_saved_zip(window)
    contents = read_contents(window)
    tensor = contents.root.tensor
    stated = f"{item.dtype} {list(item.chunk.shape)}"
    if contents.container is None or tensor is None:
        raise CorruptCheckpointError(f"no tensor, but {stated} to the metadata", window.path)
    own = f"{tensor.dtype} {list(tensor.shape)}"
    if own != stated:
        raise CorruptCheckpointError(f"{own}, but {stated} to the metadata", window.path)
    if not tensor.is_inside:
        raise CorruptCheckpointError("its elements lie outside of its record", window.path)
    return contents.container


def _why_not(item: Item, window: Source, container: Container, on_bytes: OnBytes) -> str:
    if not container.has_checksums:
        return ""
    try:
        read_records(window, container, on_bytes=on_bytes)
    except CorruptCheckpointError:
        return f"the checksum of {item.name[:100]} does not hold"
    return ""


def differing_files(folder: Folder, digests: dict[str, str], on_bytes: OnBytes) -> list[str]:
    """The files whose SHA-256 is another than stated.

    Raises:
        StorageError: one cannot be read.
    """

    def read(name: str) -> tuple[str, str]:
        found = hashlib.sha256()
        scratch = memoryview(bytearray(_PIECE_BYTES))
        with folder.open(name) as source:
            at = 0
            while size := source.read_into(at, scratch):
                found.update(scratch[:size])
                on_bytes(size)
                at += size
        return name, found.hexdigest()

    return [name for name, digest in in_order(read, sorted(digests)) if digest != digests[name].lower()]


def stated_digests(folder: Folder, wrong: list[str]) -> dict[str, str] | None:
    """The SHA-256 of each file, as Megatron-Core writes them beside a checkpoint; None where it did not.

    Source: megatron/core/dist_checkpointing/integrity.py of 2026.
    """
    if INTEGRITY not in folder.items:
        return None
    found = folder.json_object(INTEGRITY, wrong)
    digests = found.get("files")
    if found.get("algorithm") != _SHA256 or not isinstance(digests, dict):
        if found:
            wrong.append(f"{INTEGRITY}: not the digests of files")
        return {}
    if not all(type(one) is str for one in digests.values()):
        wrong.append(f"{INTEGRITY}: not the digests of files")
        return {}
    return digests
