"""Files of a folder that has not yet its name."""

import contextlib
import os
from collections.abc import Callable
from typing import NamedTuple

from marlin_ckpt.storage.local.files import close_quietly, doing, open_regular
from marlin_ckpt.storage.local.writer import open_writer
from marlin_ckpt.storage.target import Target


class Facts(NamedTuple):
    """A file that is durable.

    Attributes:
        name: of it, in the folder.
        size_bytes: its length.
        crc32: of all its bytes.
    """

    name: str
    size_bytes: int
    crc32: int


def write_durably(  # noqa: PLR0913 - keywords
    folder: str,
    name: str,
    expected_bytes: int,
    fill: Callable[[Target], int],
    image: memoryview | None = None,
    *,
    published: str,
    shared_bytes: int | None = None,
) -> Facts:
    """Writes a new file into a folder that is not yet published; where that fails, it is not there.

    Args:
        folder: its path.
        name: of the file.
        expected_bytes: how long it will be.
        fill: puts its content into it, and returns the CRC32 of that.
        image: memory in which parts of it are at their place already; see `DirectPieces`.
        published: the path that the folder will have, for messages.
        shared_bytes: how many of its bytes will be shared with other files; see `open_writer`.

    Raises:
        StorageError: a system call failed.
    """
    with doing("cannot write", os.path.join(published, name)):
        path = os.path.join(folder, name)
        fd = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        try:
            with open_writer(fd, expected_bytes, image, shared_bytes=shared_bytes) as writer:
                crc32 = fill(writer)
                size = writer.finish()
            os.fsync(fd)
        except BaseException:
            close_quietly(fd)
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        os.close(fd)  # not quietly: some file systems report a failed write only then
    return Facts(name, size, crc32)
