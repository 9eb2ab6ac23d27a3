"""The leases in object stores that this process holds, each by one run, which may hold it several times."""

import errno
import os
import threading

from marlin_ckpt.directory.leasing import holders
from marlin_ckpt.directory.leasing.holders import ALONE
from marlin_ckpt.directory.remote import lease
from marlin_ckpt.directory.remote.lease import RemoteLock
from marlin_ckpt.errors import DirectoryInUseError, StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.urls import parse

_logger = get_logger("marlin_ckpt.lease")


class _Held:
    """What this process holds."""

    def __init__(self) -> None:
        self.changing = threading.RLock()
        self.locks: dict[str, tuple[RemoteLock, list[str]]] = {}  # by URL, with the runs that hold it


_here = _Held()


def _forget() -> None:
    """A forked child holds nothing: what it does is not its parent's run."""
    global _here  # noqa: PLW0603 - of the process
    _here = _Held()


os.register_at_fork(after_in_child=_forget)


def take(directory: str, run_id: str, *, makes: bool) -> bool:
    """Takes the lease of a directory, or joins the run of this process that has it.

    Args:
        directory: its URL.
        run_id: of the run that will save there; "" where it is not known; `ALONE` to remove.
        makes: take it also where no run has ever held it.

    Returns:
        whether it is held now.

    Raises:
        DirectoryInUseError: another run holds it.
        StorageError: the store refuses, does not answer, or does not obey conditions.
    """
    place = str(parse(directory))
    if _joins(place, run_id):
        return True
    if not makes and not lease.was_held(place):
        return False
    removes = run_id == ALONE
    try:
        # What removes is asked for by somebody who waits for it: it is told at once.
        lock = RemoteLock(place, run_id, waits=not removes)
    except DirectoryInUseError as error:
        if _joins(place, run_id):  # another thread was faster
            return True
        raise holders.in_use(place, error.holder, run_id) from None
    except StorageError as error:
        # A store without conditions has no leases; a run that is to go on without them leaves one there.
        if not removes or error.errno != errno.ENOTSUP or lease.was_held(place):
            raise
        _logger.warning("There is no lease of %s (%s): let nothing else move there.", place, error.what)
        return False
    with _here.changing:
        _here.locks[place] = (lock, [run_id])
    return True


def drop(directory: str, run_id: str) -> None:
    """Lets go of a lease that this process holds; the last run that does so frees it."""
    place = str(parse(directory))
    with _here.changing:
        lock, runs = _here.locks.get(place, (None, [""]))
        if run_id in runs:
            runs.remove(run_id)
        if lock is None or runs:
            return
        del _here.locks[place]
    lock.drop()


def _joins(place: str, run_id: str) -> bool:
    with _here.changing:
        lock, runs = _here.locks.get(place, (None, [""]))
        if lock is None:
            return False
        if any(holders.excludes(one, run_id) for one in runs):
            raise holders.in_use(place, lease.holder(place), run_id)
        runs.append(run_id)
    if run_id and run_id != ALONE:
        lock.name(run_id)
    return True
