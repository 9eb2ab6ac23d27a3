"""Where the records of a torch file are, by their names."""

from __future__ import annotations

from pathlib import Path

from marlin_ckpt.formats.zip import reader
from marlin_ckpt.storage.local.files import FileSource


def records(path: Path) -> dict[str, tuple[int, int]]:
    with path.open("rb") as file:
        container = reader.read_container(FileSource(file.fileno(), str(path)))
    return {
        one.name.partition("/")[2]: (container.data_offsets[one.name], one.size) for one in container.records
    }
