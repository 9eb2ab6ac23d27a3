"""Removing files of one directory tree, relative to open directories.

What is decided and what is done are the same value, and between the two nothing leads elsewhere: a directory
is opened without following links and must be the one that was read when the decision was made, a file is
removed by its name in that open directory, and must be the file that was seen. A symbolic link swapped in
meanwhile makes the removal fail, never go astray.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from marlin_ckpt.directory import naming
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage import temporary

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Removal:
    """One file to be removed.

    Attributes:
        path: the file, under the directory as it was given.
        size_bytes: its length.
        reason: why it goes.
        parts: the names of the sub-directories that lead to it, then its own.
        directories: device and inode of each directory on that way, the top first.
        identity: its own device and inode.
    """

    path: str
    size_bytes: int
    reason: str
    parts: tuple[str, ...]
    directories: tuple[_Identity, ...]
    identity: _Identity


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be removed, or a directory that could not be read, and why."""

    path: str
    error: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be removed from a directory; nothing is done yet."""

    directory: str
    removals: tuple[Removal, ...]
    unreadable: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was removed and what could not be."""

    removed: tuple[Removal, ...]
    failures: tuple[Failure, ...]

    @property
    def bytes_freed(self) -> int:
        """The lengths of the removed files together."""
        return sum(removal.size_bytes for removal in self.removed)


def plan_cleaning(
    directory: PathText, *, extension: str = "pt", prefix: str | None = None, recursive: bool = False
) -> Plan:
    """Decides what `clean` removes: the regular files of one extension, and what dead runs left half written.

    Args:
        directory: the directory; a symbolic link to one is refused.
        extension: exactly, without its dot.
        prefix: only checkpoints and model files of this prefix, by the grammar; None: all of the extension.
        recursive: sub-directories too.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """

    def reason(directory_fd: int, name: str) -> str:
        if temporary.is_temporary(name):
            return "left by a dead run" if temporary.is_abandoned(directory_fd, name) else ""
        if not naming.has_extension(name, extension):
            return ""
        if prefix is None:
            return f"extension {extension}"
        return f"prefix {prefix}" if naming.parse(name, prefix, extension) else ""

    return _plan(directory, reason, recursive=recursive)


def plan_sweeping(directory: PathText) -> Plan:
    """Decides what dead runs left half written directly in a directory.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """

    def reason(directory_fd: int, name: str) -> str:
        if temporary.is_temporary(name) and temporary.is_abandoned(directory_fd, name):
            return "left by a dead run"
        return ""

    return _plan(directory, reason, recursive=False)


def _plan(directory: PathText, reason: Callable[[int, str], str], *, recursive: bool) -> Plan:
    text = os.fspath(directory)
    try:
        fd = os.open(text, _DIRECTORY)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError("no such directory", text) from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and os.path.islink(text):
            hint = f"name the directory that it points to: {os.path.realpath(text)}"
            what = "refused: removing through a symbolic link"
            raise StorageError(what, text, hint, errno=errno.ELOOP) from error
        raise StorageError.of("cannot read the directory", text, error) from error
    removals: list[Removal] = []
    failures: list[Failure] = []
    try:
        for item in _read(fd, text, (), (), reason, recursive=recursive):
            if isinstance(item, Removal):
                removals.append(item)
            else:
                failures.append(item)
    finally:
        os.close(fd)
    return Plan(text, tuple(sorted(removals, key=_order)), tuple(failures))


def _order(removal: Removal) -> tuple[str, int, str]:
    name = naming.parse_any(removal.parts[-1], removal.parts[-1].rpartition(".")[2])
    return (os.path.dirname(removal.path), -1 if name is None else name.index, removal.path)


def _read(  # noqa: PLR0913 - what a level of the recursion hands to the next
    fd: int,
    path: str,
    parts: tuple[str, ...],
    above: tuple[_Identity, ...],
    reason: Callable[[int, str], str],
    *,
    recursive: bool,
) -> Iterator[Removal | Failure]:
    """Reads one open directory and, where asked, those in it; descriptors stay open only along one branch."""
    directories = (*above, _identity(os.fstat(fd)))
    try:
        names = os.listdir(fd)
    except OSError as error:
        yield Failure(path, error.strerror or str(error))
        return
    for name in names:
        where = os.path.join(path, name)
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                if why := reason(fd, name):
                    yield Removal(where, status.st_size, why, (*parts, name), directories, _identity(status))
                continue
            if not (recursive and stat.S_ISDIR(status.st_mode)):
                continue
            child = os.open(name, _DIRECTORY, dir_fd=fd)
        except FileNotFoundError:
            continue  # gone since the directory was read
        except OSError as error:
            yield Failure(where, error.strerror or str(error))
            continue
        try:
            yield from _read(child, where, (*parts, name), directories, reason, recursive=True)
        finally:
            os.close(child)


def _identity(status: os.stat_result) -> _Identity:
    return (status.st_dev, status.st_ino)


def carry_out(plan: Plan) -> Outcome:
    """Removes what a plan names; what cannot be removed is reported and the rest goes on.

    A file that has gone meanwhile counts neither as removed nor as a failure; one that has been replaced by
    another of its name stays.
    """
    removed = []
    failures = list(plan.unreadable)
    for removal in plan.removals:
        try:
            _remove(plan.directory, removal)
            removed.append(removal)
        except FileNotFoundError:
            continue
        except OSError as error:
            failures.append(Failure(removal.path, error.strerror or str(error)))
    return Outcome(tuple(removed), tuple(failures))


def _remove(directory: str, removal: Removal) -> None:
    fd = os.open(directory, _DIRECTORY)
    try:
        for depth, identity in enumerate(removal.directories):
            if depth:
                child = os.open(removal.parts[depth - 1], _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = child
            if _identity(os.fstat(fd)) != identity:
                raise OSError(errno.ESTALE, "another directory has taken its directory's place", removal.path)
        name = removal.parts[-1]
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if _identity(status) != removal.identity or not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "another file has taken its place", removal.path)
        os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
