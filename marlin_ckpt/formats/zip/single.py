"""The file of one tensor; what is around the data is the same for all of one dtype and shape."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

from isal import isal_zlib

from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.planning import plan_bare
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.formats.zip.writer import BYTEORDER, VERSION, leading
from marlin_ckpt.storage.target import OnStored, Span, Target

_DATA = "data/0"
_MOST_KEPT = 4096
_leading_bytes = {name: len(data) for name, data in leading(b"", BYTEORDER).items()}


@functools.lru_cache(maxsize=_MOST_KEPT)
def plan_tensor(pickle_bytes: int, size_bytes: int) -> tuple[int, int]:
    """Tells where `write_tensor` will put the data, and the exact length of the file.

    Args:
        pickle_bytes: the length of the record `data.pkl`.
        size_bytes: of the tensor's data.
    """
    found = plan_bare({**_leading_bytes, "data.pkl": pickle_bytes, _DATA: size_bytes})
    return found.offsets[_DATA], found.size_bytes


class Piece(NamedTuple):
    """Some of the data of a tensor, as `Target.put` takes it.

    Attributes:
        data: its bytes.
        crc32: their CRC32, where it is known.
        same: where another file has them, too.
    """

    data: memoryview
    crc32: int | None = None
    same: Span | None = None


def write_tensor(
    target: Target,
    pickle: bytes,
    size_bytes: int,
    data: Iterable[Piece],
    on_stored: OnStored | None = None,
) -> list[int]:
    """Writes a container of one tensor of this machine's byte order, as `torch.save` does.

    Args:
        target: the empty file, or a part of one.
        pickle: the record `data.pkl`.
        size_bytes: of the data.
        data: of the one storage.
        on_stored: told of the data, as by `Target.put`.

    Returns:
        the CRC32 of each piece, as it was stored.

    Raises:
        OSError: the file cannot be written.
    """
    frame = _frame(pickle, size_bytes)
    target.put(frame.before)
    crcs, crc32 = [], 0
    for piece in data:
        crcs.append(target.put(piece.data, on_stored, piece.crc32, piece.same))
        crc32 = isal_zlib.crc32_combine(crc32, crcs[-1], len(piece.data))
    target.put(frame.after(crc32))
    return crcs


class _Frame(NamedTuple):
    """What is around the data of a tensor.

    Attributes:
        before: all in front of it.
        data: its record, with any CRC32.
        version: the record behind it, with its header and descriptor.
        entries: of the directory, those in front of its entry and those behind.
        end: what ends the file.
    """

    before: bytes
    data: Record
    version: bytes
    entries: tuple[bytes, bytes]
    end: bytes

    def after(self, crc32: int) -> bytes:
        """All behind data of this CRC32."""
        record = self.data._replace(crc32=crc32)
        entry = structures.central_entry(record)
        first, last = self.entries
        return b"".join([structures.descriptor(record), self.version, first, entry, last, self.end])


@functools.lru_cache(maxsize=_MOST_KEPT)
def _frame(pickle: bytes, size_bytes: int) -> _Frame:
    first, last = leading(pickle, BYTEORDER), VERSION
    sizes = {**{name: len(data) for name, data in first.items()}, _DATA: size_bytes}
    sizes |= {name: len(data) for name, data in last.items()}
    content = {**first, **last}
    laid_out = structures.lay_out(
        (f"{structures.ARCHIVE}/{name}", size, isal_zlib.crc32(content.get(name, b"")))
        for name, size in sizes.items()
    )
    parts: tuple[list[bytes], list[bytes]] = [], []
    entries: tuple[list[bytes], list[bytes]] = [], []
    tensor: Record | None = None
    at = 0
    for record, start in laid_out:
        header = structures.local_header(record.name, record.size, record.header_offset)
        at = start + record.size + structures.descriptor_bytes(record.size, record.header_offset)
        if record.label == _DATA:
            tensor = record
            parts[0].append(header)
            continue
        side = tensor is not None
        parts[side].extend((header, content[record.label], structures.descriptor(record)))
        entries[side].append(structures.central_entry(record))
    if tensor is None:
        raise AssertionError(_DATA)
    directory = sum(map(len, (*entries[0], *entries[1], structures.central_entry(tensor))))
    end = structures.end_records(len(sizes), directory, at)
    before, version = map(b"".join, parts)
    return _Frame(before, tensor, version, (b"".join(entries[0]), b"".join(entries[1])), end)
