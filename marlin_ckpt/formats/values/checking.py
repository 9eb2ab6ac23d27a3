"""Compares the bytes of some tensors with their checksums, and leaves the rest of a file unread."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from marlin_ckpt.formats.content.outline import Outline, Tensor
from marlin_ckpt.formats.format import Format
from marlin_ckpt.formats.zip.reader import read_container
from marlin_ckpt.formats.zip.records import read_records
from marlin_ckpt.storage.source import Source


def check_tensors(source: Source, outline: Outline, tensors: Iterable[Tensor]) -> None:
    """Reads the records in which some tensors lie.

    Args:
        source: the file.
        outline: of it.
        tensors: of it; in a format without checksums nothing is read.

    Raises:
        CorruptCheckpointError: a CRC does not hold; it names the records and their tensors.
        StorageError: the file cannot be read.
    """
    if outline.format is not Format.ZIP:
        return
    container = read_container(source)
    starts = {one.start for one in tensors}
    records = [
        record
        for record in container.records
        if container.data_offsets[record.name] in starts or record.name.endswith("/data.pkl")
    ]
    read_records(source, dataclasses.replace(container, records=tuple(records)))
