"""The lease of a directory: one run at a time saves into it.

It is a lock of the operating system's on a file, which ends with the process that holds it, however that
ends; who holds it stands in a file beside it. The lock is one of fcntl(2)'s, since these pass to no child
process: a data loader's workers outlive a killed trainer by some seconds.
"""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.directory import own
from marlin_ckpt.directory.leasing import holders
from marlin_ckpt.directory.leasing.holders import ALONE
from marlin_ckpt.errors import DirectoryInUseError, StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.local.files import close_quietly
from marlin_ckpt.storage.paths import make_directory
from marlin_ckpt.urls import is_url

_LOCK, HOLDER = "lease.lock", "lease.json"
_REMOVAL_S, _NOTING_S = 60, 0.5  # how long to wait for whoever removes, or has not said who it is
_PAUSE_S, _REMOTE_PAUSE_S = 0.05, 0.5
_TAKEN = (errno.EACCES, errno.EAGAIN)  # fcntl(2)
# The disk is full: a run that deletes may go on, and make room. Or something is planted in our place.
_GO_ON = (errno.ENOSPC, errno.EDQUOT, *own.PLANTED)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_logger = get_logger("marlin_ckpt.lease")


class _Lock:
    """A locked file of this process's, with the runs that hold it."""

    def __init__(self, folder: int, lock: int) -> None:
        self.folder, self.lock = folder, lock
        self.holders: list[str] = []  # run ids; "": not known yet, or a command

    def close(self) -> None:
        for fd in (self.lock, self.folder):
            close_quietly(fd)


# By the process, and the lock file's device and inode, which nothing else gets while that is open.
_Key = tuple[int, int, int]
_held: dict[_Key, _Lock] = {}
_changing = threading.RLock()


def holder(directory: str) -> dict[str, Any]:
    """Who holds the lease of a directory, as its file or object says; {} where that says nobody."""
    if is_url(directory):
        from marlin_ckpt.directory.remote import lease  # noqa: PLC0415 - few directories are remote

        return lease.holder(directory)
    return own.read(directory, HOLDER)


@contextlib.contextmanager
def held(directory: str, run_id: str = "") -> Iterator["Lease"]:
    """Holds the lease of a directory, which is made if it is missing; within one process one run at a time.

    Where the file system has no locks, or no room for one, or where somebody has planted a link in the place
    of our own files, the log says so, and nothing is held.

    Args:
        directory: of checkpoints.
        run_id: of the run that will save there; "" where it is not known yet.

    Raises:
        DirectoryInUseError: another process holds it, or another run of this one.
        StorageError: the directory cannot be made or written to.
    """
    make_directory(directory)
    lease = Lease(directory, run_id)
    lease.take()
    try:
        yield lease
    finally:
        lease.drop()


@contextlib.contextmanager
def held_where_used(directories: Iterable[str], run_id: str = ALONE, *, moves_in: str = "") -> Iterator[None]:
    """Holds the leases of those of some directories in which a run has ever held one; elsewhere does nothing.

    Where another process is removing something it waits for the end of that.

    Args:
        directories: in which something is to be removed.
        run_id: of the run that removes; without one no run of this process may hold a lease of them.
        moves_in: one of them, into or out of whose trash something is to be moved. An object store copies
            and then removes: of two moves at once, there and back, each would take the other's copy for its
            own. So its lease is held there also where no run has ever held it, and nothing is left of it.

    Raises:
        DirectoryInUseError: a run saves in one of them.
        StorageError: it cannot be found out whether one does.
    """
    with contextlib.ExitStack() as stack:
        for directory in sorted(directories):  # so that no two wait for each other
            lease = Lease(directory, run_id)
            is_remote = is_url(directory)
            makes = is_remote and directory == moves_in
            _take_after_removals(lease, _REMOTE_PAUSE_S if is_remote else _PAUSE_S, makes=makes)
            stack.callback(lease.drop)
        yield


def _take_after_removals(lease: "Lease", pause_s: float, *, makes: bool) -> None:
    """Takes a lease; where another process is removing something, after that has ended.

    It tries again and again, since fcntl(2) has no lock that waits for a limited time. It does not wait for
    a run, which may hold the lease for weeks.
    """
    began_s = time.monotonic()
    while True:
        try:
            lease.take(makes=makes)
        except DirectoryInUseError as error:
            # Right after the lock was taken the file beside it may still name an earlier holder, or none.
            patience_s = _REMOVAL_S if error.holder.get("removes") else _NOTING_S
            if time.monotonic() - began_s >= patience_s:
                raise
        else:
            return
        time.sleep(pause_s)


class Lease:
    """The lease of a directory, for one run; see `held`."""

    def __init__(self, directory: str, run_id: str) -> None:
        self._directory, self._run_id = directory, run_id
        self._key: _Key | None = None
        self._is_wanted = False

    def take(self, *, makes: bool = True) -> None:  # noqa: C901 - one lock, step by step
        """Takes it.

        Args:
            makes: the lock where it is missing, which a directory has that was ever leased.

        Raises:
            As `held`.
        """
        if is_url(self._directory):
            self._take_remote(makes=makes)
            return
        try:
            if makes:
                make_directory(os.path.join(self._directory, naming.OWN_DIRECTORY))
            with _changing, contextlib.ExitStack() as stack:
                folder = own.open_folder(self._directory)
                stack.callback(close_quietly, folder)
                key = _key_in(folder)
                if not (key or makes):
                    return
                found = _held.get(key) if key else None
                if found is None:
                    lock = _locked(folder, self._directory, self._run_id)
                    if lock is None:
                        return
                    key = _key_of(os.fstat(lock))
                    found = _held[key] = _Lock(folder, lock)
                    stack.pop_all()
                elif any(holders.excludes(one, self._run_id) for one in found.holders):
                    raise holders.in_use(self._directory, holder(self._directory), self._run_id)
                found.holders.append(self._run_id)
                self._key, self._is_wanted = key, True
                if self._run_id or len(found.holders) == 1:
                    own.write(self._directory, HOLDER, holders.this_process(self._run_id))
        except OSError as error:
            # No run has saved by a path that is too long for the system.
            if not makes and error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                return
            if error.errno not in _GO_ON:
                if isinstance(error, StorageError):
                    raise
                raise _cannot_lock(self._directory, error) from error
            _go_without(self._directory, error)

    def _take_remote(self, *, makes: bool) -> None:
        from marlin_ckpt.directory.remote import sharing  # noqa: PLC0415 - few directories are remote

        self._is_wanted = sharing.take(self._directory, self._run_id, makes=makes)

    def _drop_remote(self) -> None:
        from marlin_ckpt.directory.remote import sharing  # noqa: PLC0415 - as above

        if self._is_wanted:
            sharing.drop(self._directory, self._run_id)

    def drop(self) -> None:
        """Lets go of it, for good."""
        if is_url(self._directory):
            self._drop_remote()
        self._is_wanted = False
        self._let_go()

    def _let_go(self) -> None:
        with _changing:
            found = None if self._key is None else _held.get(self._key)
            if found is None or self._key is None:
                return
            found.holders.remove(self._run_id)
            if not found.holders:
                del _held[self._key]
                with contextlib.suppress(OSError):
                    if _key_in(found.folder) == self._key:  # else it names whoever has the lease by now
                        os.unlink(HOLDER, dir_fd=found.folder)
                found.close()
            self._key = None

    def follow(self) -> None:
        """Takes the lease of the directory that has the name now, where that is another than at first.

        Somebody may have moved it away, or removed and made it again. Where no lease is held nothing is done.

        Raises:
            As `held`.
        """
        if not is_url(self._directory) and self._is_wanted and not self._is_of_this_name():
            self._let_go()
            make_directory(self._directory)
            self.take()

    def _is_of_this_name(self) -> bool:
        found = None if self._key is None else _held.get(self._key)
        if found is None:
            return False
        path = os.path.join(self._directory, naming.OWN_DIRECTORY, _LOCK)
        try:
            return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(found.lock))
        except OSError:
            return False


def _key_in(folder: int) -> _Key | None:
    """The key of the lock file that our own folder holds now; None where it holds none."""
    try:
        return _key_of(os.stat(_LOCK, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _key_of(lock: os.stat_result) -> _Key:
    return os.getpid(), lock.st_dev, lock.st_ino


def _locked(folder: int, directory: str, run_id: str) -> int | None:
    """Opens and locks the file; None where the file system has no locks.

    Raises:
        DirectoryInUseError: another process holds it.
        OSError: it cannot be opened or locked.
    """
    while True:
        lock = own.open_to_lock(folder, _LOCK)
        with contextlib.ExitStack() as stack:
            stack.callback(close_quietly, lock)
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _TAKEN:
                    raise holders.in_use(directory, own.read(directory, HOLDER), run_id) from error
                if error.errno not in _NO_LOCKS:
                    raise
                _go_without(directory, error)
                return None
            if not os.fstat(lock).st_nlink:  # removed between the two; whoever comes next makes another
                continue
            if dead := own.read(directory, HOLDER):
                who = holders.which(dead)
                _logger.info("Took over the lease of %s from %s, which has died.", directory, who)
            stack.pop_all()
            return lock


def _cannot_lock(directory: str, error: OSError) -> StorageError:
    return StorageError.of("cannot lock", os.path.join(directory, naming.OWN_DIRECTORY, _LOCK), error)


def _go_without(directory: str, error: OSError) -> None:
    _logger.warning(
        "There is no lease of %s (%s): nothing keeps two runs from it.", directory, own.why(error)
    )
