"""The file that a directory keeps its events in: appended to, rotated, and read, by whoever saves there.

It is `events.jsonl` in our own folder; older ones are beside it, from `events.1.jsonl`, the newest, to
`events.4.jsonl`. Writers take turns by a lock on the file. A process that dies while it writes leaves a line
without its end: the next one cuts it off before it appends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import time
from collections.abc import Iterator

from marlin_ckpt import naming
from marlin_ckpt.directory import own
from marlin_ckpt.storage.local.files import FileSource, closing, open_regular
from marlin_ckpt.storage.local.publishing import make_directory
from marlin_ckpt.storage.local.system_calls import write_all
from marlin_ckpt.urls import is_url

_FILE, _OLDER = "events.jsonl", "events.{}.jsonl"
MOST_BYTES = 16 << 20  # of one file; some 80,000 events
OLDER_FILES = 4
LONGEST_LINE = 1 << 20  # bytes; we write no longer one, and read none
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # flock(2); then nobody waits
PATIENCE_S = 2.0  # whoever has the lock for longer was stopped, or means harm: no save waits for that
_PAUSE_S = 0.002
_named: set[tuple[int, int]] = set()  # devices and inodes of files whose names this process has made durable


def append(directory: str, lines: bytes, *, is_durable: bool, waits: bool = True) -> None:
    """Adds lines to the events of a directory, all of them or none.

    Args:
        directory: of checkpoints, which is there; our own folder in it is made if it is missing.
        lines: each with a line feed at its end.
        is_durable: return when they are on the disk.
        waits: for another process that has the lock, though not for long.

    Raises:
        OSError: they cannot be written; EAGAIN where another process keeps the lock.
    """
    if is_url(directory):
        from marlin_ckpt.directory.remote import journal  # noqa: PLC0415 - few directories are remote

        journal.append(directory, lines)
        return
    patience_s = PATIENCE_S if waits else 0.0
    with _folder(directory) as folder, _locked(folder, patience_s) as fd:
        end = _cut_torn_line(fd)
        if end and end + len(lines) > MOST_BYTES:
            os.fsync(fd)  # what was not durable yet must not be missing before what will be
            _rotate(folder)
            # Whoever waits for the old one looks again, and may be the first to write to the new one.
            with _locked(folder, patience_s) as new:
                _add(new, _cut_torn_line(new), lines, folder if is_durable else None)
        else:
            _add(fd, end, lines, folder if is_durable else None)


def read(directory: str) -> Iterator[bytes]:
    """The lines of a directory's events, the oldest first, each without its end.

    One that is still being written, or was never finished, is left out; of one that is too long the beginning
    is given.

    Raises:
        OSError: a file cannot be read, or is planted; a directory without events has no lines.
    """
    if is_url(directory):
        from marlin_ckpt.directory.remote import journal  # noqa: PLC0415 - as above

        yield from journal.read(directory)
        return
    with contextlib.ExitStack() as stack:
        for fd in reversed(_opened(directory, stack)):
            yield from _lines(FileSource(fd, _FILE))


def exists(directory: str) -> bool:
    """Whether a directory has events."""
    if is_url(directory):
        from marlin_ckpt.directory.remote import journal  # noqa: PLC0415 - as above

        return journal.exists(directory)
    try:
        with own.folder(directory) as folder:
            os.stat(_FILE, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _folder(directory: str) -> contextlib.AbstractContextManager[int]:
    with contextlib.suppress(FileNotFoundError):
        return own.folder(directory)
    if not os.path.isdir(directory):  # it was removed with all that was in it, and is not made again for this
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
    make_directory(os.path.join(directory, naming.OWN_DIRECTORY))
    return own.folder(directory)


def _open(folder: int) -> int:
    return open_regular(_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, dir_fd=folder)


@contextlib.contextmanager
def _locked(folder: int, patience_s: float) -> Iterator[int]:
    """Opens and locks the file that has the name, also where somebody has just rotated it."""
    while True:
        with closing(_open(folder)) as fd:
            _lock(fd, patience_s)
            try:
                if _has_name(fd, folder):
                    yield fd
                    return
            finally:
                _unlock(fd)


def _lock(fd: int, patience_s: float) -> None:
    began_s = time.monotonic()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() - began_s >= patience_s:
                raise BlockingIOError(error.errno, "another process keeps it locked") from error
            time.sleep(_PAUSE_S)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return
        else:
            return


def _unlock(fd: int) -> None:
    # A process that was forked meanwhile has the descriptor, too, and would keep the lock until it ends.
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)


def _has_name(fd: int, folder: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(_FILE, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _cut_torn_line(fd: int) -> int:
    """Cuts off what follows the last line feed; returns where the file ends.

    What is longer than any line of ours is somebody else's: it stays, as a line.
    """
    end = os.fstat(fd).st_size
    if not end or os.pread(fd, 1, end - 1) == b"\n":
        return end
    start = max(0, end - LONGEST_LINE)
    found = os.pread(fd, end - start, start).rfind(b"\n")
    if start and found < 0:
        return end + os.pwrite(fd, b"\n", end)
    os.ftruncate(fd, start + found + 1)
    return start + found + 1


def _add(fd: int, end: int, lines: bytes, folder: int | None) -> None:
    status = os.fstat(fd)
    file = status.st_dev, status.st_ino
    if not end:
        _named.discard(file)  # the number of a file that was removed
    os.lseek(fd, end, os.SEEK_SET)
    try:
        write_all(fd, memoryview(lines))
        if folder is not None:
            os.fsync(fd)
            if file not in _named:
                os.fsync(folder)
                _named.add(file)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, end)  # they will be written again
        raise


def _rotate(folder: int) -> None:
    """Gives each file the next number; the last one goes."""
    names = [_FILE, *(_OLDER.format(number) for number in range(1, OLDER_FILES + 1))]
    for name, to in reversed(list(itertools.pairwise(names))):
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, to, src_dir_fd=folder, dst_dir_fd=folder)


def _opened(directory: str, stack: contextlib.ExitStack) -> list[int]:
    """The files, the newest first: a rotation meanwhile shows one twice, and none is missed."""
    try:
        folder = stack.enter_context(own.folder(directory))
    except FileNotFoundError:
        return []
    found: dict[tuple[int, int], int] = {}
    for name in (_FILE, *(_OLDER.format(number) for number in range(1, OLDER_FILES + 1))):
        with contextlib.suppress(FileNotFoundError):
            fd = stack.enter_context(closing(open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)))
            status = os.fstat(fd)
            found.setdefault((status.st_dev, status.st_ino), fd)
    return list(found.values())


def _lines(source: FileSource) -> Iterator[bytes]:
    """The whole lines of a file, read in pieces: anybody may have made it, of any length."""
    at, rest = 0, b""
    while piece := source.read(at, LONGEST_LINE):
        at += len(piece)
        first, *others = piece.split(b"\n")
        if not others:
            rest = (rest + first)[: LONGEST_LINE + 1]
            continue
        *whole, last = others
        yield (rest + first)[: LONGEST_LINE + 1]
        yield from whole
        rest = last
