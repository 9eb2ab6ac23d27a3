"""The worked example of docs/reference/FORMAT.md: a tiny checkpoint, written by the library and taken apart.

python -m tools.worked_example    puts it anew into the page
"""

from __future__ import annotations

import itertools
import pickletools
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.formats import manifest
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.writer import write_file
from marlin_ckpt.formats.zip import structures
from marlin_ckpt.formats.zip.directory import read_directory
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.naming import Kind
from marlin_ckpt.storage.local.files import open_source

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "FORMAT.md"
BEGIN, END = "<!-- worked example: begin -->\n", "<!-- worked example: end -->\n"

_IN_A_LINE = 16  # bytes
_ABOUT = Manifest(
    kind=Kind.CHECKPOINT,
    index=7,
    created="2026-11-27T12:00:00.000Z",
    run_id="0123456789ab",
    save_number=1,
    metrics={"loss": 0.5},
    versions={"marlin_ckpt": "0.2.0", "python": "3.11.7", "torch": "2.13.0"},
)
# The fields of the fixed structures: the name of each and its length in bytes.
_LOCAL = (
    ("local header: signature", 4), ("version needed: 0", 2),
    ("flags: a descriptor follows (8), UTF-8 (0x800)", 2),
    ("method: 0, stored", 2), ("time", 2), ("date", 2), ("CRC32: in the descriptor", 4),
    ("stored size: in the descriptor", 4), ("size: in the descriptor", 4), ("length of the name: {}", 2),
    ("length of the extra field: {}", 2),
)  # fmt: skip
_DESCRIPTOR = (("descriptor: signature", 4), ("CRC32", 4), ("stored size: {}", 4), ("size: {}", 4))
_ENTRY = (
    ("directory entry: signature", 4), ("version made by: 0", 2), ("version needed: 0", 2), ("flags", 2),
    ("method: 0, stored", 2), ("time", 2), ("date", 2), ("CRC32", 4), ("stored size: {}", 4), ("size: {}", 4),
    ("length of the name: {}", 2), ("length of the extra field: {}", 2), ("length of the comment", 2),
    ("disk", 2), ("internal attributes", 2), ("external attributes", 4),
    ("offset of the local header: 0x{:x}", 4),
)  # fmt: skip
_END = (
    ("end record: signature", 4), ("this disk", 2), ("disk of the directory", 2),
    ("entries on this disk: {}", 2),
    ("entries: {}", 2), ("size of the directory: {}", 4), ("offset of the directory: 0x{:x}", 4),
    ("length of the comment", 2),
)  # fmt: skip


class Part(NamedTuple):
    """Some bytes of the file, and what they are."""

    data: bytes
    meaning: str


def checkpoint(directory: Path) -> bytes:
    """Writes the example and returns its bytes; they are the same at each call.

    Args:
        directory: an existing one, in which `model_7.pt` is written.
    """
    path = directory / "model_7.pt"
    state = Checkpoint(module_interface_state={"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    write_file(path, state.payload(), _ABOUT)
    return path.read_bytes()


def parts(directory: Path) -> Iterator[Part]:
    """Takes the example apart: all of its bytes, in their order.

    Args:
        directory: that `checkpoint` wrote it to.
    """
    with open_source(str(directory / "model_7.pt")) as source:
        file = source.read(0, source.size_bytes)
        found = read_directory(source)
    ends = [one.header_offset for one in found.records[1:]] + [found.offset]
    for record, end in zip(found.records, ends, strict=True):
        yield from _record(file[record.header_offset : end], record, in_full=not record.header_offset)
    at = found.offset
    for record in found.records:
        entry = structures.central_entry(record)
        yield from _entry(file[at : at + len(entry)], record, in_full=not record.header_offset)
        at += len(entry)
    yield from _fields(file[at:], _END)


def _record(data: bytes, record: Record, *, in_full: bool) -> Iterator[Part]:
    size, name = structures.LOCAL_HEADER.size, len(record.name)
    padding = len(structures.local_header(record.name, record.size, record.header_offset)) - size - name
    start = size + name + padding
    if in_full:
        yield from _fields(data[:size], _LOCAL)
    else:
        yield Part(data[:size], "local header, as above")
    yield Part(data[size : size + name], f"name: {record.name}")
    if in_full:
        yield Part(data[size + name : size + name + 2], "extra field: FB")
        yield Part(data[size + name + 2 : size + name + 4], f"length of what follows: {padding - 4}")
        yield Part(data[size + name + 4 : start], 'padding: "Z"')
    else:
        yield Part(data[size + name : start], f'extra field FB of {padding - 4} times "Z"')
    yield from _content(data[start : start + record.size], record)
    if in_full:
        yield from _fields(data[start + record.size :], _DESCRIPTOR)
    else:
        shown = f"descriptor: CRC32 0x{record.crc32:08x}, sizes {record.size}"
        yield Part(data[start + record.size :], shown)


def _content(data: bytes, record: Record) -> Iterator[Part]:
    if record.label == "data.pkl":
        found = [
            (at, opcode.name if value is None else f"{opcode.name} {value!r}")
            for opcode, value, at in pickletools.genops(data)
        ]
        for (at, meaning), (end, _) in itertools.pairwise([*found, (len(data), "")]):
            yield Part(data[at:end], meaning)
    elif record.label == "data/0":
        for at in range(0, len(data), 4):
            yield Part(data[at : at + 4], f"element {at // 4}: {struct.unpack_from('<f', data, at)[0]}")
    elif record.label == manifest.NAME:
        yield Part(data, f"the manifest: JSON of {len(data)} bytes, shown below")
    else:
        yield Part(data, f"{data.decode()!r}")


def _entry(data: bytes, record: Record, *, in_full: bool) -> Iterator[Part]:
    size = structures.CENTRAL_ENTRY.size
    if in_full:
        yield from _fields(data[:size], _ENTRY)
        yield Part(data[size:], f"name: {record.name}")
    else:
        yield Part(data, f"directory entry of {record.name}")


def _fields(data: bytes, fields: tuple[tuple[str, int], ...]) -> Iterator[Part]:
    at = 0
    for meaning, length in fields:
        value = int.from_bytes(data[at : at + length], "little")
        yield Part(data[at : at + length], meaning.format(value))
        at += length


def dump() -> str:
    """The example as the page shows it: the bytes with what they are, then the manifest."""
    with tempfile.TemporaryDirectory() as name:
        checkpoint(Path(name))
        all_parts = list(parts(Path(name)))
    lines: list[str] = []
    at = 0
    for data, meaning in all_parts:
        lines += _lines(at, data, meaning)
        at += len(data)
    json = next(data for data, meaning in all_parts if meaning.startswith("the manifest")).decode()
    shown = "\n".join(json[start : start + 110] for start in range(0, len(json), 110))
    listing = "\n".join(lines)
    between = "The manifest, which has no line breaks in the file:"
    return f"```text\n{listing}\n```\n\n{between}\n\n```text\n{shown}\n```\n"


def _lines(at: int, data: bytes, meaning: str) -> Iterator[str]:
    if len(data) > 8 * _IN_A_LINE:
        yield f"{at:04x}  {data[:7].hex(' ')} ... {data[-7:].hex(' ')}  {meaning}"
        return
    for start in range(0, len(data), _IN_A_LINE):
        yield f"{at + start:04x}  {data[start : start + _IN_A_LINE].hex(' '):<47}  {meaning}".rstrip()
        meaning = ""


def with_example(page: str) -> str:
    """The text of the page with the example in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{dump()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_example(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
