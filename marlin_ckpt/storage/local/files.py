"""Regular files of a local file system: opening them without waiting, and reading them at any offset."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError, StorageError, Translating, drop_frames
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.hints import instead_of_directory, instead_of_missing, of_file
from marlin_ckpt.storage.reading.readers import Readers

if TYPE_CHECKING:
    from marlin_ckpt.storage.reading.past_cache import PastCache

Item = TypeVar("Item")
Result = TypeVar("Result")

NO_DIRECTORY = "no such directory"
STANDARD_INPUT = "-"  # in place of a path
_STDIN = 0
_PIECE_BYTES = 1 << 20  # of standard input, that are copied at once
_WORTH_OPENING_BYTES = 4 << 20  # anew, for a stretch
_LONGEST_READ = 1 << 30  # bytes that one call is asked for; Linux gives 2 GiB at most: read(2)


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Closes a descriptor in the end, through which nothing was written."""
    try:
        yield fd
    finally:
        close_quietly(fd)


def close_quietly(fd: int) -> None:
    """Closes a descriptor through which nothing was written, or after an error that counts more."""
    with contextlib.suppress(OSError):
        os.close(fd)


def doing(action: str, path: str, missing: str = "", *, is_named: bool = True) -> Translating:
    """Turns the system's errors into ours; what is already one of ours passes through.

    Args:
        action: that was tried, such as `cannot read`.
        path: that it was tried on.
        missing: how a CheckpointNotFoundError says that there is no such path; "": a StorageError says so.
        is_named: whether a person named the path; then the error hints at one that is there, which takes
            looking around.

    Returns:
        the context. It raises StorageError where a system call failed, or CheckpointNotFoundError.
    """

    def translate(error: Exception) -> None:
        if not isinstance(error, OSError) or isinstance(error, MarlinError):
            return
        if isinstance(error, FileNotFoundError):
            if not os.path.isabs(path):
                check_working_directory()
            if missing:
                hint = instead_of_missing(path, is_directory=missing == NO_DIRECTORY) if is_named else ""
                raise CheckpointNotFoundError(missing, path, hint) from error
        raised = StorageError.of(action, path, error)
        if missing == NO_DIRECTORY and is_named and os.path.isfile(path):
            raised.hint = of_file(path)
        try:
            raise raised from error
        finally:
            del raised  # its traceback holds this frame, and through it what was worked on

    return Translating(translate)


def absolute(path: PathText) -> str:
    """An absolute path, without a look at what it leads to.

    Raises:
        StorageError: it is relative, and there is no working directory any more.
    """
    if not os.path.isabs(path):
        check_working_directory()
    return os.path.abspath(path)


class FileSource:
    """An open file as a `Source`; whoever opened the descriptor closes it, after `close`."""

    def __init__(self, fd: int, path: str, past_cache: "PastCache | None" = None) -> None:
        self._fd = fd
        self.path = path
        self._past_cache = past_cache
        self._readers = Readers(fd)
        with doing("cannot read", path):
            self.size_bytes = os.fstat(fd).st_size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills a buffer; see `Source.read_into`."""
        done, read, past = 0, -1, self._past_cache
        try:
            while read and done < len(buffer):
                piece, at = buffer[done : done + _LONGEST_READ], offset + done
                done += (read := past.read(piece, at) if past else os.preadv(self._fd, [piece], at))
        except OSError as error:
            raise StorageError.of("cannot read", self.path, error) from error
        return done

    @contextlib.contextmanager
    def stretch(self, offset: int, size: int, *, is_own: bool = False) -> Iterator["FileSource"]:
        """The same file, for a reader that goes through a stretch of it; see `stretch`."""
        if size < _WORTH_OPENING_BYTES:
            yield self
            return
        with self._readers.reading(offset, size, is_own=is_own) as (fd, past_cache):
            yield FileSource(fd, self.path, past_cache)

    def read_each(
        self, items: Iterable[Item], place: Callable[[Item], tuple[int, int]]
    ) -> Iterator[tuple[Item, bytes]]:
        """Reads small stretches, which the disk is asked for all at once; see `source.read_each`."""
        for item in self._readers.asked_for(items, place, self.size_bytes):
            yield item, self.read(*place(item))

    def close(self) -> None:
        """Closes what stretches of it were read with, and not the descriptor."""
        self._readers.close()

    def read(self, offset: int, size: int) -> bytes:
        """Reads bytes; see `Source.read`."""
        data = bytearray(min(size, max(0, self.size_bytes - offset)))
        read = self.read_into(offset, memoryview(data))
        return bytes(data) if read == len(data) else bytes(data[:read])


@contextlib.contextmanager
def open_source(path: str) -> Iterator[FileSource]:
    """Opens a regular file for reading and closes it again.

    Raises:
        CheckpointNotFoundError: there is no such file.
        StorageError: it cannot be opened.
    """
    try:
        with doing("cannot read", path, missing="no such file"):
            fd = open_regular(path)
    except StorageError as error:
        error.hint = error.hint or instead_of_directory(path)
        raise
    with closing(fd), contextlib.closing(FileSource(fd, path)) as source:
        yield source


@contextlib.contextmanager
def open_standard_input() -> Iterator[FileSource]:
    """Opens what the process is given on its standard input, under the name `-`.

    Formats are read at any offset. So what comes through a pipe is first copied to a file without a name, in
    the directory for temporary files.

    Raises:
        StorageError: there is none, it is a terminal, it cannot be read, or there is no room for the copy.
    """
    with doing("cannot read", STANDARD_INPUT):
        if os.isatty(_STDIN):
            hint = "pipe a file into the command, or name one"
            raise StorageError("standard input is a terminal", STANDARD_INPUT, hint)
        is_file = stat.S_ISREG(os.fstat(_STDIN).st_mode) and os.lseek(_STDIN, 0, os.SEEK_CUR) == 0
    if is_file:
        with contextlib.closing(FileSource(_STDIN, STANDARD_INPUT)) as source:
            yield source
        return
    import tempfile  # noqa: PLC0415 - few commands need it

    action, place = "cannot copy standard input to a file", tempfile.gettempdir()
    with contextlib.ExitStack() as stack:
        with doing(action, place):
            copy = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        while piece := _read_standard_input():
            with doing(action, place):
                left = memoryview(piece)
                while left:
                    left = left[copy.write(left) :]
        yield stack.enter_context(contextlib.closing(FileSource(copy.fileno(), STANDARD_INPUT)))


def _read_standard_input() -> bytes:
    with doing("cannot read", STANDARD_INPUT):
        return os.read(_STDIN, _PIECE_BYTES)


def open_regular(path: PathText, flags: int = os.O_RDONLY, *, dir_fd: int | None = None) -> int:
    """Opens a regular file, without waiting on a FIFO or a device.

    Args:
        path: the file.
        flags: of open(2): to write, or not to follow a link, say.
        dir_fd: the directory that a relative path begins in.

    Returns:
        the file descriptor, which the caller closes.

    Raises:
        OSError: it cannot be opened, or is not a regular file (errno EINVAL, `strerror` says what it is).
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=dir_fd)
    try:
        _check_regular(fd, path)
    except OSError:
        close_quietly(fd)
        raise
    return fd


def _check_regular(fd: int, path: PathText) -> None:
    kind = file_kind(os.fstat(fd).st_mode)
    if kind != "a regular file":
        raise OSError(errno.EINVAL, f"is {kind}", os.fspath(path))


def again_if_stale(read: Callable[[], Result]) -> Result:
    """Opens and reads a file; once more where a network file system calls its handle stale: nfs(5).

    Args:
        read: does both, and changes nothing that a second call would not change in the same way.

    Raises:
        StorageError: it is stale again, or cannot be read for another reason.
    """
    try:
        return read()
    except StorageError as error:
        if error.errno != errno.ESTALE:
            raise
        drop_frames(error)
    return read()


def check_working_directory() -> None:
    """Checks that relative paths lead anywhere.

    Raises:
        StorageError: the working directory has been removed, or cannot be reached.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise StorageError.of_working_directory(error) from error


def sync_open_directory(fd: int) -> None:
    """Waits until the names in an open directory are on the disk, as far as its file system can tell.

    Raises:
        OSError: the system call failed.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and FUSE file systems know no fsync of directories, and say so; they order renames
        # themselves or not at all.
        if error.errno != errno.EINVAL:
            raise


def file_kind(mode: int) -> str:
    """What a file's mode says it is, in words."""
    kinds = {
        "-": "a regular file", "d": "a directory", "l": "a symbolic link", "p": "a FIFO", "s": "a socket",
        "b": "a block device", "c": "a character device",
    }  # fmt: skip
    return kinds.get(stat.filemode(mode)[0], "a special file")
