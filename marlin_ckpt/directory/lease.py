"""The lease of a directory: one run at a time saves into it.

It is a lock of the operating system's on a file, which ends with the process that holds it, however that
ends; who holds it stands in a file beside it. The lock is one of fcntl(2)'s, since these pass to no child
process: a data loader's workers outlive a killed trainer by some seconds.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from marlin_ckpt.directory import notes
from marlin_ckpt.errors import DirectoryInUseError, StorageError
from marlin_ckpt.storage.local.publishing import make_directory

_LOCK, _HOLDER = "lease.lock", "lease.json"
_TAKEN = (errno.EACCES, errno.EAGAIN)  # fcntl(2)
_FULL = (errno.ENOSPC, errno.EDQUOT)  # a run that deletes may go on, and make room
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_logger = logging.getLogger("marlin_ckpt.lease")
_held: dict[tuple[int, int, int], int] = {}  # process, device and inode: how often


@contextlib.contextmanager
def held(directory: str, run_id: str = "") -> Iterator[None]:
    """Holds the lease of a directory, which is made if it is missing; within one process as often as wanted.

    Where the file system has no locks, or no room for one, the log says so, and nothing is held.

    Args:
        directory: of checkpoints.
        run_id: of the run that will save there, where it is known.

    Raises:
        DirectoryInUseError: another process holds it.
        StorageError: the directory cannot be made or written to.
    """
    own = os.path.join(directory, notes.OWN_DIRECTORY)
    make_directory(directory)
    try:
        make_directory(own)
    except StorageError as error:
        if error.errno not in _FULL:
            raise
        _go_without(directory, error)
        yield
        return
    found = os.stat(own)
    key = (os.getpid(), found.st_dev, found.st_ino)
    if key in _held:
        # To open and close the file once more would end the lock: fcntl(2).
        _held[key] += 1
        if run_id:
            notes.write(directory, _holder(run_id), _HOLDER)
        try:
            yield
        finally:
            _held[key] -= 1
        return
    with _locked(own, directory, run_id):
        _held[key] = 1
        try:
            yield
        finally:
            del _held[key]


@contextlib.contextmanager
def _locked(own: str, directory: str, run_id: str) -> Iterator[None]:
    path = os.path.join(own, _LOCK)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno not in _FULL:
            raise StorageError.of("cannot open", path, error) from error
        _go_without(directory, error)
        yield
        return
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise _in_use(directory, notes.read(directory, _HOLDER)) from error
            if error.errno not in _NO_LOCKS:
                raise StorageError.of("cannot lock", path, error) from error
            _go_without(directory, error)
            yield
            return
        if dead := notes.read(directory, _HOLDER):
            _logger.info("Took over the lease of %s from %s, which has died.", directory, _name(dead))
        notes.write(directory, _holder(run_id), _HOLDER)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(own, _HOLDER))
    finally:
        os.close(fd)


def _go_without(directory: str, error: OSError) -> None:
    why = os.strerror(error.errno or 0)
    _logger.warning("There is no lease of %s (%s): nothing keeps two runs from it.", directory, why)


def _in_use(directory: str, holder: dict[str, Any]) -> DirectoryInUseError:
    hint = "stop it, or choose another checkpointer.save_dir"
    return DirectoryInUseError(f"{_name(holder)} saves there", directory, hint, holder=holder)


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another run"
    run = f"run {holder['run_id']}, " if holder.get("run_id") else ""
    return f"another run ({run}process {holder.get('pid')} on {holder.get('host')})"


def _holder(run_id: str) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"host": socket.gethostname(), "pid": os.getpid(), "run_id": run_id, "since": now}
