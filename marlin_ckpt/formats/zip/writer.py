"""Writes a container from buffers, in one pass."""

import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple, Protocol

from isal import isal_zlib

from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats import manifest
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.structures import ALIGNMENT, ALIGNMENT_LABEL, Record
from marlin_ckpt.storage.target import OnStored, Span, Target

# Small records are handed on together: copying them twice costs less than three calls for each.
SMALL_BYTES = 16 << 10
_GATHERED_BYTES = 256 << 10


class Stream(NamedTuple):
    """Data that is never in memory as a whole.

    Attributes:
        size: its length in bytes.
        pieces: the data in its order.
    """

    size: int
    pieces: Iterable[bytes | memoryview]


class Observer(Protocol):
    """Looks at what is written, and adds a record of its own."""

    def of(self, name: str, data: memoryview) -> OnStored | None:
        """What is told of the bytes of a record; None where nothing is.

        Args:
            name: of the record, `data/0`.
            data: its bytes.
        """

    def record(self) -> tuple[str, bytes] | None:
        """The record, by its name, once all others but the manifest are written; None where it adds none."""


class ContainerWriter:
    """Writes records one after the other into an empty file.

    Args:
        target: the file.
        alignment: the multiple at which data starts, a power of two from 64 to 65,536; the caller adds the
            record that says so.
    """

    def __init__(self, target: Target, alignment: int = ALIGNMENT) -> None:
        self._target = target
        self._alignment = alignment
        self._offset = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self.records: list[Record] = []

    def add(
        self,
        name: str,
        data: bytes | memoryview | Stream,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,
    ) -> list[int]:
        """Appends a record.

        Args:
            name: its name inside the archive, `data/0`.
            data: its bytes, contiguous, or in pieces.
            on_stored: told of the bytes, as by `Target.put`.
            crc32: as for `Target.put`; not of a Stream.
            same: where the very bytes that `crc32` is of lie: all, or the first ones, where the others may
                change in memory. Not of a Stream.

        Returns:
            the CRC32 of each piece, as it was stored.

        Raises:
            OSError: the file cannot be written.
        """
        if isinstance(data, Stream):
            with self.record(name, data.size) as target:
                return [target.put(piece, on_stored) for piece in data.pieces]
        if same is not None and same.size < len(data):
            with self.record(name, len(data)) as target:
                return [
                    target.put(data[: same.size], on_stored, crc32, same),
                    target.put(data[same.size :], on_stored),
                ]
        view = data if isinstance(data, bytes) else memoryview(data).cast("B")  # a context is slow
        full_name, size = f"{structures.ARCHIVE}/{name}", len(view)
        header, header_offset = self._header(full_name, size, self._alignment)
        if size > SMALL_BYTES:
            self._gather(header)
            record = Record(full_name, size, self.put(view, on_stored, crc32, same), header_offset)
            self._gather(structures.descriptor(record))
        else:
            content, summed = self._small(view, on_stored)
            record = Record(full_name, size, summed, header_offset)
            self._gather(header + content + structures.descriptor(record))
        self.records.append(record)
        return [record.crc32]

    @contextlib.contextmanager
    def record(self, name: str, size: int, alignment: int | None = None, inner: int = 0) -> Iterator[Target]:
        """Appends a record whose bytes are put into it one after the other; nothing else is added meanwhile.

        Args:
            name: its name inside the archive.
            size: how many bytes it will have.
            alignment: the multiple at which its data starts, or a byte of it; None: as all others.
            inner: how far this byte is from the data's start.

        Yields:
            what they are put into.

        Raises:
            OSError: the file cannot be written.
        """
        full_name = f"{structures.ARCHIVE}/{name}"
        header, header_offset = self._header(full_name, size, alignment or self._alignment, inner)
        self._gather(header)
        into = _Within(self)
        yield into
        record = Record(full_name, size, into.crc32, header_offset)
        self._gather(structures.descriptor(record))
        self.records.append(record)

    def _header(self, name: str, size: int, alignment: int, inner: int = 0) -> tuple[bytes, int]:
        """What stands in front of a record's data, and where its local header begins."""
        at = self._offset
        offset = structures.header_offset(len(name.encode()), size, at, alignment, inner)
        header = structures.local_header(name, size, offset, alignment, inner)
        return (bytes(offset - at) + header if offset > at else header), offset

    def put(
        self,
        data: bytes | memoryview,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,
    ) -> int:
        """Appends bytes of the record that is open; see `Target.put`."""
        if len(data) > SMALL_BYTES:
            self._flush()
            self._offset += len(data)
            return self._target.put(data, on_stored, crc32, same)
        content, summed = self._small(data, on_stored)
        self._gather(content)
        return summed

    @staticmethod
    def _small(data: bytes | memoryview, on_stored: OnStored | None) -> tuple[bytes, int]:
        """What little data holds, and its CRC32."""
        content = bytes(data)  # another thread may change what it was made from
        if on_stored is not None:
            on_stored(memoryview(content))
        return content, isal_zlib.crc32(content)

    def close(self) -> None:
        """Appends the directory.

        Raises:
            OSError: the file cannot be written.
        """
        start = self._offset
        for record in self.records:
            self._gather(structures.central_entry(record))
        self._gather(structures.end_records(len(self.records), self._offset - start, start))
        self._flush()

    def _gather(self, part: bytes) -> None:
        size = len(part)
        self._gathered.append(part)
        self._gathered_bytes += size
        self._offset += size
        if self._gathered_bytes >= _GATHERED_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._gathered:
            return
        self._target.put(b"".join(self._gathered))
        self._gathered.clear()
        self._gathered_bytes = 0


class _Within:
    """The record that is open, as a `Target` of its own."""

    def __init__(self, container: ContainerWriter) -> None:
        self._container = container
        self.crc32 = 0

    def put(
        self,
        data: bytes | memoryview,
        on_stored: OnStored | None = None,
        crc32: int | None = None,
        same: Span | None = None,
    ) -> int:
        """Appends bytes; see `Target.put`."""
        crc32 = self._container.put(data, on_stored, crc32, same)
        self.crc32 = isal_zlib.crc32_combine(self.crc32, crc32, len(data))
        return crc32


# The records that say how the others are to be read: the version of the container is
# caffe2::serialize::kProducedFileFormatVersion; format version 1 means that storages are in the order of
# their numbers; torch.serialization._save.
_FORMAT = {".format_version": b"1"}
VERSION = {"version": b"3\n"}
CONSTANT_RECORDS = frozenset({*_FORMAT, ALIGNMENT_LABEL, *VERSION})
BYTEORDER = sys.byteorder.encode()


def leading(pickle: bytes, byteorder: bytes | None, alignment: int = ALIGNMENT) -> dict[str, bytes]:
    """The records in front of the data, in their order."""
    said = {**_FORMAT, ALIGNMENT_LABEL: str(alignment).encode()}
    return {"data.pkl": pickle, **said, **({} if byteorder is None else {"byteorder": byteorder})}


def write_state(  # noqa: PLR0913, PLR0917 - all that a file is made of
    target: Target,
    pickle: bytes,
    byteorder: bytes | None,
    data: Iterable[tuple[str, bytes | memoryview | Stream]],
    about: Manifest | None,
    observers: Sequence[Observer] = (),
    sums: Mapping[str, int] = MappingProxyType({}),
    alignment: int = ALIGNMENT,
    same: Mapping[str, Span] = MappingProxyType({}),
) -> list[Record]:
    """Writes a whole container, its records in the order of `torch.save`.

    Args:
        target: the empty file.
        pickle: the record `data.pkl`.
        byteorder: `little` or `big`; None leaves it out, which torch reads as little.
        data: the names (`data/0`) and bytes of the storages.
        about: the manifest, without its records, which are filled in here.
        observers: each looks at the data, none of which is a Stream, and adds a record in front of the
            manifest.
        sums: the CRC32 of data that nothing changes any more, by the names of their records, if known.
        alignment: the multiple at which all data starts, as by torch's `storage_alignment`; a power of two
            from 64 to 65,536.
        same: where the same data lies in other files, as for `Target.put`, by the names of its records.

    Returns:
        the records, in their order.

    Raises:
        UnsavableStateError: the manifest would be too long to be read again.
        OSError: the file cannot be written.
    """
    writer = ContainerWriter(target, alignment)
    for name, value in itertools.chain(leading(pickle, byteorder, alignment).items(), data, VERSION.items()):
        on_stored = _told(observers, name, value) if observers and isinstance(value, memoryview) else None
        writer.add(name, value, on_stored, sums.get(name), same.get(name))
        del value  # so that it is not held while the next one is read
    for own in filter(None, (one.record() for one in observers)):
        writer.add(*own)
    if about is not None:
        records = [{"name": one.name, "size": one.size, "crc32": one.crc32} for one in writer.records]
        json = replace(about, records=records).to_json()
        if len(json) > (most := manifest.most_bytes(one.name for one in writer.records)):
            raise UnsavableStateError(f"the metrics take {len(json):,} bytes, more than {most:,}")
        writer.add(manifest.NAME, json)
    writer.close()
    return writer.records


def _told(observers: Sequence[Observer], name: str, data: memoryview) -> OnStored | None:
    """What tells all observers that want to know of the bytes of a record; None where none does."""
    return telling(one.of(name, data) for one in observers)


def telling(observers: Iterable[OnStored | None]) -> OnStored | None:
    """What tells all of some that are there; None where none is."""
    wanted = [one for one in observers if one is not None]
    if len(wanted) < 2:  # noqa: PLR2004 - none, or the only one
        return wanted[0] if wanted else None

    def on_stored(stored: memoryview) -> None:
        for told in wanted:
            told(stored)

    return on_stored
