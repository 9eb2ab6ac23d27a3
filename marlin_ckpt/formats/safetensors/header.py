"""The header of a safetensors file. Source: the section "Format" of the safetensors README."""

import json
import math
import struct
from typing import Any, NamedTuple

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.budget import check_json
from marlin_ckpt.formats.format import LARGEST_HEADER
from marlin_ckpt.formats.values import dtypes
from marlin_ckpt.formats.values.dtypes import FLOAT4, SAFETENSORS
from marlin_ckpt.formats.values.tensor import TensorInfo, contiguous_stride
from marlin_ckpt.storage.source import Source

_MOST_DIMENSIONS = 64  # torch's own limit
_PARTS_OF_BYTES = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # bits; Dtype::bitsize in safetensors' tensor.rs
_LIMIT = 2**63  # torch's sizes, and numbers of elements, are int64


class Header(NamedTuple):
    """What a safetensors file says of itself.

    Attributes:
        tensors: in the order of their data.
        metadata: texts by name.
    """

    tensors: list[TensorInfo]
    metadata: dict[str, str]


def read_header(source: Source) -> Header:
    """Reads the header and checks what the specification demands of offsets, shapes and the file's length.

    Args:
        source: the file.

    Raises:
        CorruptCheckpointError: it does not hold.
        ExcessError: it would take more memory than any of its length that a tool wrote.
    """
    size = source.size_bytes
    (length,) = struct.unpack("<Q", source.read(0, 8).ljust(8, b"\0"))
    if not 2 <= length <= min(LARGEST_HEADER, size - 8):  # noqa: PLR2004 - of "{}"
        raise CorruptCheckpointError("truncated: the safetensors header does not fit the file", source.path)
    text = source.read(8, length)
    check_json(text, source.path)
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {}).items()
        tensors = [_tensor(name, entry, 8 + length, source.path) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptCheckpointError("the safetensors header is damaged", source.path) from error
    tensors.sort(key=lambda tensor: (tensor.start, tensor.storage_bytes))
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end or tensor.storage_bytes < 0:
            raise CorruptCheckpointError("the safetensors offsets overlap or leave a hole", source.path)
        end += tensor.storage_bytes
    if end != size:
        what = "truncated or too long: the safetensors data does not fit the file"
        raise CorruptCheckpointError(what, source.path)
    return Header(tensors, {key: value for key, value in metadata if isinstance(value, str)})


def _tensor(name: str, entry: dict[str, Any], data_offset: int, path: str) -> TensorInfo:
    kind, shape, (start, stop) = entry.get("dtype"), entry.get("shape"), map(int, entry["data_offsets"])
    if not isinstance(kind, str) or not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise CorruptCheckpointError(f"the safetensors header says nothing of tensor {name}", path)
    if not all(type(one) is int and 0 <= one < _LIMIT for one in shape) or math.prod(shape) >= _LIMIT:
        raise CorruptCheckpointError(f"tensor {name} has a shape that cannot be", path)
    dtype, sizes, place = SAFETENSORS.get(kind, kind.lower()), tuple(shape), data_offset + start
    item_bits = _PARTS_OF_BYTES.get(kind) or 8 * dtypes.dtype(dtype).item_bytes
    if item_bits and math.prod(sizes) * item_bits != 8 * (stop - start):
        raise CorruptCheckpointError(
            f"tensor {name} has {stop - start} bytes, which do not fit {kind} {shape}", path
        )
    if dtype == FLOAT4:  # as torch has it, with two values in each element
        dtype, sizes = (
            (dtype, (*sizes[:-1], sizes[-1] // 2)) if sizes and not sizes[-1] % 2 else ("f4", sizes)
        )
    return TensorInfo(name, dtype, sizes, contiguous_stride(sizes), 0, name, place, stop - start)
