"""What is said of another tool's folder: by its names and structure, or after reading all of it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from marlin_ckpt.formats.layouts.parts import Makeup, Part, ToolLayout, clauses, listed, misplaced
from marlin_ckpt.formats.registry import FileFormat, open_format
from marlin_ckpt.formats.verdicts import Inspection, Status, Verdict
from marlin_ckpt.storage.sums import read_whole

if TYPE_CHECKING:
    from marlin_ckpt.entries import Entry
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.values.tensor import TensorInfo
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.storage.source import Source

_POINTER = "a git-lfs pointer"
_ALWAYS_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt")
_MOST_SAID = 9  # clauses of a reason; each of a folder in the folder has as many
_UNTIED = "nothing ties its files to one save"


class _PointerError(Exception):
    """In place of a file there is a pointer to it."""


class _NestedError(Exception):
    """A folder in the folder lacks something."""


@dataclass(slots=True)
class _Faults:
    """What is not as it has to be in a folder, a few words each.

    Attributes:
        missing: what it lacks.
        wrong: what is damaged.
        tensors: the names of those that are damaged.
    """

    missing: list[str]
    wrong: list[str]
    tensors: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.wrong)

    @contextlib.contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Notes what is raised of one of its files."""
        try:
            yield
        except CheckpointNotFoundError:
            self.missing.append(f"{name} is missing")
        except _PointerError:
            self.missing.append(f"{name} is {_POINTER}: `git lfs pull` fetches the file")
        except _NestedError as error:
            self.missing.append(f"{name}: {error}")
        except BadFileError as error:
            self.wrong.append(f"{name}: {error.what}")
            self.tensors += error.tensors if isinstance(error, CorruptCheckpointError) else ()


def inspect(entry: Entry, layout: ToolLayout, folder: Folder) -> Inspection:
    """Looks at a folder's names, and at the structure of each of its parts; reads no tensor."""
    found = layout.makeup(folder)
    faults = _Faults(list(found.missing), list(found.wrong))
    if not faults:
        _look_at_parts(folder, found, faults)
    if faults.missing:
        status, reason = Status.INCOMPLETE, faults.missing
    else:
        status, reason = (Status.CORRUPT, faults.wrong) if faults else (Status.COMPLETE, found.notes)
    return Inspection(entry, status, _sentence(reason), tools_metrics=found.metrics)


def _look_at_parts(folder: Folder, found: Makeup, faults: _Faults) -> None:
    for one in found.parts:
        if not one.layout:
            with faults.noting(one.name), folder.open(one.name) as source:
                _format_of(source).inspect(source)
            continue
        below = folder.below(one.name)
        nested = cast("ToolLayout", layouts.named(one.layout)).makeup(below)
        own = _Faults(list(nested.missing), list(nested.wrong))
        _look_at_parts(below, nested, own)
        faults.missing += [f"{one.name}: {what}" for what in dict.fromkeys(own.missing)]
        faults.wrong += [f"{one.name}: {what}" for what in dict.fromkeys(own.wrong)]


def verify(folder: Folder, layout: ToolLayout, on_bytes: OnBytes) -> Verdict:
    """Reads every file of a folder whole, and compares the checksums that it has.

    Returns:
        what is wrong; or `unverifiable`, with the reason: no tool's folder says which bytes belong to it.

    Raises:
        StorageError: a file cannot be read.
    """
    return judge(folder, layout.makeup(folder), on_bytes)


def judge(folder: Folder, found: Makeup, on_bytes: OnBytes, read: Collection[str] = ()) -> Verdict:
    """Verifies a folder, of which so much was found already; see `verify`.

    Args:
        folder: the checkpoint.
        found: what a look at it found, and whatever reading some of its files did.
        on_bytes: told how many more bytes have been read.
        read: the files that were verified already.
    """
    faults = _Faults(list(found.missing), list(found.wrong))
    unchecked: list[str] = [name for name in found.values if name in folder.items]
    held: dict[str, Sequence[TensorInfo]] = {}
    indexed = frozenset(found.places.values())
    for one in found.parts:
        with faults.noting(one.name):
            _verify_part(folder, one, on_bytes, unchecked)
            if one.name in indexed:
                held[one.name] = _tensors_in(folder, one)
    faults.wrong += misplaced(found.places, held)
    for name in _others(folder, found, read):
        with faults.noting(name):
            _verify_other(folder, name, on_bytes)
    if faults:
        status = Status.CORRUPT if faults.wrong else Status.INCOMPLETE
        reason = _sentence([*faults.wrong, *faults.missing])
        return Verdict(folder.path, status, reason, tuple(faults.tensors))
    notes = [_unchecked(unchecked), *found.notes, *_differences(found, held)]
    return Verdict(folder.path, Status.UNVERIFIABLE, _sentence(notes))


def _verify_part(folder: Folder, part: Part, on_bytes: OnBytes, unchecked: list[str]) -> None:
    if part.layout:
        nested = cast("ToolLayout", layouts.named(part.layout))
        verdict = nested.verify_in(folder.below(part.name), on_bytes)
        if verdict.status is Status.INCOMPLETE:
            raise _NestedError(verdict.reason)
        if verdict.status.is_bad:
            raise CorruptCheckpointError(verdict.reason, folder.path, tensors=verdict.tensors)
        return
    with folder.open(part.name) as source:
        if _format_of(source).verify(source, on_bytes).status is Status.UNVERIFIABLE:
            unchecked.append(part.name)


def _format_of(source: Source) -> FileFormat:
    if _is_pointer(detect(source)):
        raise _PointerError
    return open_format(source)


def _is_pointer(found: Format | Foreign) -> bool:
    return isinstance(found, Foreign) and found.what == _POINTER


def _others(folder: Folder, found: Makeup, read: Collection[str]) -> list[str]:
    """The files that hold nothing of the tree: settings, a tokenizer, weights in another format."""
    done = {*read, *(one.name for one in found.parts)}
    nested = tuple(f"{one.name}/" for one in found.parts if one.layout)
    return [name for name in folder.items if name not in done and not name.startswith(nested)]


def _verify_other(folder: Folder, name: str, on_bytes: OnBytes) -> None:
    """Reads a file that may be of any kind; JSON has to be some, and a checkpoint has to be whole."""
    with folder.open(name) as source:
        kind = detect(source)
        if _is_pointer(kind):
            raise _PointerError
        if name.endswith(".json"):
            if name not in folder.parsed:
                folder.read_json(name)  # all of it, unless it is longer than any
            on_bytes(source.size_bytes)
        elif isinstance(kind, Format):
            open_format(source).verify(source, on_bytes)
        elif name.endswith(_ALWAYS_WEIGHTS):
            raise NotACheckpointError(f"it is {kind.what}", source.path)
        else:
            read_whole(source, on_bytes)


def _tensors_in(folder: Folder, part: Part) -> Sequence[TensorInfo]:
    with folder.open(part.name) as source:
        return read_contents(source).tensors


def _differences(found: Makeup, held: Mapping[str, Sequence[TensorInfo]]) -> Iterator[str]:
    """What an index says otherwise than the files, and harms nobody: common in merged and tied models."""
    if not found.places:
        return
    others = [one.name for tensors in held.values() for one in tensors if one.name not in found.places]
    if others:
        yield f"its index does not list {listed(others)}"
    # What is tied is in a pickle several times, and in the sum once.
    sizes = {
        (file, one.storage, one.offset, one.shape): one.size_bytes
        for file, tensors in held.items()
        for one in tensors
    }
    if found.tensor_bytes not in (None, size := sum(sizes.values())):
        yield f"its index states {found.tensor_bytes:,} bytes of tensors, and its files hold {size:,}"


def _unchecked(names: list[str]) -> str:
    return f"no checksum covers {listed(names)}; {_UNTIED}" if names else _UNTIED


def _sentence(parts: list[str]) -> str:
    said = clauses(parts)
    more = len(said) - _MOST_SAID
    return "; ".join(said[:_MOST_SAID]) + (f"; and {more} more of the kind" if more > 0 else "")
