"""Reads what files by torch before 1.6 say of themselves.

Such a file is a row of pickles (a magic number, the protocol, the writer's system, the state, the keys of
the storages), then each storage: the number of its elements as an int64, and its bytes. Source:
`_legacy_save` and `_legacy_load` in torch/serialization.py, `THPStorage_writeFileRaw` in
torch/csrc/serialization.cpp.
"""

import pickle
import struct
from typing import Any

from marlin_ckpt.formats.pickle.stubs import StubReader
from marlin_ckpt.formats.pickle.views import dtype_of
from marlin_ckpt.formats.pickle.window import Window
from marlin_ckpt.formats.values.dtypes import dtype
from marlin_ckpt.storage.source import Source

_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_PROTOCOL_VERSION = 1001  # torch.serialization.PROTOCOL_VERSION


class _Reader(StubReader):
    """Reads a pickle whose storages follow it."""

    def __init__(self, window: Window) -> None:
        super().__init__(window, window.budget)

    def persistent_load(self, pid: Any) -> Any:
        """The storage, or the module's class, that torch wrote a reference to."""
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
            return pid[1]
        return super().persistent_load(pid)


def read_legacy(source: Source) -> tuple[Any, StubReader, dict[str, tuple[int, int]]]:
    """Reads the pickles and finds the storages.

    Args:
        source: the file.

    Returns:
        the state in stubs, what read it, and by the storages' keys where the data of each starts and how many
        bytes it has.

    Raises:
        ExcessError: it would take more than any of its length that torch wrote.
        Exception: of a file that lies, whatever its opcodes meet.
    """
    window = Window(source)
    magic, protocol, _ = (_Reader(window).load() for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL_VERSION:
        raise pickle.UnpicklingError("not of the protocol that torch wrote")
    reader = _Reader(window)
    state = reader.load()
    keys = _Reader(window).load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise pickle.UnpicklingError("no list of storages")
    if reader.storages.keys() - set(keys):
        raise EOFError("truncated: a storage is missing")
    places: dict[str, tuple[int, int]] = {}
    at, size = window.at, source.size_bytes
    for key in keys:
        item_bytes = dtype(dtype_of(reader.storages[key])).item_bytes or 1  # of parts of bytes, torch says 1
        if at + 8 > size:
            raise EOFError("truncated: a storage is missing")
        (numel,) = struct.unpack("<q", source.read(at, 8))
        if not 0 <= numel * item_bytes <= size - at - 8:
            raise EOFError("truncated: a storage does not fit the file")
        if reader.storages[key].pid[4:5] != (numel,):
            raise pickle.UnpicklingError("a storage has another size than its tensors name")
        places[key] = at + 8, numel * item_bytes
        at += 8 + numel * item_bytes
    return state, reader, places
