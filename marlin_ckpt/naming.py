r"""The grammar of file names, the only one.

checkpoint   {prefix}_{index}.{extension}
sharded      {prefix}_{index}.dcp, a folder
model file   {prefix}_model_{index}.{extension}; `_mode_`, as PyMarlin's documents spell it, is read as well

The index is ASCII digits and nothing else: a regular expression's `\d` would take the digits of any script.
"""

import os
import re
from collections.abc import Iterable
from enum import StrEnum
from itertools import compress
from typing import NamedTuple

# Our record in a checkpoint: in a file by torch the record of this name, in a folder the file.
MANIFEST = ".marlin/manifest.json"
SHARDS = "dcp"  # the extension of folders that hold the shards of one checkpoint
SHARDED = "sharded"  # the layout of such a folder
OWN_DIRECTORY = ".marlin-ckpt"  # the folder in a directory of checkpoints for our own bookkeeping
TRASH = ".trash"  # the folder in a directory into which `clean --to-trash` moves; nothing is found in it

# Those of the files of checkpoints and weights that tools write; timm writes `pth.tar`.
EXTENSIONS = ("bin", "ckpt", "pt", "pth", "pth.tar", "safetensors")

_MODEL_MARKS = ("_model", "_mode")
STATISTICS = "statistics.json"  # in our own folder, what a report keeps of the tensors that it has read
_HISTORY = r"events(\.[0-9]+)?\.jsonl"


class Kind(StrEnum):
    """What a file holds: the three states of a run, or the module's state alone."""

    CHECKPOINT = "checkpoint"
    MODEL = "model"


class FileName(NamedTuple):
    """A file name that fits the grammar."""

    prefix: str
    index: int  # type: ignore[assignment]  # nobody asks it where a value is, as one may ask any tuple
    extension: str = "pt"
    kind: Kind = Kind.CHECKPOINT

    def __str__(self) -> str:
        mark = _MODEL_MARKS[0] if self.kind is Kind.MODEL else ""
        return f"{self.prefix}{mark}_{self.index}" + (f".{self.extension}" if self.extension else "")


def is_beside_any(name: str) -> bool:
    """Whether a file in our own folder comes beside other tools' checkpoints, too: a history, statistics."""
    return name == STATISTICS or re.fullmatch(_HISTORY, name) is not None


def has_extension(name: str, extension: str) -> bool:
    """Whether a name ends in exactly `.extension` and has something before it."""
    return name.endswith("." + extension) and len(name) > len(extension) + 1


def extension_among(name: str, extensions: Iterable[str]) -> str | None:
    """Which of some extensions a name has; None: none of them."""
    return next((one for one in extensions if has_extension(name, one)), None)


def split_extension(name: str) -> tuple[str, str]:
    """The stem of a name, and its extension: all of `pth.tar`, of other names what follows the last dot."""
    stem, _, extension = name.rpartition(".")
    above, _, first = stem.rpartition(".")
    both = f"{first}.{extension}"
    return (above, both) if above and both in EXTENSIONS else (stem, extension)


def parse(name: str, prefix: str, extension: str) -> FileName | None:
    """Reads a file name by the grammar for one prefix and extension; None where it does not fit."""
    for mark in ("", *_MODEL_MARKS):
        index = checkpoint_index(name, prefix + mark, extension)
        if index is not None:
            return FileName(prefix, index, extension, Kind.MODEL if mark else Kind.CHECKPOINT)
    return None


def checkpoint_index(name: str, prefix: str, extension: str) -> int | None:
    """The index of a name that is exactly `{prefix}_{index}.{extension}`, or None."""
    return next(iter(indices((name,), prefix, extension)[1]), None)


def indices(
    names: Iterable[str], prefix: str, extension: str, folder: str = ""
) -> tuple[list[str], list[int]]:
    """Those of some names that are exactly `{prefix}_{index}.{extension}`, and their indices.

    A search asks this of 100,000 names: it goes through them at the speed of comprehensions.

    Args:
        names: that are read.
        prefix: of the names.
        extension: of the names.
        folder: that all names begin with, and a slash.
    """
    start, end = f"{folder}/{prefix}_" if folder else f"{prefix}_", f".{extension}"
    first, last = len(start), -len(end)
    found = [one for one in names if one.startswith(start) and one.endswith(end)]
    digits = [one[first:last] for one in found]
    if not (all(digits) and _is_index("".join(digits))):
        fit = list(map(_is_index, digits))
        found, digits = list(compress(found, fit)), list(compress(digits, fit))
    return found, list(map(int, digits))


def _is_index(text: str) -> bool:
    return text.isdigit() and text.isascii()


def parse_any(name: str, extension: str) -> FileName | None:
    """Reads a file name by the grammar where the prefix is not known.

    A name such as `a_model_3.pt` is read as the model file of the prefix `a`.
    """
    if not has_extension(name, extension):
        return None
    prefix, _, index = name[: -len(extension) - 1].rpartition("_")
    if not (prefix and _is_index(index)):
        return None
    for mark in _MODEL_MARKS:
        if prefix.endswith(mark) and prefix != mark:
            return FileName(prefix.removesuffix(mark), int(index), extension, Kind.MODEL)
    return FileName(prefix, int(index), extension)


def folder_name(name: str) -> FileName | None:
    """Reads the name of a folder that is a checkpoint: `{prefix}_{index}`, with an extension or without.

    There are no model folders: in `a_model_3` the prefix is `a_model`.
    """
    for stem, extension in ((name, ""), os.path.splitext(name)):
        prefix, _, index = stem.rpartition("_")
        if prefix and _is_index(index):
            return FileName(prefix, int(index), extension[1:])
    return None


def order(path: str) -> tuple[str, int, str]:
    """What paths of any extension are sorted by: the directory, the index, the name."""
    directory, name = os.path.split(path)
    parsed = parse_any(name, name.rpartition(".")[2]) or folder_name(name)
    return directory, -1 if parsed is None else parsed.index, name
