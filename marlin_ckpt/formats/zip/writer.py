"""Writes a container from buffers, in one pass."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from isal import isal_zlib

from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats import manifest
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.structures import ALIGNMENT, Record
from marlin_ckpt.storage.target import OnStored, Target

# Small records are handed on together: copying them twice costs less than three calls for each.
_SMALL_BYTES = 16 << 10
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
    """Writes records one after the other into an empty file."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._offset = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self.records: list[Record] = []

    def add(self, name: str, data: bytes | memoryview | Stream, on_stored: OnStored | None = None) -> None:
        """Appends a record.

        Args:
            name: its name inside the archive, `data/0`.
            data: its bytes, contiguous, or in pieces.
            on_stored: told of the bytes, as by `Target.put`.

        Raises:
            OSError: the file cannot be written.
        """
        if not isinstance(data, Stream):
            view = memoryview(data).cast("B")
            data = Stream(len(view), (view,))
        full_name = f"{structures.ARCHIVE}/{name}"
        size, header_offset = data.size, self._offset
        header = structures.local_header(full_name, size, header_offset)
        if size <= _SMALL_BYTES:
            content = b"".join(data.pieces)  # another thread may change what it was made from
            record = Record(full_name, size, isal_zlib.crc32(content), header_offset)
            self._gather(header, content, structures.descriptor(record))
            if on_stored is not None:
                on_stored(memoryview(content))
        else:
            self._gather(header)
            self._flush()
            crc32 = 0
            for piece in data.pieces:
                crc32 = isal_zlib.crc32_combine(crc32, self._target.put(piece, on_stored), len(piece))
            record = Record(full_name, size, crc32, header_offset)
            self._offset += size
            self._gather(structures.descriptor(record))
        self.records.append(record)

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

    def _gather(self, *parts: bytes) -> None:
        size = sum(map(len, parts))
        self._gathered += parts
        self._gathered_bytes += size
        self._offset += size
        if self._gathered_bytes >= _GATHERED_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._target.put(b"".join(self._gathered))
        self._gathered.clear()
        self._gathered_bytes = 0


# The records that say how the others are to be read: the version of the container is
# caffe2::serialize::kProducedFileFormatVersion; format version 1 means that storages are in the order of
# their numbers; torch.serialization._save.
_FORMAT = {".format_version": b"1", ".storage_alignment": str(ALIGNMENT).encode()}
_VERSION = {"version": b"3\n"}
CONSTANT_RECORDS = frozenset({*_FORMAT, *_VERSION})
# The headers and entries of the manifest and of an observer's record, and the records that end the file; more
# than enough.
_OWN_OVERHEAD_BYTES = 4096


def _leading(pickle: bytes, byteorder: bytes | None) -> dict[str, bytes]:
    """The records in front of the data, in their order."""
    return {"data.pkl": pickle, **_FORMAT, **({} if byteorder is None else {"byteorder": byteorder})}


class Plan(NamedTuple):
    """Where a file will have its bytes.

    Attributes:
        offsets: of the data of each storage, by the name of its record (`data/0`).
        size_bytes: what the file takes at most.
    """

    offsets: dict[str, int]
    size_bytes: int


def plan(pickle: bytes, byteorder: bytes | None, sizes: Mapping[str, int], observed_bytes: int = 0) -> Plan:
    """Tells where `write_state` will put the data.

    Args:
        pickle: as for `write_state`.
        byteorder: as for `write_state`.
        sizes: the lengths of the storages in bytes, by the names of their records, in their order.
        observed_bytes: how long the record of an observer may be.
    """
    named = [(name, len(data)) for name, data in _leading(pickle, byteorder).items()]
    named += sizes.items()
    named += [(name, len(data)) for name, data in _VERSION.items()]
    offsets: dict[str, int] = {}
    end = directory = 0
    for record, start in structures.lay_out(
        (f"{structures.ARCHIVE}/{name}", size, 0) for name, size in named
    ):
        offsets[record.label] = start
        end = start + record.size + len(structures.descriptor(record))
        directory += len(structures.central_entry(record))
    return Plan(
        {name: offsets[name] for name in sizes},
        end + directory + manifest.most_bytes(offsets) + observed_bytes + _OWN_OVERHEAD_BYTES,
    )


def write_state(  # noqa: PLR0913, PLR0917 - all that a file is made of
    target: Target,
    pickle: bytes,
    byteorder: bytes | None,
    data: Iterable[tuple[str, bytes | memoryview | Stream]],
    about: Manifest | None,
    observer: Observer | None = None,
) -> None:
    """Writes a whole container, its records in the order of `torch.save`.

    Args:
        target: the empty file.
        pickle: the record `data.pkl`.
        byteorder: `little` or `big`; None leaves it out, which torch reads as little.
        data: the names (`data/0`) and bytes of the storages.
        about: the manifest, without its records, which are filled in here.
        observer: looks at the data, none of which is a Stream, and adds a record in front of the manifest.

    Raises:
        UnsavableStateError: the manifest would be too long to be read again.
        OSError: the file cannot be written.
    """
    writer = ContainerWriter(target)
    for name, value in itertools.chain(_leading(pickle, byteorder).items(), data, _VERSION.items()):
        on_stored = observer.of(name, value) if observer and isinstance(value, memoryview) else None
        writer.add(name, value, on_stored)
        del value  # so that it is not held while the next one is read
    if observer is not None and (own := observer.record()):
        writer.add(*own)
    if about is not None:
        records = [{"name": one.name, "size": one.size, "crc32": one.crc32} for one in writer.records]
        json = replace(about, records=records).to_json()
        if len(json) > (most := manifest.most_bytes(one.name for one in writer.records)):
            raise UnsavableStateError(f"the metrics take {len(json):,} bytes, more than {most:,}")
        writer.add(manifest.NAME, json)
    writer.close()
