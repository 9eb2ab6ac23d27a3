"""Folders of another tool that are numbered by their names: which is the newest intact one, and which go.

Those with a manifest of ours are verified by it. Others have no checksums as a whole: of these all files must
be there that a run needs, and each file that has checksums must hold them.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable

from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.history.removals import size_of
from marlin_ckpt.directory.newest import is_passed_over, none_is_intact
from marlin_ckpt.errors import CheckpointNotFoundError, CorruptCheckpointError, MarlinError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.formats import layouts, verification
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.verdicts import Status, Verdict
from marlin_ckpt.naming import MANIFEST
from marlin_ckpt.storage.local.files import doing
from marlin_ckpt.storage.local.store import open_store

_CHECKED = (".bin", ".pkl", ".pt", ".pth", ".safetensors")
_logger = get_logger(__name__)

Judge = Callable[[str], Verdict]  # given the path of a folder; see `verify`
# Of the names in a folder, what a run needs and lacks there; "" for nothing.
Missing = Callable[[Collection[str]], str]

# The path of a folder that a run goes on from, and those of newer ones that are passed over, with reasons.
Choice = tuple[str, dict[str, str]]


def folders(directory: str, pattern: re.Pattern[str], least: int = 0) -> list[str]:
    """The paths of the folders in a directory whose whole names fit, the greatest number first.

    Args:
        directory: that is read; one that is missing holds none.
        pattern: its first group is the number.
        least: folders with smaller numbers are left out.

    Raises:
        StorageError: it cannot be read.
    """
    if not os.path.isdir(directory):
        return []
    with doing("cannot read", directory):
        found = {name: int(match[1]) for name in os.listdir(directory) if (match := pattern.fullmatch(name))}
    names = sorted(
        (name for name in found if found[name] >= least), key=lambda name: (found[name], name), reverse=True
    )
    return [path for name in names if os.path.isdir(path := os.path.join(directory, name))]


def files_in(path: str) -> list[str]:
    """The paths in a folder of all files in it."""
    found = ((above, name) for above, _, files in os.walk(path) for name in files)
    return sorted(os.path.relpath(os.path.join(above, name), path) for above, name in found)


def manifest(path: str) -> Manifest | None:
    """What the manifest of a folder says; None where it has none that can be read."""
    entry = catalog.entry(path)
    return None if entry is None else inspect(entry).manifest


def others_in(path: str, own: re.Pattern[str]) -> list[str]:
    """The files in a folder that no save has written there, so that replacing it would lose them.

    Args:
        path: of the folder; one that is missing holds none.
        own: what the names of a tool's files fit where there is no manifest that lists them.
    """
    if found := manifest(path):
        listed = {MANIFEST, *(row["name"] for row in found.records)}
        return [name for name in files_in(path) if name not in listed]
    return [name for name in files_in(path) if name != MANIFEST and not own.fullmatch(name)]


def verify(path: str, missing: Missing) -> Verdict:
    """Reads a folder whole and compares all checksums that it has.

    Args:
        path: of the folder.
        missing: asked of a folder without a manifest.

    Raises:
        CheckpointNotFoundError: it has vanished.
        StorageError: it cannot be read.
    """
    entry = catalog.entry(path)
    if entry is None or layouts.is_foreign(entry):
        names = files_in(path)
        if gone := missing(names):
            return Verdict(path, Status.INCOMPLETE, f"{gone} is missing")
        return verify_files(path, names)
    return verification.verify(entry)


def verify_files(path: str, names: Collection[str]) -> Verdict:
    """Compares the checksums that the files in a folder have, each for itself.

    Args:
        path: of the folder.
        names: of all files in it.

    Raises:
        StorageError: one cannot be read.
    """
    for name in names:
        if name.endswith(_CHECKED):
            found = verification.verify(os.path.join(path, name))
            if found.status.is_bad or found.status is Status.NOT_A_CHECKPOINT:
                return Verdict(path, Status.CORRUPT, f"{name}: {found.reason}", found.tensors)
    return Verdict(path, Status.UNVERIFIABLE, "its files were saved without a manifest of checksums")


def newest(paths: Iterable[str], judge: Judge, on_passed_over: Callable[[str, str], None]) -> Verdict | None:
    """The first of some folders, the newest first, that is not bad.

    Args:
        paths: of the folders.
        judge: verifies one.
        on_passed_over: called with the path of each newer one, and the reason.

    Raises:
        MarlinError: the search cannot go on; see `is_passed_over`.
    """
    for path in paths:
        try:
            found = judge(path)
        except MarlinError as error:
            if not is_passed_over(error) and not isinstance(error, CheckpointNotFoundError):
                raise
            on_passed_over(path, error.what)
            continue
        if not found.status.is_bad:
            return found
        on_passed_over(path, f"{found.status}: {found.reason}")
    return None


def start(directory: str, pattern: re.Pattern[str], judge: Judge) -> Choice:
    """The newest folder that a run can go on from; the log says what is passed over, and why.

    Raises:
        CheckpointNotFoundError: there is no folder at all.
        CorruptCheckpointError: there are some, and all are bad.
        StorageError: one cannot be read.
    """
    paths = folders(directory, pattern)
    if not paths:
        raise CheckpointNotFoundError("no checkpoint found", directory)
    passed_over: dict[str, str] = {}
    found = newest(paths, judge, passed_over.__setitem__)
    for path, reason in passed_over.items():
        _logger.warning("Passed over %s: %s", path, reason)
    if found is None:
        hint = "the log says why; move them elsewhere to begin anew"
        raise CorruptCheckpointError(none_is_intact(len(paths)), directory, hint)
    return accepted(found), passed_over


def check(path: str, pattern: re.Pattern[str], judge: Judge) -> Choice:
    """Verifies a folder that is named.

    Returns:
        its path; no other is passed over for it.

    Raises:
        CheckpointNotFoundError: there is no such folder.
        CorruptCheckpointError: it is bad; the hint names the newest one beside it that is not.
        StorageError: it cannot be read.
    """
    if not os.path.isdir(path):
        raise CheckpointNotFoundError("no such checkpoint", path)
    found = judge(path)
    if found.status.is_bad:
        beside = folders(os.path.dirname(os.path.abspath(path)), pattern)
        other = newest(beside, judge, lambda *_: None)
        hint = f"load the newest that is intact: {other.path}" if other else ""
        raise CorruptCheckpointError(f"{found.status}: {found.reason}", path, hint)
    return accepted(found), {}


def accepted(found: Verdict) -> str:
    """The path of a folder that is taken; the log says where nothing proves it intact."""
    if found.status is Status.UNVERIFIABLE:
        _logger.warning("Nothing proves that %s is intact: %s", found.path, found.reason)
    return found.path


def remove(paths: Iterable[str]) -> list[tuple[str, int]]:
    """Removes folders, each in one instant; what cannot be removed is in the log.

    Returns:
        the paths of what has gone, with the sizes in bytes.
    """
    gone = []
    for path in paths:
        directory, name = os.path.split(path)
        size = size_of(path)
        with open_store(directory) as store:
            try:
                if item := store.head(name):
                    store.remove(name, item.identity)
                    gone.append((path, size))
            except OSError as error:
                _logger.warning("Could not remove %s: %s", path, error.strerror or error)
    return gone
