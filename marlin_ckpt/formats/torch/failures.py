"""Turns what torch raises over a file into one of our errors."""

import contextlib
import errno
import pickle
import re

import torch

from marlin_ckpt.errors import (
    BadFileError,
    CorruptCheckpointError,
    MarlinError,
    StorageError,
    Translating,
    UnloadableStateError,
    UnsafeCheckpointError,
)
from marlin_ckpt.formats.budget import ExcessError
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.torch import unpickling
from marlin_ckpt.storage.source import Source

# What torch says of records that are missing or of another size, and of tensors that reach beyond them.
_STRUCTURE = re.compile(r"PytorchStreamReader|record size \(|storage that is not resizable")
OWN = "if the file is your own, load it with weights_only: false"
_OWN_NAMES = f"{OWN}, or allow these names alone by torch.serialization.add_safe_globals"
_TO_CPU = 'map_location="cpu" loads it into main memory'
_NEEDS_CODE = "the file itself is whole: run where the code that it was saved with can be imported"


def unplaced(path: str, error: Exception) -> UnloadableStateError:
    """The error for a file that loads to the CPU, but not to where its tensors are to go."""
    what = f"cannot be placed as map_location says: {type(error).__name__}: {_reason(error)}"
    return UnloadableStateError(what, path, _TO_CPU)


def told_as_ours(source: Source, *, weights_only: bool, is_proven: bool = False) -> Translating:
    """Turns whatever unpickling raises into one of our errors; mutated pickles alone raise a dozen types.

    Args:
        source: the file.
        weights_only: whether nothing but plain values and tensors is imported.
        is_proven: whether checksums hold for every byte, so that a failure is not due to damage.
    """

    def translate(error: Exception) -> None:  # of a mutated pickle, nearly any
        if isinstance(error, ExcessError):
            raise ExcessError(error.what, source.path, OWN) from error
        if isinstance(error, MarlinError):
            return
        if is_no_memory(error):
            raise no_memory(source.path) from error
        reason = _reason(error)
        if weights_only and (names := _unsafe_names(source, reason)):
            what = f"refused as unsafe: loading it would import {', '.join(names)}"
            raise UnsafeCheckpointError(what, source.path, _OWN_NAMES, names=names) from error
        if weights_only and "Unsupported operand" in reason:
            what = f"refused: it holds what weights_only does not read: {reason}"
            raise UnsafeCheckpointError(what, source.path, OWN) from error
        if not weights_only and _is_of_code(error, is_proven=is_proven):
            what = f"cannot be loaded here: {type(error).__name__}: {reason}"
            raise UnloadableStateError(what, source.path, _NEEDS_CODE) from error
        raise CorruptCheckpointError(f"cannot be unpickled: {reason}", source.path) from error

    return Translating(translate)


def is_no_memory(error: BaseException) -> bool:
    """Whether this machine, or a device, has too little memory.

    torch's allocator of main memory, and CUDA outside of torch's own allocator, raise a RuntimeError, which
    only its text tells from others.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error) if isinstance(error, RuntimeError) else ""
    return "allocate memory" in text or "out of memory" in text


def no_memory(path: str, *, is_to_cpu: bool = True) -> StorageError:
    """The error for a file whose state does not fit the memory.

    Args:
        path: of the file.
        is_to_cpu: whether its tensors go to main memory, and to no device.
    """
    hint = "" if is_to_cpu else _TO_CPU
    return StorageError("not enough memory to load the file", path, hint, errno=errno.ENOMEM)


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
