"""Removing files of one directory tree, relative to open directories.

What is decided and what is done are the same value, and between the two nothing leads elsewhere: a directory
is opened without following links and must be the one that was read when the decision was made, a file is
removed by its name in that open directory, and must be the file that was seen. A symbolic link swapped in
meanwhile makes the removal fail, never go astray.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from marlin_ckpt import naming
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.local import descent, temporary
from marlin_ckpt.storage.local.descent import Identity

# Given an open directory, the path of a file in it and the file's status: why it goes, or "".
_Reason = Callable[[int, str, os.stat_result], str]
Dispose = Callable[[int, "Removal"], None]


@dataclass(frozen=True, slots=True)
class Removal:
    """One file to be removed.

    Attributes:
        path: the file, under the directory as it was given.
        size_bytes: its length.
        reason: why it goes.
        parts: the names of the sub-directories that lead to it, then its own.
        directories: device and inode of each directory on that way, the top first.
        identity: its own device, inode and time of last writing, in nanoseconds.
    """

    path: str
    size_bytes: int
    reason: str
    parts: tuple[str, ...]
    directories: tuple[Identity, ...]
    identity: Identity


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

    def reason(directory_fd: int, path: str, _: os.stat_result) -> str:
        name = os.path.basename(path)
        if temporary.is_temporary(name):
            return _left_behind(directory_fd, name)
        if not naming.has_extension(name, extension):
            return ""
        if prefix is None:
            return f"extension {extension}"
        return f"prefix {prefix}" if naming.parse(name, prefix, extension) else ""

    return _plan(directory, reason, recursive=recursive)


def plan_deleting(directory: PathText, *, extension: str) -> Plan:
    """Decides what `delete_existing_checkpoints` removes: the regular files of one extension in a directory.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """

    def reason(_: int, path: str, __: os.stat_result) -> str:
        name = os.path.basename(path)
        wanted = naming.has_extension(name, extension) and not temporary.is_temporary(name)
        return f"extension {extension}" if wanted else ""

    return _plan(directory, reason, recursive=False)


def plan_sweeping(directory: PathText) -> Plan:
    """Decides what dead runs left half written directly in a directory.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """

    def reason(directory_fd: int, path: str, _: os.stat_result) -> str:
        name = os.path.basename(path)
        return _left_behind(directory_fd, name) if temporary.is_temporary(name) else ""

    return _plan(directory, reason, recursive=False)


def plan_all(directory: PathText) -> Plan:
    """Decides to remove every regular file in a directory and below it.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """
    return _plan(directory, lambda _, __, ___: "in the trash", recursive=True)


def plan_files(
    directory: PathText, doomed: Mapping[str, tuple[Identity, str]], *, recursive: bool = False
) -> Plan:
    """Takes down the removal of files that were decided about by their paths.

    Args:
        directory: that they lie in, or below.
        doomed: by path, which begins with the directory as it is given here without slashes at its end, what
            the file is (`descent.file_identity`) and why it goes. One that is another file now stays.
        recursive: whether some lie below it.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """

    def reason(_: int, path: str, status: os.stat_result) -> str:
        identity, why = doomed.get(path, ((), ""))
        return why if identity == descent.file_identity(status) else ""

    text = os.fspath(directory).rstrip("/") or "/"
    return _plan(directory, reason, recursive=recursive) if doomed else Plan(text, ())


def _left_behind(directory_fd: int, name: str) -> str:
    return "left by a dead run" if temporary.is_abandoned(directory_fd, name) else ""


def _plan(directory: PathText, reason: _Reason, *, recursive: bool) -> Plan:
    text = os.fspath(directory).rstrip("/") or "/"  # shells complete a link with a slash
    fd = descent.open_top(text)
    removals: list[Removal] = []
    failures: list[Failure] = []
    try:
        pending: list[tuple[str, ...]] = [()]
        while pending:
            parts = pending.pop()
            try:
                below = _read(fd, text, parts, reason, removals, failures)
                pending.extend(below if recursive else ())
            except FileNotFoundError:
                continue  # gone since its parent was read
            except OSError as error:
                failures.append(Failure(os.path.join(text, *parts), error.strerror or str(error)))
    finally:
        with contextlib.suppress(OSError):  # nothing was written through it
            os.close(fd)
    return Plan(text, tuple(sorted(removals, key=lambda one: naming.order(one.path))), tuple(failures))


def _read(  # noqa: PLR0913, PLR0917 - one step of _plan
    top_fd: int,
    top: str,
    parts: tuple[str, ...],
    reason: _Reason,
    removals: list[Removal],
    failures: list[Failure],
) -> list[tuple[str, ...]]:
    """Reads one directory of the tree and returns the ways to those in it."""
    below = []
    with descent.opened(os.dup(top_fd), parts) as (fd, directories):
        for name in os.listdir(fd):
            where = os.path.join(top, *parts, name)
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    if name == naming.TRASH:
                        continue
                    below.append((*parts, name))
                elif stat.S_ISREG(status.st_mode) and (why := reason(fd, where, status)):
                    identity = descent.file_identity(status)
                    removals.append(
                        Removal(where, status.st_size, why, (*parts, name), directories, identity)
                    )
            except FileNotFoundError:
                continue  # gone since the directory was read
            except OSError as error:
                failures.append(Failure(where, error.strerror or str(error)))
    return below


def _unlink(directory_fd: int, removal: Removal) -> None:
    os.unlink(removal.parts[-1], dir_fd=directory_fd)


def carry_out(plan: Plan, dispose: Dispose = _unlink) -> Outcome:
    """Removes what a plan names; what cannot be removed is reported and the rest goes on.

    A file that has gone meanwhile counts neither as removed nor as a failure; one that has been replaced by
    another of its name stays.

    Args:
        plan: what to remove.
        dispose: takes a file away, given its open directory; what a dead run left half written is always
            unlinked.
    """
    removed = []
    failures = list(plan.unreadable)
    for removal in plan.removals:
        try:
            _remove(plan.directory, removal, dispose)
            removed.append(removal)
        except FileNotFoundError:
            continue
        except OSError as error:
            failures.append(Failure(removal.path, error.strerror or str(error)))
    return Outcome(tuple(removed), tuple(failures))


def _remove(directory: str, removal: Removal, dispose: Dispose) -> None:
    *parents, name = removal.parts
    with descent.opened(os.open(directory, descent.DIRECTORY), tuple(parents)) as (fd, directories):
        if directories != removal.directories:
            raise OSError(errno.ESTALE, "another directory has taken its directory's place", removal.path)
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if descent.file_identity(status) != removal.identity or not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "another file has taken its place", removal.path)
        if not temporary.is_temporary(name):
            dispose(fd, removal)
            return
        with temporary.claim(fd, name) as abandoned:
            if not abandoned:
                raise OSError(errno.EBUSY, "a live run writes it", removal.path)
            os.unlink(name, dir_fd=fd)
