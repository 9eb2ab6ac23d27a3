"""Reads the values of tensors as numpy arrays, and only the bytes that a tensor views.

It imports numpy, which takes longer than most commands.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlin_ckpt.errors import CorruptCheckpointError, UnknownFormatError, UnsafeCheckpointError
from marlin_ckpt.formats.values.dtypes import FLOAT4, TIMES, dtype
from marlin_ckpt.formats.values.tensor import TensorInfo
from marlin_ckpt.formats.zip.inflation import InflationError, inflated
from marlin_ckpt.formats.zip.structures import Record
from marlin_ckpt.storage.source import Source

Array = NDArray[Any]

BLOCK = 1 << 20  # elements
# Bits of mantissa, bias, and the bits of what is no number. Source: c10/util/Float8_*.h of torch 2.13.
_EIGHT_BITS = {
    "float8_e4m3fn": (3, 7, [0x7F, 0xFF]),
    "float8_e4m3fnuz": (3, 8, [0x80]),
    "float8_e5m2fnuz": (2, 16, [0x80]),
}
_BYTES = dtype("uint8")
# Source: c10/util/Float4_e2m1fn_x2.h, and section 5.3.3 of the OCP specification of microscaling formats.
_FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], "f4")
_MOST_REPEATED = 1 << 24  # elements of an expanded tensor, beyond those that it views


def read_bits(source: Source, tensor: TensorInfo) -> Array:
    """Reads the elements of a tensor as the file has them.

    Args:
        source: the file.
        tensor: where they are.

    Returns:
        an array of the tensor's shape, in the machine's byte order. Of types that numpy lacks (bfloat16,
        float8_e4m3fn ...) the elements are their bits, as unsigned integers; see `widened`. Of a tensor that
        is opaque, its bytes, flat.

    Raises:
        CorruptCheckpointError: an element is outside of the storage, or the file ends.
        UnknownFormatError: the type is not known here.
        UnsafeCheckpointError: the tensor has far more elements than its storage has places.
        OSError: the file cannot be read.
    """
    if tensor.is_opaque:
        return _read_span(source, tensor, 0, tensor.size_bytes)
    first, last = _span(source, tensor)
    shape = tensor.shape
    if not tensor.numel:
        try:
            return np.empty(shape, dtype(tensor.dtype).numpy)
        except ValueError as error:  # a size of 2^62 beside one of 0
            raise _outside(source, tensor) from error
    span = _read_span(source, tensor, first, last + 1 - first)
    return _strided(span, tensor)


def _strided(span: Array, tensor: TensorInfo) -> Array:
    """A tensor as a view of the elements of its storage from its first on."""
    item_bytes = tensor.item_bytes
    places = zip(tensor.shape, tensor.stride, strict=True)
    strides = [step * item_bytes if size > 1 else 0 for size, step in places]
    return np.lib.stride_tricks.as_strided(span, tensor.shape, strides, writeable=False)


def blocks_of(storage: memoryview, tensor: TensorInfo, elements: int = BLOCK) -> Iterator[Array]:
    """The values of a tensor that is inside its storage, in pieces as `blocks` yields them.

    Args:
        storage: the bytes of its storage, in the processor's order of bytes.
        tensor: where its elements are in there.
        elements: the most that a piece may have.
    """
    span = np.frombuffer(storage, dtype(tensor.dtype).numpy)[tensor.offset : tensor.last + 1]
    whole = _strided(span, tensor)
    for start in range(0, tensor.numel, elements):
        yield widened(whole.flat[start : start + elements], tensor.dtype)


def blocks(source: Source, tensor: TensorInfo, elements: int = BLOCK) -> Iterator[Array]:
    """Reads the values of a tensor in pieces, in row-major order; raises as `read_bits` does.

    Args:
        source: the file.
        tensor: where its elements are.
        elements: the most that a piece may have.

    Yields:
        flat arrays. Of a tensor that is not contiguous, or is deflated, the span of the storage that it views
        is in memory at once.
    """
    first, _ = _span(source, tensor)
    is_read_in_pieces = tensor.is_contiguous and tensor.record is None and tensor.pickled is None
    whole = None if is_read_in_pieces else read_bits(source, tensor)
    for start in range(0, tensor.numel, elements):
        count = min(elements, tensor.numel - start)
        if whole is None:
            piece = _read_span(source, tensor, first + start, count)
        else:
            piece = whole.flat[start : start + count]
        # A hostile file may have bools of other bits than 0 and 1.
        yield piece.view("u1") != 0 if tensor.dtype == "bool" else widened(piece, tensor.dtype)


def widened(bits: Array, name: str) -> Array:
    """The values of elements; those of types that numpy lacks in a type that holds each of them exactly.

    Args:
        bits: the elements, as `read_bits` returns them.
        name: torch's name of their type.

    Returns:
        as many values; of float4_e2m1fn_x2 twice as many.
    """
    if dtype(name).is_numpys:
        return bits
    if name == "complex32":
        return np.asarray(np.ascontiguousarray(bits).view("f2").astype("f4").view("c8"))
    if name.startswith(TIMES):
        is_known = bits != np.iinfo("i8").min
        return bits if is_known.all() else np.where(is_known, bits.astype("f8"), math.nan)
    if name == FLOAT4:
        return np.asarray(_FLOAT4[halves(bits)])
    if name == "bfloat16":
        wide = bits.astype("u4")
        return np.asarray(np.left_shift(wide, 16, out=wide).view("f4"))
    return np.asarray(_eight_bit_values(name)[bits])


def halves(bits: Array) -> Array:
    """The two halves of each byte, the lower one first."""
    return np.stack((bits & 0xF, bits >> 4), axis=-1).reshape(-1)


def _eight_bit_values(name: str) -> Array:
    """The values of a type of 8 bits, in the order of their bits, as float32."""
    bits = np.arange(256)
    if name == "float8_e5m2":  # the upper half of a float16
        return np.asarray((bits << 8).astype("u2").view("f2"), "f4")
    if name == "float8_e8m0fnu":
        return np.asarray([*np.ldexp(1.0, bits[:-1] - 127), math.nan], "f4")
    mantissa_bits, bias, nans = _EIGHT_BITS[name]
    exponent, mantissa = (bits & 0x7F) >> mantissa_bits, bits & ((1 << mantissa_bits) - 1)
    whole = np.where(exponent, mantissa + (1 << mantissa_bits), mantissa)
    sizes = np.ldexp(whole, np.maximum(exponent, 1) - bias - mantissa_bits)
    values: Array = np.where(bits & 0x80, -sizes, sizes).astype("f4")
    values[nans] = math.nan
    return values


def _span(source: Source, tensor: TensorInfo) -> tuple[int, int]:
    """The first and the last element of the storage that a tensor views.

    Raises:
        CorruptCheckpointError: one of them is outside of the storage.
        UnknownFormatError: the type is not known here.
        UnsafeCheckpointError: the tensor repeats the same elements too often.
    """
    if not tensor.item_bytes:
        what = f"the values of tensor {tensor.name} cannot be read: {tensor.dtype}"
        raise UnknownFormatError(what, source.path)
    if not tensor.is_inside:
        raise _outside(source, tensor)
    last = tensor.last
    if tensor.numel > last + 1 - tensor.offset + _MOST_REPEATED:
        what = f"refused: tensor {tensor.name} repeats a few elements {tensor.numel} times"
        raise UnsafeCheckpointError(what, source.path)
    return tensor.offset, last


def _outside(source: Source, tensor: TensorInfo) -> CorruptCheckpointError:
    what = f"tensor {tensor.name} views elements outside of its storage"
    return CorruptCheckpointError(what, source.path, tensors=(tensor.name,))


def _read_span(source: Source, tensor: TensorInfo, first: int, count: int) -> Array:
    kind = _BYTES if tensor.is_opaque else dtype(tensor.dtype)
    order = ">" if tensor.byteorder == "big" else "<"
    data = np.empty(count * kind.item_bytes, "u1")
    view = data.data
    if tensor.pickled is not None:
        view[:] = _pickled(source, tensor, tensor.pickled)[first * kind.item_bytes :][: len(view)]
    elif tensor.record is not None:
        _inflate_span(source, tensor, tensor.record, first * kind.item_bytes, view)
    elif source.read_into(tensor.start + first * kind.item_bytes, view) < len(view):
        what = f"truncated: the file ends within tensor {tensor.name}"
        raise CorruptCheckpointError(what, source.path, tensors=(tensor.name,))
    found: Array = data.view(order + kind.numpy)
    return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))


def _pickled(source: Source, tensor: TensorInfo, data: str | bytes) -> memoryview:
    try:
        return memoryview(data if isinstance(data, bytes) else data.encode("latin-1"))
    except UnicodeEncodeError as error:
        what = f"the data of array {tensor.name} is no bytes"
        raise CorruptCheckpointError(what, source.path, tensors=(tensor.name,)) from error


def _inflate_span(source: Source, tensor: TensorInfo, record: Record, start: int, place: memoryview) -> None:
    at = 0
    try:
        for piece in inflated(source, tensor.start, record):
            first, end = max(start, at), min(start + len(place), at + len(piece))
            if first < end:
                place[first - start : end - start] = piece[first - at : end - at]
            at += len(piece)
    except InflationError as error:
        what = f"the deflated data of tensor {tensor.name} is damaged"
        raise CorruptCheckpointError(what, source.path, tensors=(tensor.name,)) from error
