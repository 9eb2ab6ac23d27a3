"""Writes a container from buffers, in one pass."""

from __future__ import annotations

from isal import isal_zlib

from marlin_ckpt.archive import layout
from marlin_ckpt.archive.layout import Record
from marlin_ckpt.storage.sink import PIECE_BYTES, Sink


class ContainerWriter:
    """Writes records one after the other into an empty file."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._offset = 0
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
        for start in range(0, len(view), PIECE_BYTES):
            piece = view[start : start + PIECE_BYTES]
            self._put(piece)
            crc32 = isal_zlib.crc32(piece, crc32)  # still in the processor's cache, from the copy
        record = Record(full_name, len(view), crc32, header_offset)
        self._put(layout.descriptor(record))
        self.records.append(record)

    def close(self) -> None:
        """Appends the directory.

        Raises:
            OSError: the file cannot be written.
        """
        start = self._offset
        for record in self.records:
            self._put(layout.central_entry(record))
        self._put(layout.end_records(len(self.records), self._offset - start, start))

    def _put(self, data: bytes | memoryview) -> None:
        self._offset += len(data)
        self._sink.put(data)
