"""What is wrong with the metadata of a folder, by itself or by the lengths of the shards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from marlin_ckpt.formats.layouts.dcp.pieces import Chunk, Described
from marlin_ckpt.formats.layouts.dcp.saved import METADATA, SHARD, Item, Saved
from marlin_ckpt.formats.layouts.parts import listed

if TYPE_CHECKING:
    from marlin_ckpt.entries import Item as Member

_LONGEST = 100  # characters of a name that a message repeats
_MOST_COMPARED = 5_000_000  # pairs of chunks; a mesh of 1,000 by 1,000 ranks compares less


class Faults(NamedTuple):
    """What is wrong, one sentence each.

    Attributes:
        missing: what is not there.
        wrong: what is damaged or contradicts.
        notes: what is odd and harms nobody.
        names: the flat names of what is lost.
        unreadable: the items that are not whole in their files.
    """

    missing: list[str]
    wrong: list[str]
    notes: list[str]
    names: list[str]
    unreadable: set[Item]


def faults_in(saved: Saved, members: Mapping[str, Member]) -> Faults:
    """Compares the metadata with itself and with the names and lengths of the files.

    Args:
        saved: what the metadata says.
        members: the files of the folder, by their names.
    """
    found = Faults([], [], [], [], set())
    for file, items in saved.files().items():
        if file in members:
            _look_at_ranges(file, items, members[file].size_bytes, found)
        else:
            lost = short_names(items)
            found.missing.append(f"{file} is missing, which holds {listed(lost)}")
            found.names.extend(lost)
            found.unreadable.update(items)
    if saved.lost:
        lost = [name[:_LONGEST] for name in dict.fromkeys(saved.lost)]
        found.wrong.append(f"{METADATA} does not say where {listed(lost)} is")
        found.names.extend(lost)
    for name, tensor in saved.tensors.items():
        look_at_pieces(name, tensor, found, may_lack=saved.of_ranks)
    named = {one.place.file for one in saved.items}
    if spare := sorted(name for name in members if name.endswith(SHARD) and name not in named):
        found.notes.append(f"{METADATA} names nothing in {listed(spare)}: another save left it")
    return found


def short_names(items: Sequence[Item]) -> list[str]:
    """The names of items, each once, short enough for a message."""
    return list(dict.fromkeys(one.name[:_LONGEST] for one in items))


def _look_at_ranges(file: str, items: list[Item], size_bytes: int, found: Faults) -> None:
    outside = [one for one in items if one.place.start < 0 or one.place.size_bytes < 0]
    cut = [one for one in items if one.place.start + one.place.size_bytes > size_bytes]
    if cut:
        end = max(one.place.start + one.place.size_bytes for one in cut)
        text = f"{file} has {size_bytes:,} bytes in place of {end:,}: it lacks {listed(short_names(cut))}"
        found.wrong.append(text)
    if outside:
        found.wrong.append(f"{METADATA} places {listed(short_names(outside))} before the start of {file}")
    found.names.extend(short_names([*cut, *outside]))
    found.unreadable.update(cut, outside)
    before, end, last = "", 0, None
    for one in items:
        if one.place.size_bytes <= 0 or one.place == last:  # a tensor of several names is there once
            continue
        if one.place.start < end:
            found.wrong.append(
                f"{METADATA} places {before} and {one.name[:_LONGEST]} over each other in {file}"
            )
            found.names.append(one.name[:_LONGEST])
            return
        before, end, last = one.name[:_LONGEST], one.place.start + one.place.size_bytes, one.place
    if size_bytes > end and not cut:
        found.notes.append(f"{METADATA} names nothing in the last {size_bytes - end:,} bytes of {file}")


def look_at_pieces(name: str, tensor: Described, found: Faults, *, may_lack: bool) -> None:
    """Looks whether the pieces of a tensor make it up.

    Args:
        name: its flat name.
        tensor: as it is described.
        found: gets what is wrong with it.
        may_lack: whether a piece that lacks is a file that is missing.
    """
    short = name[:_LONGEST]
    chunks = [one for one in tensor.chunks if math.prod(one.shape)]
    if any(not _fits(one, tensor.shape) for one in tensor.chunks):
        found.wrong.append(f"a piece of {short} lies outside of it")
    elif overlap(chunks):
        found.wrong.append(f"pieces of {short} lie over each other")
    else:
        covered, whole = sum(math.prod(one.shape) for one in chunks), math.prod(tensor.shape)
        if covered == whole:
            return
        text = f"{short} lacks {whole - covered:,} of its {whole:,} elements"
        (found.missing if may_lack else found.wrong).append(text)
    found.names.append(short)


def _fits(one: Chunk, shape: tuple[int, ...]) -> bool:
    return len(one.offsets) == len(one.shape) == len(shape) and all(
        start + size <= whole for start, size, whole in zip(one.offsets, one.shape, shape, strict=True)
    )


def overlap(chunks: list[Chunk]) -> bool:
    """Whether any two chunks of a tensor share an element; True, too, if they are too many to find out."""
    if len(chunks) < 2:  # noqa: PLR2004
        return False
    # Along the dimension in which most of them start elsewhere, few are compared with each other.
    axis = max(
        range(len(chunks[0].shape)), key=lambda at: len({one.offsets[at] for one in chunks}), default=0
    )
    if not chunks[0].shape:
        return True
    compared = 0
    active: list[Chunk] = []
    for one in sorted(chunks, key=lambda chunk: chunk.offsets[axis]):
        active = [other for other in active if other.offsets[axis] + other.shape[axis] > one.offsets[axis]]
        compared += len(active)
        if compared > _MOST_COMPARED or any(_meet(one, other) for other in active):
            return True
        active.append(one)
    return False


def _meet(one: Chunk, other: Chunk) -> bool:
    sides = zip(one.offsets, one.shape, other.offsets, other.shape, strict=True)
    return all(start < begin + length and begin < start + size for start, size, begin, length in sides)


def files_named(data: bytes) -> Iterator[str]:
    """The names of shards in the bytes of a `.metadata`, which takes no time even where it is large."""
    at = data.find(SHARD.encode())
    while at >= 0:
        end = at + len(SHARD)
        for start in range(at, max(1, at - 200), -1):
            # A text of a pickle: its opcode, its length, its bytes.
            if data[start - 2 : start - 1] == b"\x8c" and data[start - 1] == end - start:
                yield data[start:end].decode("utf-8", "replace")
                break
        at = data.find(SHARD.encode(), end)
