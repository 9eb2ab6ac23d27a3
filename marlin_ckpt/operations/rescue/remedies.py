"""The next command where a checkpoint is damaged or incomplete: to save what is left, or find a whole one."""

import contextlib
import itertools
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from marlin_ckpt import naming
from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.latest import newest_first
from marlin_ckpt.directory.others.kinds import newest_of_any
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.format import Format, detect
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.verdicts import Status
from marlin_ckpt.storage.paths import is_folder, open_source

_WITHOUT_CHECKSUMS = (Format.LEGACY, Format.SAFETENSORS, Format.PICKLE)
_MOST_NAMED = 3
_MOST_LOOKED_AT = 10  # checkpoints of a directory, whose structure is read
_USUAL = "model", "pt"
_PERHAPS_WHOLE = (Status.COMPLETE, Status.REPACKED, Status.UNVERIFIABLE)


class Remedy(NamedTuple):
    """What to do about one checkpoint.

    Attributes:
        salvage: the command that takes out what is intact, with what it does; "" where nothing could be.
        whole: the command that finds a whole checkpoint beside it; or what is known of those beside it.
    """

    salvage: str
    whole: str

    def __str__(self) -> str:
        return "; ".join(filter(None, self))


def remedy(path: str) -> Remedy:
    """What to do about a file or folder that is damaged or incomplete."""
    return remedies([path])[path]


def remedies(bad: Collection[str], others: Collection[str] = ()) -> dict[str, Remedy]:
    """What to do about each of some files and folders that are damaged or incomplete.

    Only names and the structure of a few checkpoints beside them are read.

    Args:
        bad: their paths.
        others: the paths of others that were read whole, and with which nothing is wrong.
    """
    damaged = {os.path.abspath(path) for path in bad}
    places = dict.fromkeys(map(_place, bad))
    whole = {one: _whole_in(one, damaged, [path for path in others if _place(path) == one]) for one in places}
    return {path: Remedy(_salvage(path), whole[_place(path)]) for path in bad}


def _place(path: str) -> str:
    return os.path.dirname(path.rstrip("/")) or os.curdir


def _salvage(path: str) -> str:
    command = salvage_command(path)
    return f"`{command}` takes out what is intact" if command else ""


def salvage_command(path: str) -> str:
    """The command that takes out what is intact; "" for what has no checksums, and most folders."""
    if is_folder(path):
        from marlin_ckpt.operations.rescue.shards import can_be_salvaged  # noqa: PLC0415 - numpy, which files go without

        entry = catalog.entry(path)
        name = shlex.quote(path.rstrip("/"))
        return f"marlin-ckpt salvage {name} -o rescued.pt" if entry and can_be_salvaged(entry) else ""
    with contextlib.suppress(MarlinError, OSError), open_source(path) as source:
        if detect(source) not in _WITHOUT_CHECKSUMS:
            output = shlex.quote("rescued" + os.path.splitext(path)[1])
            return f"marlin-ckpt salvage {shlex.quote(path)} -o {output}"
    return ""


def _whole_in(place: str, bad: Collection[str], others: Sequence[str]) -> str:
    """The command that names a whole checkpoint of a directory; what else is known of those in it."""
    named = shlex.quote(place)
    with contextlib.suppress(MarlinError, OSError):
        for prefix, extension in dict.fromkeys([_USUAL, *_kinds(bad)]):
            if any(map(_is_provable, _first(place, prefix, extension, bad))):
                options = f" --prefix {shlex.quote(prefix)}" * (prefix != _USUAL[0])
                options += f" --ext {shlex.quote(extension)}" * (extension != _USUAL[1])
                return f"`marlin-ckpt latest {named}{options} --intact` names the newest that is intact"
        if others:
            return f"whole, as far as can be known without checksums: {', '.join(others[-_MOST_NAMED:])}"
        found = catalog.named([place], naming.EXTENSIONS)
        beside = [one for one in found if os.path.abspath(one.path) not in bad][-_MOST_LOOKED_AT:]
        if any(inspect(one).status in _PERHAPS_WHOLE for one in beside):
            return f"`marlin-ckpt verify {named}` says which others are whole"
    return "no other checkpoint is beside it: fetch it again from where it is whole"


def _is_provable(one: Entry) -> bool:
    """Whether a checkpoint is complete, and of a kind that has checksums of all its data."""
    status = inspect(one).status
    return not layouts.is_foreign(one) and status is not None and status.is_sound


def _kinds(bad: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The prefixes and extensions of the names of our grammar."""
    for path in bad:
        name = os.path.basename(path)
        found = naming.parse_any(name, naming.split_extension(name)[1])
        if found is not None:
            yield found.prefix, found.extension


def _first(place: str, prefix: str, extension: str, bad: Collection[str]) -> Iterator[Entry]:
    """What `latest` would look at with these options, but for what is known to be bad."""
    with contextlib.suppress(MarlinError):
        logger = get_logger(__name__)
        found = newest_first(place, prefix, extension, foreign=True)
        first = next(found, None)
        if first is None and (prefix, extension) == _USUAL:
            found = newest_of_any(place, logger, only_others=True)
        every = itertools.islice(found if first is None else itertools.chain([first], found), _MOST_LOOKED_AT)
        left_out = {*bad, os.path.abspath(place)}  # where it is one checkpoint, the bad file is a part of it
        yield from (one for one in every if os.path.abspath(one.path) not in left_out)
