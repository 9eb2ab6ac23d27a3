"""The pickles in a file that holds more than a pickle, read where they are and no further than they reach."""

import io

from marlin_ckpt.formats.budget import LARGEST_PICKLE, Budget
from marlin_ckpt.storage.source import Source, SourceFile

_PIECE_BYTES = 1 << 20


class Window(io.BufferedReader):
    """The pickles at the beginning of a file.

    Attributes:
        budget: what reading them may take.
        at: how far they were read.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(SourceFile(source), _PIECE_BYTES)
        self.budget = Budget(lambda: self._read_bytes, source.path)
        self.at = 0
        self._read_bytes = 0  # of these, without what was passed over
        self._size_bytes = source.size_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as a file does, but never less than it is asked for; raises EOFError instead."""
        self._count(size or 0)
        data = super().read(size)
        if len(data) < (size or 0):
            raise EOFError("it ends too early")
        return data

    def readline(self, size: int | None = -1, /) -> bytes:
        """Reads as a file does, but never less than a line; raises EOFError instead."""
        del size
        line = super().readline(LARGEST_PICKLE + 1)
        self._count(len(line))
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line

    def pass_over(self, size: int) -> int:
        """Goes on behind so many bytes, and returns where in the file they begin."""
        start = self.at
        self._advance(size)
        self.seek(self.at)
        return start

    def _advance(self, size: int) -> None:
        self.at += size
        if self.at > self._size_bytes:
            raise EOFError("it ends too early")

    def _count(self, size: int) -> None:
        self._advance(size)
        self._read_bytes += size
        if self._read_bytes > LARGEST_PICKLE:
            self.budget.refuse(f"its pickles have more than {LARGEST_PICKLE} bytes")
