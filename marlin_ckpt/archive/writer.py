"""Writes a container from buffers, in one pass."""

from __future__ import annotations

from isal import isal_zlib

from marlin_ckpt.archive import layout
from marlin_ckpt.archive.layout import Record
from marlin_ckpt.storage.local import write_all

# Calls of 1 MiB write to the page cache several times faster than calls of 64 MiB, which make the kernel take
# 2 MiB folios; and a piece of this size is still in the processor's cache when its CRC has been computed.
_PIECE = 1 << 20


class ContainerWriter:
    """Writes records one after the other into an empty file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._offset = 0
        self._pending = bytearray()
        self.records: list[Record] = []

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Appends a record.

        Args:
            name: its name inside the archive, `data/0`.
            data: its bytes, contiguous.

        Raises:
            OSError: the file cannot be written.
        """
        view = memoryview(data).cast("B")
        full_name = f"{layout.ARCHIVE}/{name}"
        header_offset = self._offset
        self._put(layout.local_header(full_name, len(view), header_offset))
        crc32 = 0
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            crc32 = isal_zlib.crc32(piece, crc32)
            self._put(piece)
        record = Record(full_name, len(view), crc32, header_offset)
        self._put(layout.descriptor(record))
        self.records.append(record)

    def close(self) -> None:
        """Appends the directory; the file itself stays open.

        Raises:
            OSError: the file cannot be written.
        """
        start = self._offset
        for record in self.records:
            self._put(layout.central_entry(record))
        self._put(layout.end_records(len(self.records), self._offset - start, start))
        self._flush()

    def _put(self, data: bytes | memoryview) -> None:
        # Small pieces are gathered: a state of many small tensors would else cost three calls for each.
        self._offset += len(data)
        if len(data) < _PIECE:
            self._pending += data
            if len(self._pending) >= _PIECE:
                self._flush()
        else:
            self._flush()
            write_all(self._fd, data)

    def _flush(self) -> None:
        write_all(self._fd, self._pending)
        self._pending = bytearray()
