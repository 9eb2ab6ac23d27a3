"""The lease of a directory: one run at a time saves into it.

It is a lock of the operating system's on a file, which ends with the process that holds it, however that
ends; who holds it stands in a file beside it. The lock is one of fcntl(2)'s, since these pass to no child
process: a data loader's workers outlive a killed trainer by some seconds.
"""

import contextlib
import datetime
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import Any

from marlin_ckpt.directory import own
from marlin_ckpt.errors import DirectoryInUseError, StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.local import descent
from marlin_ckpt.storage.local.publishing import make_directory

_LOCK, _HOLDER = "lease.lock", "lease.json"
_MOST_LETTERS = 80  # of a name that anybody may have written
_TAKEN = (errno.EACCES, errno.EAGAIN)  # fcntl(2)
# The disk is full: a run that deletes may go on, and make room. Or something is planted in our place.
_GO_ON = (errno.ENOSPC, errno.EDQUOT, *own.PLANTED)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_logger = get_logger("marlin_ckpt.lease")


# By the process, and the folder's device and inode: the locked file, and how often the lease is held.
_held: dict[tuple[int, ...], tuple[int, int]] = {}


@contextlib.contextmanager
def held(directory: str, run_id: str = "") -> Iterator[None]:
    """Holds the lease of a directory, which is made if it is missing; within one process as often as wanted.

    Where the file system has no locks, or no room for one, or where somebody has planted a link in the place
    of our own files, the log says so, and nothing is held.

    Args:
        directory: of checkpoints.
        run_id: of the run that will save there, where it is known.

    Raises:
        DirectoryInUseError: another process holds it.
        StorageError: the directory cannot be made or written to.
    """
    make_directory(directory)
    with contextlib.ExitStack() as stack:
        try:
            make_directory(os.path.join(directory, own.OWN_DIRECTORY))
            folder = stack.enter_context(own.folder(directory))
            key = (os.getpid(), *descent.directory_identity(os.fstat(folder)))
            # To open and close the file once more would end the lock: fcntl(2).
            lock = -1 if key in _held else own.open_to_lock(folder, _LOCK)
        except OSError as error:
            if error.errno not in _GO_ON:
                if isinstance(error, StorageError):
                    raise
                raise _cannot_lock(directory, error) from error
            _go_without(directory, error)
        else:
            if lock < 0 or _take(lock, directory):
                stack.enter_context(_counted(key, lock, folder))
                if lock >= 0 or run_id:
                    own.write(directory, _HOLDER, _holder(run_id))
        yield


@contextlib.contextmanager
def _counted(key: tuple[int, ...], lock: int, folder: int) -> Iterator[None]:
    """Counts how often this process holds a lease, and lets go of it with the last time."""
    locked, times = _held.get(key, (lock, 0))
    _held[key] = locked, times + 1
    try:
        yield
    finally:
        locked, times = _held.pop(key)
        if times > 1:
            _held[key] = locked, times - 1
        else:
            with contextlib.suppress(OSError):
                os.unlink(_HOLDER, dir_fd=folder)
            os.close(locked)


def _take(lock: int, directory: str) -> bool:
    """Locks an open file, and closes it where that fails; returns whether the file system has locks.

    Raises:
        DirectoryInUseError: another process holds it.
        StorageError: it cannot be locked.
    """
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno in _TAKEN:
            raise _in_use(directory, own.read(directory, _HOLDER)) from error
        if error.errno not in _NO_LOCKS:
            raise _cannot_lock(directory, error) from error
        _go_without(directory, error)
        return False
    if dead := own.read(directory, _HOLDER):
        _logger.info("Took over the lease of %s from %s, which has died.", directory, _name(dead))
    return True


def _cannot_lock(directory: str, error: OSError) -> StorageError:
    return StorageError.of("cannot lock", os.path.join(directory, own.OWN_DIRECTORY, _LOCK), error)


def _go_without(directory: str, error: OSError) -> None:
    _logger.warning(
        "There is no lease of %s (%s): nothing keeps two runs from it.", directory, own.why(error)
    )


def _in_use(directory: str, holder: dict[str, Any]) -> DirectoryInUseError:
    hint = "stop it, or choose another checkpointer.save_dir"
    return DirectoryInUseError(f"{_name(holder)} saves there", directory, hint, holder=holder)


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another run"
    run_id, pid, host = (str(holder.get(key) or "")[:_MOST_LETTERS] for key in ("run_id", "pid", "host"))
    run = f"run {run_id}, " if run_id else ""
    return f"another run ({run}process {pid} on {host})"


def _holder(run_id: str) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"host": socket.gethostname(), "pid": os.getpid(), "run_id": run_id, "since": now}
