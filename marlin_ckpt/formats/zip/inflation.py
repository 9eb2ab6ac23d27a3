"""Inflates deflated records, as other tools pack them, in bounded pieces."""

import zlib
from collections.abc import Iterator

from marlin_ckpt.formats.zip.directory import read_exactly
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

_READ_BYTES = 64 << 10
_PIECE_BYTES = 512 << 10  # of inflated data, however little it was deflated to


class InflationError(Exception):
    """Deflated data is damaged, ends early, or has another length than its record."""


def inflated(source: Source, offset: int, record: Record) -> Iterator[bytes]:
    """Inflates a record's data.

    Args:
        source: the file.
        offset: where the deflated data starts.
        record: whose it is.

    Yields:
        the data in pieces of at most 512 KiB; never more in all than the record's size.

    Raises:
        InflationError: it is not the whole data of the record.
        CorruptCheckpointError: the file has become shorter.
        StorageError: it cannot be read.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    done = read = 0
    end = record.stored_bytes
    try:
        while not inflater.eof:
            deflated = inflater.unconsumed_tail
            if not deflated:
                deflated = read_exactly(source, offset + read, min(_READ_BYTES, end - read))
                read += len(deflated)
            piece = inflater.decompress(deflated, _PIECE_BYTES)
            done += len(piece)
            if done > record.size or not (deflated or piece):
                break
            yield piece
    except zlib.error as error:
        raise InflationError(str(error)) from error
    if not inflater.eof or done != record.size or read != end or inflater.unused_data:
        raise InflationError(f"record {record.name} has other data than {record.size} bytes")
