"""Turns files into states: into new tensors, or straight into the memory of live ones."""

import io
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from marlin_ckpt.errors import (
    MarlinError,
    NotACheckpointError,
    UnsafeCheckpointError,
)
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.budget import ExcessError
from marlin_ckpt.formats.format import Format, format_of
from marlin_ckpt.formats.legacy import read_legacy
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle.reader import unpickling as structure_of
from marlin_ckpt.formats.torch import unpickling
from marlin_ckpt.formats.torch.failures import OWN, is_no_memory, no_memory, told_as_ours, unplaced
from marlin_ckpt.formats.torch.placement import FindPairs, MapLocation, Storages
from marlin_ckpt.formats.torch.plain import NotPlainError, PlainUnpickler
from marlin_ckpt.formats.torch.weights import read_weights
from marlin_ckpt.formats.zip import reader
from marlin_ckpt.formats.zip.container import Container
from marlin_ckpt.formats.zip.records import read_record, read_records
from marlin_ckpt.storage.local.files import again_if_stale
from marlin_ckpt.storage.paths import open_source
from marlin_ckpt.storage.source import Source, SourceFile


class _How(NamedTuple):
    """How a file is to be read.

    Attributes:
        weights_only: import nothing beyond plain values and tensors.
        log: is told what a reader should know.
        pairs: see `read_file`.
        has_weights: whether a safetensors file will do.
        map_location: see `read_any`.
    """

    weights_only: bool
    log: Callable[[str], None]
    pairs: FindPairs
    has_weights: bool = False
    map_location: MapLocation = "cpu"

    @property
    def is_to_cpu(self) -> bool:
        return self.map_location in ("cpu", torch.device("cpu"))


def read_file(
    path: PathText, *, weights_only: bool, log: Callable[[str], None], pairs: FindPairs = lambda *_: ()
) -> tuple[Any, Manifest | None]:
    """Reads a file to the CPU, checking its structure and every checksum.

    Args:
        path: a file by `write_file` or `torch.save`.
        weights_only: import nothing beyond plain values and tensors.
        log: is told what a reader should know: that a file cannot be verified.
        pairs: is given the state and the manifest before a byte of any tensor is read, and returns tensors
            of the state, each with a live one that it may share its memory with from now on. Where shape,
            dtype and strides agree the bytes are read there; they are lost even if a CRC turns out wrong.
            It may refuse the state by raising a `MarlinError`.

    Returns:
        the state, and the manifest if the file has one.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: it cannot be read.
        NotACheckpointError: it is something else.
        UnknownFormatError: a newer marlin-ckpt wrote it.
        CorruptCheckpointError: bytes are missing or changed.
        UnsafeCheckpointError: it needs more than `weights_only` allows; nothing of it was executed.
        UnloadableStateError: what it needs beyond that cannot be imported here, or raises.
        MarlinError: what `pairs` raised.
    """
    return _read_whole(path, _How(weights_only, log, pairs))


def read_any(
    path: PathText,
    *,
    weights_only: bool,
    log: Callable[[str], None],
    map_location: MapLocation = "cpu",
    pairs: FindPairs = lambda *_: (),
) -> tuple[Any, Manifest | None]:
    """Reads a file as `read_file` does, or a safetensors file, whose state is a dict of its tensors.

    Args:
        path: a file by `write_file`, `torch.save` or safetensors.
        weights_only: see `read_file`.
        log: see `read_file`.
        map_location: where tensors go, as for `torch.load`. Anything but the CPU is torch's work, which it
            does after the checksums have been compared.
        pairs: see `read_file`.

    Returns:
        the state, and the manifest if the file has one.

    Raises:
        UnloadableStateError: its tensors cannot be placed as `map_location` says, too.
        MarlinError: as `read_file` does.
    """
    how = _How(weights_only, log, pairs, has_weights=True, map_location=map_location)
    return _read_whole(path, how)


def read_source(source: Source, *, weights_only: bool, log: Callable[[str], None] = lambda _: None) -> Any:
    """Reads a state from an open file, or from bytes in memory, as `read_file` does."""
    try:
        return _read(source, _How(weights_only, log, lambda *_: ()))[0]
    except Exception as error:  # as below
        if isinstance(error, MarlinError) or not is_no_memory(error):
            raise
        raise no_memory(source.path, is_to_cpu=True) from error


def _read_whole(path: PathText, how: _How) -> tuple[Any, Manifest | None]:
    text = os.fspath(path)

    def read() -> tuple[Any, Manifest | None]:
        with open_source(text) as source:
            return _read(source, how)

    try:
        return again_if_stale(read)
    except Exception as error:  # torch has several for memory that is short
        if isinstance(error, MarlinError) or not is_no_memory(error):
            raise
        raise no_memory(text, is_to_cpu=how.is_to_cpu) from error


def _read(source: Source, how: _How) -> tuple[Any, Manifest | None]:
    text = source.path
    file_format = format_of(source)
    if file_format is Format.PICKLE:
        what = "not a checkpoint but a bare pickle"
        raise NotACheckpointError(what, text, "torch.save the object in it, if you trust its writer")
    if file_format is Format.SAFETENSORS:
        if not how.has_weights:
            raise NotACheckpointError("not a checkpoint but a safetensors file", text)
        return _read_weights(source, how), None
    if file_format is Format.LEGACY:
        how.log(f"{text} is a legacy torch file, which has no checksums: it cannot be verified")
        _check_legacy(source, weights_only=how.weights_only)
        state, manifest = _load_with_torch(source, how), None
    else:
        container = reader.read_saved(source)
        manifest = container.manifest
        if not container.has_checksums:
            how.log(f"{text} was saved without checksums: it cannot be verified")
        made = _make_plain(source, container, weights_only=how.weights_only) if how.is_to_cpu else None
        if made is not None:
            state, storages = made
            read_records(source, container, storages.places(how.pairs(state, manifest)))
            return state, manifest
        read_records(source, container)
        state = _load_with_torch(source, how, is_proven=container.has_checksums)
    how.pairs(state, manifest)
    return state, manifest


def _read_weights(source: Source, how: _How) -> dict[str, torch.Tensor]:
    if how.is_to_cpu:
        return read_weights(source, how.pairs)
    try:
        return read_weights(source, how.pairs, how.map_location)
    except Exception as error:  # what a device, or a function of the user's, raises
        if isinstance(error, (MarlinError, Warning)) or is_no_memory(error):
            raise
        raise unplaced(source.path, error) from error


def _check_legacy(source: Source, *, weights_only: bool) -> None:
    """Looks for the data of all storages: torch makes them of any size, and leaves them unset without it."""
    try:
        with structure_of(source.path):
            read_legacy(source)
    except ExcessError as error:
        if weights_only:
            raise ExcessError(error.what, source.path, OWN) from error


def _make_plain(source: Source, container: Container, *, weights_only: bool) -> tuple[Any, Storages] | None:
    """Makes the state of a file whose tensors can be made before their bytes are read; None for another."""
    records = container.by_label
    pickle = read_record(source, container, records["data.pkl"])
    order = records.get("byteorder")
    if order is None or read_record(source, container, order) != sys.byteorder.encode():
        return None
    storages = Storages(container.path, records)
    try:
        with told_as_ours(source, weights_only=True):
            state = PlainUnpickler(pickle, storages).load()
    except NotPlainError:
        return None
    except UnsafeCheckpointError:
        if weights_only:
            raise
        return None
    return state, storages


def _load_with_torch(source: Source, how: _How, *, is_proven: bool = False) -> Any:
    if not how.is_to_cpu:
        try:
            return _unpickled(source, how)
        except Exception as error:  # as above, or of the file's own
            if isinstance(error, Warning) or is_no_memory(error):
                raise
            # It raises in turn where the fault is in the file, and not in the place.
            _load_with_torch(source, how._replace(map_location="cpu"), is_proven=is_proven)
            raise unplaced(source.path, error) from error
    with told_as_ours(source, weights_only=how.weights_only, is_proven=is_proven):
        return _unpickled(source, how)


def _unpickled(source: Source, how: _How) -> Any:
    with io.BufferedReader(SourceFile(source)) as file:
        # Asked for weights_only, torch searches a failure's message with patterns that take minutes on a
        # hostile name of 100,000 letters; handed an unpickler, it unpickles in the same way.
        unpickler = unpickling if how.weights_only else None
        with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            place: Any = how.map_location  # torch's own type knows typed storages alone
            return torch.load(file, map_location=place, weights_only=False, pickle_module=unpickler)
