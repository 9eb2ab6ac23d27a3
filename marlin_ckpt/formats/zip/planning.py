"""Tells where a container will have its bytes, before it is written."""

from collections.abc import Mapping
from typing import NamedTuple

from marlin_ckpt.formats import manifest
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.formats.zip.writer import VERSION, leading

# The headers, but for their padding, and entries of the manifest and of the observers' records, and what ends
# the file; more than enough.
_OWN_OVERHEAD_BYTES = 4096
_OWN_RECORDS = 3  # at most: the manifest, statistics, digests


class Plan(NamedTuple):
    """Where a file will have its bytes.

    Attributes:
        offsets: of the data of each storage, by the name of its record (`data/0`).
        size_bytes: what the file takes at most.
    """

    offsets: dict[str, int]
    size_bytes: int


def plan(
    pickle: bytes,
    byteorder: bytes | None,
    sizes: Mapping[str, int],
    observed_bytes: int = 0,
    alignment: int = ALIGNMENT,
) -> Plan:
    """Tells where `write_state` will put the data.

    Args:
        pickle: as for `write_state`.
        byteorder: as for `write_state`.
        sizes: the lengths of the storages in bytes, by the names of their records, in their order.
        observed_bytes: how long the records of observers may be, together.
        alignment: as for `write_state`.
    """
    first = {name: len(data) for name, data in leading(pickle, byteorder, alignment).items()}
    bare = plan_bare({**first, **sizes}, alignment)
    offsets = {name: bare.offsets[name] for name in sizes}
    beside = manifest.most_bytes(offsets) + observed_bytes + _OWN_OVERHEAD_BYTES + _OWN_RECORDS * alignment
    return Plan(offsets, bare.size_bytes + beside)


def plan_bare(sizes: Mapping[str, int], alignment: int = ALIGNMENT) -> Plan:
    """Tells where a container without a manifest has its bytes, and its exact length.

    Args:
        sizes: the lengths in bytes of the records before the last, which is the version, by their names.
        alignment: the multiple at which data starts.
    """
    offsets: dict[str, int] = {}
    at = directory = 0
    for name, size in (*sizes.items(), *((name, len(data)) for name, data in VERSION.items())):
        named = len(f"{structures.ARCHIVE}/{name}".encode())
        header_offset, offsets[name] = structures.place(named, size, at, alignment)
        directory += structures.central_entry_bytes(named, size, header_offset)
        at = offsets[name] + size + structures.descriptor_bytes(size, header_offset)
    end = len(structures.end_records(len(offsets), directory, at))
    return Plan(offsets, at + directory + end)
