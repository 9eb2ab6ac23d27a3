"""Writes a sharded checkpoint, of ours or of torch's own, as one file, tensor by tensor."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from marlin_ckpt.directory import leftovers
from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.layouts.dcp.saved import Saved
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle.reader import unpickling
from marlin_ckpt.formats.pickle.stubs import Globals
from marlin_ckpt.formats.shards.nesting import KINDS, OWN, Kinds, merged, unflatten
from marlin_ckpt.formats.statistics import Kept
from marlin_ckpt.formats.values.checked import Checked
from marlin_ckpt.formats.values.tensor import TensorInfo
from marlin_ckpt.formats.values.window import Window
from marlin_ckpt.formats.zip.records import read_record
from marlin_ckpt.formats.zip.state_dict import tensor_stub
from marlin_ckpt.formats.zip.writer import write_state
from marlin_ckpt.operations.whole.stubs import opened, pickled, read_value
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.target import Target


class Whole(NamedTuple):
    """The state of a sharded checkpoint, to be written.

    Attributes:
        state: what is pickled.
        tensors: whose data is stored, by the keys of their records.
        ties: names of tensors that are those of earlier names.
        names: how many tensors there are by name.
        values: the data of storages in values, by their keys.
    """

    state: Any
    tensors: dict[str, TensorInfo]
    ties: dict[str, str]
    names: int
    values: dict[str, bytes]


def whole_of(checked: Checked, saved: Saved) -> Whole:
    """Puts the state of a folder together; reads its values, and no tensor.

    Raises:
        UnsavableStateError: a dtype makes no plain tensor.
        CorruptCheckpointError: its parts do not fit together.
        BadFileError, StorageError: a value cannot be read.
    """
    known = {_places(one): one for one in checked.contents.tensors if one.pieces}
    leaves, numbers, globals_ = dict[str, Any](), itertools.count(), Globals()
    found = Whole(None, {}, {}, len(saved.tensors), {})
    first: dict[tuple[object, ...], str] = {}
    kinds: list[Kinds] = []
    for name in dict.fromkeys((*saved.paths, *saved.tensors, *saved.values)):
        if name in saved.tensors:
            places = saved.places_of(name)
            one = known[places]
            tied = first.setdefault(places, name) if one.numel else name
            if tied == name:
                key = str(next(numbers))
                found.tensors[key] = one
                leaves[name] = tensor_stub(globals_, one.dtype, one.shape, key, name)
            else:
                found.ties[name] = tied
                leaves[name] = leaves[tied]
        elif name in saved.values:
            value = _value(checked, saved, name, numbers, found.values)
            if name.startswith(KINDS):
                kinds.append(value)
            elif not name.startswith(OWN):
                leaves[name] = value
    with unpickling(checked.contents.path):  # of kinds that nobody has written
        state = unflatten(leaves, saved.paths, merged(opened(kinds, saved.budget)))
    return found._replace(state=state)


def _places(tensor: TensorInfo) -> tuple[object, ...]:
    """As `Saved.places_of`."""
    return (tensor.dtype, tensor.shape, tuple((piece.file, piece.start) for piece in tensor.pieces))


def _value(
    checked: Checked, saved: Saved, name: str, numbers: Iterator[int], values: dict[str, bytes]
) -> Any:
    place = saved.values[name].place
    if place.packing:
        what = f"{name} went through {', '.join(place.packing)}, which is not read here"
        raise CorruptCheckpointError(what, checked.contents.path)
    with checked.open_file(place.file) as source:
        window = Window(source, place.start, place.size_bytes)
        with unpickling(source.path):
            value, keys, container = read_value(window, numbers)
        records = container.by_label
        for own, key in keys.items():
            if f"data/{own}" in records:
                values[key] = read_record(window, container, records[f"data/{own}"])
    return value


def write_file(  # noqa: PLR0913 - keywords
    checked: Checked,
    whole: Whole,
    manifest: Manifest | None,
    path: str,
    *,
    overwrite: bool,
    statistics: bytes = b"",
) -> int:
    """Writes the file, whole and durable, or not at all; one tensor at a time is in memory.

    Args:
        checked: that the tensors are read from.
        whole: what is written.
        manifest: without its records; None leaves it out.
        path: of the file.
        overwrite: whether a file that has the name is replaced.
        statistics: the record of those that were saved with the checkpoint.

    Returns:
        how many bytes the elements of its tensors take.

    Raises:
        UnsavableStateError: its state cannot be pickled.
        BadFileError, StorageError: a tensor cannot be read, or the file not be written.
    """
    pickle = pickled(whole.state)

    def data() -> Iterator[tuple[str, bytes | memoryview]]:
        for key in sorted((*whole.tensors, *whole.values), key=int):
            if key in whole.values:
                yield f"data/{key}", whole.values[key]
            else:
                bits = checked.bits(whole.tensors[key])
                little = bits.astype(bits.dtype.newbyteorder("<"), copy=False)
                yield f"data/{key}", little.view(np.uint8).data

    def fill(target: Target) -> None:
        write_state(target, pickle, b"little", data(), manifest, (Kept(statistics),))

    leftovers.sweep_beside(path)
    size_bytes = sum(one.size_bytes for one in whole.tensors.values())
    paths.publish(path, fill, size_bytes, overwrite=overwrite)
    return size_bytes
