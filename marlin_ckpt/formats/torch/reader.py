"""Turns files into states: into new tensors, or straight into the memory of live ones."""

import contextlib
import errno
import io
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from marlin_ckpt.errors import (
    BadFileError,
    CorruptCheckpointError,
    MarlinError,
    NotACheckpointError,
    StorageError,
    UnloadableStateError,
    UnsafeCheckpointError,
)
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats.budget import ExcessError
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.format import Format, format_of
from marlin_ckpt.formats.legacy import read_legacy
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.pickle.reader import unpickling as structure_of
from marlin_ckpt.formats.torch import unpickling
from marlin_ckpt.formats.torch.placement import Pair, Storages
from marlin_ckpt.formats.zip import reader
from marlin_ckpt.formats.zip.container import Container
from marlin_ckpt.formats.zip.records import read_record, read_records
from marlin_ckpt.storage.local.files import again_if_stale, open_source
from marlin_ckpt.storage.source import Source, SourceFile

# A pickle that imports nothing else makes its tensors without a look at their bytes, which may then be read
# after it.
_PLAIN_NAMES = re.compile(
    r"torch\.(Size|[A-Za-z0-9]+Storage|b?float\w+|u?int\d+|bool|complex\d+|storage\.UntypedStorage)"
    r"|torch\._utils\._rebuild_(parameter|tensor_v2|tensor_v3)"
    r"|collections\.(Counter|OrderedDict|defaultdict)|__builtin__\.(complex|set)|_codecs\.encode",
    re.ASCII,
)
# What torch says of records that are missing or of another size, and of tensors that reach beyond them.
_STRUCTURE = re.compile(r"PytorchStreamReader|record size \(|storage that is not resizable")
_OWN = "if the file is your own, load it with weights_only: false"
_OWN_NAMES = f"{_OWN}, or allow these names alone by torch.serialization.add_safe_globals"
_NEEDS_CODE = "the file itself is whole: run where the code that it was saved with can be imported"

FindPairs = Callable[[Any, Manifest | None], Iterable[Pair]]


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
    text = os.fspath(path)
    try:
        return again_if_stale(lambda: _read(text, weights_only=weights_only, log=log, pairs=pairs))
    except MemoryError as error:
        raise _no_memory(text) from error


def _read(
    text: str, *, weights_only: bool, log: Callable[[str], None], pairs: FindPairs
) -> tuple[Any, Manifest | None]:
    with open_source(text) as source:
        file_format = format_of(source)
        if file_format is Format.SAFETENSORS:
            raise NotACheckpointError("not a checkpoint but a safetensors file", text)
        if file_format is Format.LEGACY:
            log(f"{text} is a legacy torch file, which has no checksums: it cannot be verified")
            _check_legacy(source, weights_only=weights_only)
            state, manifest = _load_with_torch(source, weights_only=weights_only), None
        else:
            container = reader.read_saved(source)
            manifest = container.manifest
            if not container.has_checksums:
                log(f"{text} was saved without checksums: it cannot be verified")
            made = _make_plain(source, container, weights_only=weights_only)
            if made is not None:
                state, storages = made
                read_records(source, container, storages.places(pairs(state, manifest)))
                return state, manifest
            read_records(source, container)
            state = _load_with_torch(source, weights_only=weights_only, is_proven=container.has_checksums)
        pairs(state, manifest)
        return state, manifest


def _check_legacy(source: Source, *, weights_only: bool) -> None:
    """Looks for the data of all storages: torch makes them of any size, and leaves them unset without it."""
    try:
        with structure_of(source.path):
            read_legacy(source)
    except ExcessError as error:
        if weights_only:
            raise ExcessError(error.what, source.path, _OWN) from error


class _NotPlainError(MarlinError):
    """A pickle imports something beside plain values and tensors."""


class _PlainUnpickler(unpickling.Unpickler):
    """Reads a pickle that imports nothing beside plain values and tensors."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """What torch allows to be imported, if it is plain."""
        if not _PLAIN_NAMES.fullmatch(f"{module_name}.{global_name}"):
            raise _NotPlainError(global_name)
        return super().find_class(module_name, global_name)


def _make_plain(source: Source, container: Container, *, weights_only: bool) -> tuple[Any, Storages] | None:
    """Makes the state of a file whose tensors can be made before their bytes are read; None for another."""
    records = container.by_label
    pickle = read_record(source, container, records["data.pkl"])
    order = records.get("byteorder")
    if order is None or read_record(source, container, order) != sys.byteorder.encode():
        return None
    storages = Storages(container)
    unpickler = _PlainUnpickler(io.BytesIO(pickle), encoding="utf-8")
    unpickler.persistent_load = storages.load  # type: ignore[method-assign]
    try:
        with _told_as_ours(source, weights_only=True):
            state = unpickler.load()
    except _NotPlainError:
        return None
    except UnsafeCheckpointError:
        if weights_only:
            raise
        return None
    return state, storages


def _load_with_torch(source: Source, *, weights_only: bool, is_proven: bool = False) -> Any:
    ours = _told_as_ours(source, weights_only=weights_only, is_proven=is_proven)
    with io.BufferedReader(SourceFile(source)) as file, ours:
        # Asked for weights_only, torch searches a failure's message with patterns that take minutes on a
        # hostile name of 100,000 letters; handed an unpickler, it unpickles in the same way.
        unpickler = unpickling if weights_only else None
        with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            return torch.load(file, map_location="cpu", weights_only=False, pickle_module=unpickler)


@contextlib.contextmanager
def _told_as_ours(source: Source, *, weights_only: bool, is_proven: bool = False) -> Iterator[None]:
    """Turns whatever unpickling raises into one of our errors; mutated pickles alone raise a dozen types.

    Args:
        source: the file.
        weights_only: whether nothing but plain values and tensors is imported.
        is_proven: whether checksums hold for every byte, so that it is no damage what makes it fail.
    """
    try:
        yield
    except ExcessError as error:
        raise ExcessError(error.what, source.path, _OWN) from error
    except MarlinError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _no_memory(source.path) from error
    except Exception as error:
        if "allocate memory" in str(error):  # torch's CPU allocator raises a plain RuntimeError
            raise _no_memory(source.path) from error
        reason = _reason(error)
        if weights_only and (names := _unsafe_names(source, reason)):
            what = f"refused as unsafe: loading it would import {', '.join(names)}"
            raise UnsafeCheckpointError(what, source.path, _OWN_NAMES, names=names) from error
        if weights_only and "Unsupported operand" in reason:
            what = f"refused: it holds what weights_only does not read: {reason}"
            raise UnsafeCheckpointError(what, source.path, _OWN) from error
        if not weights_only and _is_of_code(error, is_proven=is_proven):
            what = f"cannot be loaded here: {type(error).__name__}: {reason}"
            raise UnloadableStateError(what, source.path, _NEEDS_CODE) from error
        raise CorruptCheckpointError(f"cannot be unpickled: {reason}", source.path) from error


def _no_memory(path: str) -> StorageError:
    return StorageError("not enough memory to load the file", path, errno=errno.ENOMEM)


def _is_of_code(error: Exception, *, is_proven: bool) -> bool:
    """Whether an error comes of the code that a file names, and not of the file's own structure."""
    if isinstance(error, (ImportError, AttributeError)):
        return True
    is_structure = isinstance(error, (pickle.UnpicklingError, EOFError)) or _STRUCTURE.search(str(error))
    return is_proven and not is_structure


def _unsafe_names(source: Source, reason: str) -> tuple[str, ...]:
    """What `weights_only` refuses to import; the first name alone where the rest cannot be read."""
    with contextlib.suppress(BadFileError):
        if names := unpickling.refused(read_contents(source).imports):
            return names
    return tuple(re.findall(r"GLOBAL ([\w.]+)", reason))


def _reason(error: Exception) -> str:
    """What torch's message says after the advice that it begins with, to load without weights_only."""
    text = str(error).rpartition("WeightsUnpickler error:")[2][:1000]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith("Weights only load failed")]
    return own[0] if own else type(error).__name__
