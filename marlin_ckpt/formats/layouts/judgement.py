"""What is said of another tool's folder: by its names and structure, or after reading all of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

from marlin_ckpt.errors import (
    BadFileError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    NotACheckpointError,
)
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.format import Foreign, Format, detect
from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout, listed
from marlin_ckpt.formats.registry import open_format
from marlin_ckpt.formats.verdicts import Inspection, Status, Verdict
from marlin_ckpt.storage.sums import sums

if TYPE_CHECKING:
    from marlin_ckpt.entries import Entry
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.zip.records import OnBytes

_POINTER = "a git-lfs pointer"
_ALWAYS_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt")
_UNTIED = "nothing ties its files to one save"


def inspect(entry: Entry, layout: ToolLayout, folder: Folder) -> Inspection:
    """Looks at a folder's names, and at the structure of each of its parts; reads no tensor."""
    found = layout.makeup(folder)
    missing, wrong = list(found.missing), list(found.wrong)
    if not (missing or wrong):
        _look_at_parts(folder, found, missing, wrong)
    status = Status.INCOMPLETE if missing else Status.CORRUPT if wrong else Status.COMPLETE
    reason = _sentence(missing or wrong or found.notes)
    return Inspection(entry, status, reason, tools_metrics=found.metrics)


def _look_at_parts(folder: Folder, found: Makeup, missing: list[str], wrong: list[str]) -> None:
    for one in found.parts:
        if not one.layout:
            _look(folder, one, missing, wrong)
            continue
        below = folder.below(one.name)
        nested = cast("ToolLayout", layouts.named(one.layout)).makeup(below)
        lacks, faults = list(nested.missing), list(nested.wrong)
        _look_at_parts(below, nested, lacks, faults)
        missing += [f"{one.name}: {what}" for what in dict.fromkeys(lacks)]
        wrong += [f"{one.name}: {what}" for what in dict.fromkeys(faults)]


def _look(folder: Folder, part: Part, missing: list[str], wrong: list[str]) -> None:
    try:
        with folder.open(part.name) as source:
            if _is_pointer(found := detect(source)):
                missing.append(_pointer(part.name))
            elif isinstance(found, Format):
                open_format(source).inspect(source)
            else:
                wrong.append(f"{part.name} is {found.what}")
    except CheckpointNotFoundError:
        missing.append(f"{part.name} is missing")
    except BadFileError as error:
        wrong.append(f"{part.name}: {error.what}")


def _is_pointer(found: Format | Foreign) -> bool:
    return isinstance(found, Foreign) and found.what == _POINTER


def verify(folder: Folder, layout: ToolLayout, on_bytes: OnBytes) -> Verdict:
    """Reads every part of a folder whole, and compares the checksums that it has.

    Returns:
        what is wrong; or `unverifiable`, with the reason: no tool's folder says which bytes belong to it.

    Raises:
        StorageError: a file cannot be read.
    """
    found = layout.makeup(folder)
    missing, wrong = list(found.missing), list(found.wrong)
    tensors: list[str] = []
    unchecked: list[str] = [name for name in found.values if name in folder.items]
    places: dict[str, set[str]] = {}
    for one in found.parts:
        try:
            _verify_part(folder, one, on_bytes, unchecked)
            if found.places:
                places[one.name] = _names_in(folder, one)
        except CheckpointNotFoundError as error:
            missing.append(f"{one.name}: {error.what}" if one.layout else f"{one.name} is missing")
        except _PointerError:
            missing.append(_pointer(one.name))
        except BadFileError as error:
            wrong.append(f"{one.name}: {error.what}")
            tensors += error.tensors if isinstance(error, CorruptCheckpointError) else ()
    wrong += _misplaced(found, places)
    for name in _others(folder, found):
        try:
            _verify_other(folder, name, on_bytes)
        except _PointerError:
            missing.append(_pointer(name))
        except BadFileError as error:
            wrong.append(f"{name}: {error.what}")
    if missing or wrong:
        status = Status.CORRUPT if wrong else Status.INCOMPLETE
        return Verdict(folder.path, status, _sentence([*wrong, *missing]), tuple(tensors))
    return Verdict(folder.path, Status.UNVERIFIABLE, _sentence([_unchecked(unchecked), *found.notes]))


class _PointerError(Exception):
    """In place of a file there is a pointer to it."""


def _verify_part(folder: Folder, part: Part, on_bytes: OnBytes, unchecked: list[str]) -> None:
    if part.layout:
        nested = cast("ToolLayout", layouts.named(part.layout))
        verdict = nested.verify_in(folder.below(part.name), on_bytes)
        if verdict.status is Status.INCOMPLETE:
            raise CheckpointNotFoundError(verdict.reason, folder.path)
        if verdict.status.is_bad:
            raise CorruptCheckpointError(verdict.reason, folder.path, tensors=verdict.tensors)
        return
    with folder.open(part.name) as source:
        if _is_pointer(detect(source)):
            raise _PointerError
        if open_format(source).verify(source, on_bytes).status is Status.UNVERIFIABLE:
            unchecked.append(part.name)


def _pointer(name: str) -> str:
    return f"{name} is {_POINTER}: `git lfs pull` fetches the file"


def _others(folder: Folder, found: Makeup) -> list[str]:
    """The files that hold nothing of the tree: settings, a tokenizer, weights in another format."""
    parts = {one.name for one in found.parts}
    nested = tuple(f"{one.name}/" for one in found.parts if one.layout)
    return [name for name in folder.items if name not in parts and not name.startswith(nested)]


def _verify_other(folder: Folder, name: str, on_bytes: OnBytes) -> None:
    """Reads a file that may be of any kind; JSON has to be some, and a checkpoint has to be whole."""
    with folder.open(name) as source:
        kind = detect(source)
        if _is_pointer(kind):
            raise _PointerError
        if isinstance(kind, Format):
            open_format(source).verify(source, on_bytes)
        elif name.endswith(_ALWAYS_WEIGHTS):
            raise NotACheckpointError(f"it is {kind.what}", source.path)
        else:
            deque(sums([(name, nullcontext(source))], on_bytes), 0)
    if name.endswith(".json"):
        folder.read_json(name)


def _names_in(folder: Folder, part: Part) -> set[str]:
    with folder.open(part.name) as source:
        return {one.name for one in read_contents(source).tensors}


def _misplaced(found: Makeup, places: Mapping[str, set[str]]) -> Iterator[str]:
    """What an index says of tensors, and their files do not hold."""
    for file, names in places.items():
        lost = sorted(name for name, place in found.places.items() if place == file and name not in names)
        if lost:
            yield f"{file} lacks {listed(lost)}, which the index says is in it"


def _unchecked(names: list[str]) -> str:
    return f"no checksum covers {listed(names)}; {_UNTIED}" if names else _UNTIED


def _sentence(parts: list[str]) -> str:
    return "; ".join(dict.fromkeys(one for one in parts if one))
