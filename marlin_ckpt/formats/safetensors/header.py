"""The header of a safetensors file. Source: the section "Format" of the safetensors README."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.budget import check_json
from marlin_ckpt.formats.values.dtypes import SAFETENSORS
from marlin_ckpt.formats.values.tensor import Tensor, contiguous_stride
from marlin_ckpt.storage.source import Source

_LARGEST_HEADER = 100 << 20  # by the specification
_MOST_DIMENSIONS = 64  # torch's own limit
_LIMIT = 2**63  # torch's sizes, and numbers of elements, are int64


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        entries: what it says of each tensor, by name, in the header's order.
        metadata: texts by name.
        data_offset: where in the file the tensors' data starts.
    """

    entries: dict[str, Any]
    metadata: dict[str, str]
    data_offset: int


def read_header(source: Source) -> Header:
    """Reads the header and checks what the specification demands: offsets without holes, the file's length.

    Args:
        source: the file.

    Raises:
        CorruptCheckpointError: it does not hold.
        ExcessError: it would take more memory than any of its length that a tool wrote.
    """
    size = source.size_bytes
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if not 2 <= length <= min(_LARGEST_HEADER, size - 8):  # noqa: PLR2004 - of "{}"
        raise CorruptCheckpointError("truncated: the safetensors header does not fit the file", source.path)
    text = source.read(8, length)
    check_json(text, source.path)
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        spans = sorted(_span(value) for value in entries.values())
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptCheckpointError("the safetensors header is damaged", source.path) from error
    end = 0
    for start, stop in spans:
        if start != end or stop < start:
            raise CorruptCheckpointError("the safetensors offsets overlap or leave a hole", source.path)
        end = stop
    if 8 + length + end != size:
        raise CorruptCheckpointError(
            "truncated or too long: the safetensors data does not fit the file", source.path
        )
    return Header(entries, _texts(metadata), 8 + length)


def tensors(header: Header, path: str) -> list[Tensor]:
    """The tensors that a header names, in the order of their data.

    Args:
        header: of the file.
        path: its name, for messages.

    Raises:
        CorruptCheckpointError: an entry is not one.
    """
    found = []
    for name, entry in header.entries.items():
        kind, shape = entry.get("dtype"), entry.get("shape")
        if not isinstance(kind, str) or not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
            raise CorruptCheckpointError(f"the safetensors header says nothing of tensor {name}", path)
        if not all(type(one) is int and 0 <= one < _LIMIT for one in shape) or math.prod(shape) >= _LIMIT:
            raise CorruptCheckpointError(f"tensor {name} has a shape that cannot be", path)
        start, stop = _span(entry)
        sizes = tuple(shape)
        found.append(
            Tensor(
                name, SAFETENSORS.get(kind, kind.lower()), sizes, contiguous_stride(sizes), 0, name,
                header.data_offset + start, stop - start,
            )
        )  # fmt: skip
    return sorted(found, key=lambda tensor: tensor.start)


def _texts(metadata: Any) -> dict[str, str]:
    """The metadata as far as they are what the specification allows: texts by name."""
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _span(value: Any) -> tuple[int, int]:
    start, stop = value["data_offsets"]
    return int(start), int(stop)
