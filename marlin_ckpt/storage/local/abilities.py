"""What the file system of a directory can do, tried there with files that are removed again."""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from marlin_ckpt.storage.local import cloning, system_calls, temporary
from marlin_ckpt.storage.local.descent import open_top
from marlin_ckpt.storage.local.direct import BLOCK_BYTES
from marlin_ckpt.storage.local.files import close_quietly, closing, doing
from marlin_ckpt.storage.local.mounts import Mount, free_bytes_of, mount_of

_TARGET = "env"  # what the temporary files are for, in their names
_IN_USE = (errno.EACCES, errno.EAGAIN)  # of a lock: fcntl(2)
_NO_CONFLICT = "a second descriptor gets the lock too"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory, as its file system is concerned.

    Attributes:
        mount: the file system.
        free_bytes: what this user may still write.
        total_bytes: the size of the file system.
        free_files: how many files can still be made; None where the file system does not count them.
        block_bytes: the size that the file system prefers to read and write in.
        refusal: why no file can be made there, as the system calls it; "" where one can.
        abilities: by their names, "" for each that works, else why it does not; empty where none could be
            tried, since no file can be made.
    """

    mount: Mount
    free_bytes: int
    total_bytes: int
    free_files: int | None
    block_bytes: int
    refusal: str = ""
    abilities: dict[str, str] = field(default_factory=dict)


def look_at(directory: str) -> Place:
    """Finds out what the file system of a directory is and can do.

    Two small files are made there and removed. If the process is killed meanwhile, they are temporary files
    like any other, which the next save or `clean` there removes.

    Args:
        directory: which may be read-only.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read, or is no directory.
    """
    with closing(open_top(directory, follows=True)) as top:
        with doing("cannot read the directory", directory):
            found = os.statvfs(top)
        abilities, refusal = {}, ""
        try:
            abilities = _tried(top)
        except OSError as error:
            refusal = _reason(error)
        return Place(
            mount=mount_of(top),
            free_bytes=free_bytes_of(found),
            total_bytes=found.f_blocks * found.f_frsize,
            free_files=found.f_favail if found.f_files else None,
            block_bytes=found.f_bsize,
            refusal=refusal,
            abilities=abilities,
        )


def _tried(top: int) -> dict[str, str]:
    """Tries each ability; raises OSError where no file can be made, or removed."""
    with contextlib.ExitStack() as stack:
        made = [_made(top, stack) for _ in range(2)]
        trial = _Trial(top, *made[0], made[1][1])
        tries: dict[str, Callable[[], None]] = {
            "direct_io": trial.write_directly,
            "preallocation": trial.set_space_aside,
            "shared_blocks": trial.share_blocks,
            "hard_links": trial.link,
            "flock": trial.lock_by_flock,
            "fcntl_locks": trial.lock_by_fcntl,
            "directory_sync": trial.sync_directory,
            "exchange": trial.exchange,  # the last one, after which each file has the other's name
        }
        return {name: _outcome(one) for name, one in tries.items()}


def _made(top: int, stack: contextlib.ExitStack) -> tuple[int, str]:
    fd, name = temporary.create(top, _TARGET, is_private=True)
    stack.callback(close_quietly, fd)
    stack.callback(os.unlink, name, dir_fd=top)
    return fd, name


def _outcome(tries: Callable[[], None]) -> str:
    try:
        tries()
    except OSError as error:
        return _reason(error)
    return ""


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


class _Trial:
    """Tries what a file system can do; each method raises OSError where it cannot."""

    def __init__(self, top: int, fd: int, name: str, other: str) -> None:
        """Takes an open directory, a file in it with its name, and the name of another."""
        self._top, self._fd, self._name, self._other = top, fd, name, other

    def set_space_aside(self) -> None:
        system_calls.allocate(self._fd, BLOCK_BYTES)

    def write_directly(self) -> None:
        system_calls.set_direct(self._fd, on=True)
        try:
            with mmap.mmap(-1, BLOCK_BYTES) as page:  # aligned, as O_DIRECT wants it
                os.pwrite(self._fd, page, 0)
        finally:
            system_calls.set_direct(self._fd, on=False)

    def share_blocks(self) -> None:
        size = cloning.MOST_BLOCK_BYTES  # whole blocks, however large they are
        os.pwrite(self._fd, bytes(size), 0)
        cloning.clone_range(self._fd, size, self._fd, 0, size)

    def link(self) -> None:
        second = temporary.temporary_name(_TARGET)
        os.link(self._name, second, src_dir_fd=self._top, dst_dir_fd=self._top, follow_symlinks=False)
        os.unlink(second, dir_fd=self._top)

    def exchange(self) -> None:
        system_calls.exchange(self._top, self._name, self._other)

    def lock_by_flock(self) -> None:
        with self._opened_again() as second:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _expect_conflict(lambda: fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB))

    def lock_by_fcntl(self) -> None:
        # Locks of one process do not exclude one another; they do exclude one of an open file (F_OFD_SETLK).
        whole = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        with self._opened_again() as second:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _expect_conflict(lambda: fcntl.fcntl(second, fcntl.F_OFD_SETLK, whole))

    def _opened_again(self) -> contextlib.AbstractContextManager[int]:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        return closing(os.open(self._name, flags, dir_fd=self._top))

    def sync_directory(self) -> None:
        os.fsync(self._top)


def _expect_conflict(lock: Callable[[], object]) -> None:
    try:
        lock()
    except OSError as error:
        if error.errno in _IN_USE:
            return
        raise
    raise OSError(errno.ENOLCK, _NO_CONFLICT)
