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
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from marlin_ckpt.directory import naming
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage import temporary

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Device, inode and, of a file, when it was last written: a freed inode number is used again at once. Not the
# time of its change, which removing another of its names moves.
_Identity = tuple[int, ...]
_Reason = Callable[[int, str], str]


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

    def reason(_: int, name: str) -> str:
        wanted = naming.has_extension(name, extension) and not temporary.is_temporary(name)
        return f"extension {extension}" if wanted else ""

    return _plan(directory, reason, recursive=False)


def plan_sweeping(directory: PathText) -> Plan:
    """Decides what dead runs left half written directly in a directory.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """

    def reason(directory_fd: int, name: str) -> str:
        return _left_behind(directory_fd, name) if temporary.is_temporary(name) else ""

    return _plan(directory, reason, recursive=False)


def _left_behind(directory_fd: int, name: str) -> str:
    return "left by a dead run" if temporary.is_abandoned(directory_fd, name) else ""


def _plan(directory: PathText, reason: _Reason, *, recursive: bool) -> Plan:
    # With a slash behind it a link would be followed, whatever O_NOFOLLOW says; shells complete it so.
    text = os.fspath(directory).rstrip("/") or "/"
    try:
        fd = os.open(text, _DIRECTORY)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError("no such directory", text) from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and os.path.islink(text):
            hint = "name the directory that it points to"
            with contextlib.suppress(OSError):  # the link may be gone again
                hint += f": {os.path.realpath(text)}"
            what = "refused: removing through a symbolic link"
            raise StorageError(what, text, hint, errno=errno.ELOOP) from error
        raise StorageError.of("cannot read the directory", text, error) from error
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
    return Plan(text, tuple(sorted(removals, key=_order)), tuple(failures))


def _order(removal: Removal) -> tuple[str, int, str]:
    name = naming.parse_any(removal.parts[-1], removal.parts[-1].rpartition(".")[2])
    return (os.path.dirname(removal.path), -1 if name is None else name.index, removal.path)


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
    with _opened(os.dup(top_fd), parts) as (fd, directories):
        for name in os.listdir(fd):
            where = os.path.join(top, *parts, name)
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    below.append((*parts, name))
                elif stat.S_ISREG(status.st_mode) and (why := reason(fd, name)):
                    identity = _file_identity(status)
                    removals.append(
                        Removal(where, status.st_size, why, (*parts, name), directories, identity)
                    )
            except FileNotFoundError:
                continue  # gone since the directory was read
            except OSError as error:
                failures.append(Failure(where, error.strerror or str(error)))
    return below


@contextlib.contextmanager
def _opened(top_fd: int, parts: tuple[str, ...]) -> Iterator[tuple[int, tuple[_Identity, ...]]]:
    """Goes down from an open directory, which it closes, without following links.

    Yields:
        the last directory's descriptor, and the identity of each on the way.
    """
    fd = top_fd
    try:
        directories = [_identity(os.fstat(fd))]
        for part in parts:
            child = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = child
            directories.append(_identity(os.fstat(fd)))
        yield fd, tuple(directories)
    finally:
        os.close(fd)


def _identity(status: os.stat_result) -> _Identity:
    return (status.st_dev, status.st_ino)


def _file_identity(status: os.stat_result) -> _Identity:
    return (status.st_dev, status.st_ino, status.st_mtime_ns)


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
    *parents, name = removal.parts
    with _opened(os.open(directory, _DIRECTORY), tuple(parents)) as (fd, directories):
        if directories != removal.directories:
            raise OSError(errno.ESTALE, "another directory has taken its directory's place", removal.path)
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if _file_identity(status) != removal.identity or not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "another file has taken its place", removal.path)
        if not temporary.is_temporary(name):
            os.unlink(name, dir_fd=fd)
            return
        with temporary.claim(fd, name) as abandoned:
            if not abandoned:
                raise OSError(errno.EBUSY, "a live run writes it", removal.path)
            os.unlink(name, dir_fd=fd)
