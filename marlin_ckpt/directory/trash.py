"""The trash of a directory: what `clean --to-trash` moved away, until it is brought back or emptied.

Each removal has a folder of its own in it, numbered from 1, in which each file lies under the names that led
to it. A file is moved there and back by renaming alone, so that not one of its bytes is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from marlin_ckpt import naming
from marlin_ckpt.directory import removing
from marlin_ckpt.directory.removing import Dispose, Failure, Plan, Removal
from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.naming import TRASH
from marlin_ckpt.storage.local import descent, publishing

_DIGITS = 6
# What link(2) says where a file system has no hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class Trashed:
    """A file in the trash.

    Attributes:
        path: where it was, and will be again.
        size_bytes: its length.
        parts: the names that led to it, its own the last.
    """

    path: str
    size_bytes: int
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Returned:
    """What was brought back and what could not be."""

    files: tuple[Trashed, ...]
    failures: tuple[Failure, ...]


@contextlib.contextmanager
def filling(directory: PathText) -> Iterator[Dispose]:
    """One removal into the trash: yields what takes a file away, for `pruning.carry_out`.

    Args:
        directory: the plan's.
    """
    text = os.fspath(directory).rstrip("/") or "/"
    batches: list[int] = []

    def take(directory_fd: int, removal: Removal) -> None:
        if not batches:
            batches.append(_new_batch(text))
        _make_way(batches[0], removal.parts[:-1])
        with descent.opened(os.dup(batches[0]), removal.parts[:-1]) as (fd, _):
            name = removal.parts[-1]
            os.rename(name, name, src_dir_fd=directory_fd, dst_dir_fd=fd)

    try:
        yield take
    finally:
        for fd in batches:
            os.close(fd)
            with contextlib.suppress(MarlinError):  # where nothing could be moved
                remove_folders(text)


def _new_batch(directory: str) -> int:
    top = os.open(directory, descent.DIRECTORY)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(TRASH, dir_fd=top)
        trash = os.open(TRASH, descent.DIRECTORY, dir_fd=top)
    finally:
        os.close(top)
    try:
        number = max((int(name) for name in os.listdir(trash) if _is_batch(name)), default=0)
        while True:
            number += 1
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{number:0{_DIGITS}}", dir_fd=trash)
                return os.open(f"{number:0{_DIGITS}}", descent.DIRECTORY, dir_fd=trash)
    finally:
        os.close(trash)


def _is_batch(name: str) -> bool:
    return len(name) >= _DIGITS and name.isascii() and name.isdigit()


def _make_way(top_fd: int, parts: tuple[str, ...]) -> None:
    for depth, part in enumerate(parts):
        with (
            descent.opened(os.dup(top_fd), parts[:depth]) as (fd, _),
            contextlib.suppress(FileExistsError),
        ):
            os.mkdir(part, dir_fd=fd)


def bring_back(directory: PathText, *, dry_run: bool = False) -> Returned:
    """Brings back what the last removal moved into the trash; what was put in its place meanwhile stays.

    Args:
        directory: the directory whose trash it is.
        dry_run: only say what would be brought back.

    Raises:
        CheckpointNotFoundError: there is no such directory, or nothing in its trash.
        StorageError: it cannot be read, or is a symbolic link.
    """
    text = os.fspath(directory).rstrip("/") or "/"
    top = descent.open_top(text)
    try:
        with descent.opened(os.dup(top), (TRASH,)) as (trash, _):
            batches = sorted(filter(_is_batch, os.listdir(trash)), key=int, reverse=True)
        # A removal that failed or was killed before it moved a file has left a folder with none in it.
        batch, found = next(
            ((one, files) for one in batches if (files := [*_files(top, text, (TRASH, one))])), ("", [])
        )
        if not batch:
            raise CheckpointNotFoundError("there is nothing in the trash", text)
        found.sort(key=lambda one: naming.order(one.path))
        if dry_run:
            return Returned(tuple(found), ())
        returned, failures = [], []
        for one in found:
            try:
                _return(top, (TRASH, batch), one)
                returned.append(one)
            except OSError as error:
                failures.append(Failure(one.path, error.strerror or str(error)))
        _remove_folders(top, (TRASH, batch))
        return Returned(tuple(returned), tuple(failures))
    except FileNotFoundError as error:
        raise CheckpointNotFoundError("there is nothing in the trash", text) from error
    except OSError as error:
        raise StorageError.of("cannot read the trash", os.path.join(text, TRASH), error) from error
    finally:
        os.close(top)


def _files(top: int, text: str, batch: tuple[str, ...]) -> Iterator[Trashed]:
    pending: list[tuple[str, ...]] = [()]
    while pending:
        parts = pending.pop()
        with descent.opened(os.dup(top), (*batch, *parts)) as (fd, _):
            for name in sorted(os.listdir(fd)):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append((*parts, name))
                elif stat.S_ISREG(status.st_mode):
                    yield Trashed(os.path.join(text, *parts, name), status.st_size, (*parts, name))


def _return(top: int, batch: tuple[str, ...], one: Trashed) -> None:
    """Moves one file back, under a name that nothing has.

    Raises:
        OSError: EEXIST where something has the name, or whatever else goes wrong.
    """
    *parents, name = one.parts
    _make_way(top, tuple(parents))
    with (
        descent.opened(os.dup(top), (*batch, *parents)) as (source, _),
        descent.opened(os.dup(top), tuple(parents)) as (target, _),
    ):
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            publishing.sync_open_directory(target)
        except FileExistsError:
            there, here = (os.stat(name, dir_fd=fd, follow_symlinks=False) for fd in (source, target))
            if not os.path.samestat(there, here):  # else an earlier try was interrupted here
                raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=target, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from error
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            return
        os.unlink(name, dir_fd=source)


def plan_emptying(directory: PathText) -> Plan | None:
    """Decides to remove what lies in the trash for good; None where there is no trash.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is a symbolic link.
    """
    text = os.fspath(directory).rstrip("/") or "/"
    os.close(descent.open_top(text))
    try:
        return removing.plan_all(os.path.join(text, TRASH))
    except CheckpointNotFoundError:
        return None


def remove_folders(directory: PathText) -> None:
    """Removes the trash as far as nothing but folders is left of it."""
    top = descent.open_top(os.fspath(directory).rstrip("/") or "/")
    try:
        _remove_folders(top, (TRASH,))
    finally:
        os.close(top)


def _remove_folders(top: int, parts: tuple[str, ...]) -> None:
    """Removes a folder with those in it as far as they are empty, and the trash with its last one."""
    with contextlib.suppress(OSError), descent.opened(os.dup(top), parts) as (fd, _):
        for name in os.listdir(fd):
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                _remove_folders(top, (*parts, name))
    with contextlib.suppress(OSError), descent.opened(os.dup(top), parts[:-1]) as (fd, _):
        os.rmdir(parts[-1], dir_fd=fd)
    if len(parts) > 1 and parts[0] == TRASH:
        with contextlib.suppress(OSError):
            os.rmdir(TRASH, dir_fd=top)
