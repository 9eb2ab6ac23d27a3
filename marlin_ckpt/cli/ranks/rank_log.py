"""The log of one process of a run on many ranks: `rank_3.log` in the folder for our own bookkeeping.

It is for people, of the last start alone, and never more than a megabyte. What cannot be written is left.
"""

import contextlib
import os
import re

from marlin_ckpt.directory import own
from marlin_ckpt.storage.local import system_calls
from marlin_ckpt.storage.local.files import close_quietly, open_regular

MOST_BYTES = 1 << 20
_KEPT_BYTES = MOST_BYTES // 2  # the end of a log that has grown too long
_CUT = b"[what came before was longer than a log may be]\n"
_NAME = re.compile(r"rank_(\d+)\.log")


def name_of(rank: int) -> str:
    """The name of a rank's log."""
    return f"rank_{rank}.log"


def sweep(directory: str, first: int) -> None:
    """Removes the logs that runs on more ranks have left.

    Args:
        directory: where checkpoints are saved.
        first: the lowest rank whose log goes.
    """
    with contextlib.suppress(OSError), own.folder(directory) as folder_fd:
        for name in os.listdir(folder_fd):
            found = _NAME.fullmatch(name)
            if found and int(found[1]) >= first:
                os.unlink(name, dir_fd=folder_fd)


class RankLog:
    """Takes text, and writes it once it is known where; that may be late, or never."""

    def __init__(self, rank: int) -> None:
        """Takes the number of the process among those of the run."""
        self._name = name_of(rank)
        self._directory = ""
        self._is_new = True
        self._fd = -1
        self._size = 0
        self._waiting = b""

    def keep_in(self, directory: str, *, is_new: bool) -> None:
        """Writes to our folder in a directory from now on, which need not be there yet.

        Args:
            directory: where the run saves.
            is_new: whether this replaces what an earlier start has left.
        """
        self._directory, self._is_new = directory, is_new
        self._write(b"")

    def write(self, text: str) -> None:
        """Adds text."""
        self._write(text.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Ends the log."""
        self._write(b"")
        if self._fd >= 0:
            close_quietly(self._fd)
        self._fd, self._directory, self._waiting = -1, "", b""

    def _write(self, data: bytes) -> None:
        self._waiting += data
        with contextlib.suppress(OSError):
            if self._fd < 0 and self._directory:
                self._open()
            if self._fd >= 0 and self._waiting:
                system_calls.write_all(self._fd, memoryview(self._waiting))
                self._size += len(self._waiting)
                self._waiting = b""
                self._bound()
        self._waiting = self._waiting[-_KEPT_BYTES:]

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with own.folder(self._directory) as folder_fd:
            self._fd = open_regular(self._name, flags, dir_fd=folder_fd)
        if self._is_new:
            os.ftruncate(self._fd, 0)
        self._size = os.fstat(self._fd).st_size

    def _bound(self) -> None:
        if self._size > MOST_BYTES:
            end = os.pread(self._fd, _KEPT_BYTES, self._size - _KEPT_BYTES)
            os.ftruncate(self._fd, 0)
            system_calls.write_all(self._fd, memoryview(_CUT + end))
            self._size = len(_CUT) + len(end)
