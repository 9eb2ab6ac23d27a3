"""Reads a bare pickle: what `pickle.dump` writes, without the container of `torch.save`.

Model zoos publish dicts of NumPy arrays so, and torch.distributed.checkpoint its `.metadata`. The data of
arrays is in the pickle itself: what is long of it is left in the file, and only its place is remembered.
"""

import pickle
from typing import Any

from marlin_ckpt.errors import CorruptCheckpointError, NotACheckpointError
from marlin_ckpt.formats.pickle.stubs import Span, StubReader
from marlin_ckpt.formats.pickle.window import Window
from marlin_ckpt.storage.source import Source

_LONG = 4_096  # bytes; what is longer is not read
_LEGACY_PROTOCOL = 1001  # torch.serialization.PROTOCOL_VERSION, the second pickle of a legacy torch file
_SPAN = 120  # of the budget


class _Reader(StubReader):
    """Reads a pickle and passes over the long byte strings in it."""

    def __init__(self, window: Window, source: Source) -> None:
        super().__init__(window, window.budget)
        self._window, self._source = window, source

    def load_binbytes(self) -> None:
        self._load(int.from_bytes(self.read(4), "little"))

    def load_binbytes8(self) -> None:
        self._load(int.from_bytes(self.read(8), "little"))

    def load_bytearray8(self) -> None:
        self.load_binbytes8()

    def load_binstring(self) -> None:  # of Python 2
        size = int.from_bytes(self.read(4), "little", signed=True)
        if size < 0:
            raise pickle.UnpicklingError("BINSTRING pickle has negative byte count")
        if size > _LONG:
            self._load(size)
        else:
            self.append(self.read(size).decode("utf-8", "surrogateescape"))

    def _load(self, size: int) -> None:
        if size <= _LONG:
            self.append(self.read(size))
            return
        self.budget.charge(_SPAN)
        self.append(Span(self._source, self._window.pass_over(size), size))


def check_end(source: Source) -> None:
    """Looks at the last byte, which ends the pickle.

    Raises:
        CorruptCheckpointError: it does not.
    """
    if source.read(source.size_bytes - 1, 1) != pickle.STOP:
        raise CorruptCheckpointError("it begins as a pickle, and does not end as one", source.path)


def read_bare(source: Source) -> tuple[Any, StubReader]:
    """Reads the pickle.

    Args:
        source: the file.

    Returns:
        the value in stubs, and what read it.

    Raises:
        CorruptCheckpointError: it is cut short, or a legacy torch file whose beginning is damaged.
        NotACheckpointError: more than one pickle is in it.
        ExcessError: it would take more than any of its length that a tool wrote.
        Exception: of a file that lies, whatever its opcodes meet.
    """
    check_end(source)
    window = Window(source)
    reader = _Reader(window, source)
    value = reader.load()
    if window.at < source.size_bytes:
        if type(value) is int and _Reader(window, source).load() == _LEGACY_PROTOCOL:
            raise CorruptCheckpointError("the first bytes of a legacy torch file are damaged", source.path)
        what = "not a checkpoint but several pickles in one file, or one with more behind it"
        hint = "pickle.load, called for each, reads it, and runs its code"
        raise NotACheckpointError(what, source.path, hint)
    return value, reader
