"""The values of tensors as numpy arrays: only the bytes that a tensor views are read.

Importing this imports numpy, which takes longer than most commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlin_ckpt.errors import CorruptCheckpointError, UnknownFormatError, UnsafeCheckpointError
from marlin_ckpt.formats.values.dtypes import Dtype, dtype, eight_bit_values
from marlin_ckpt.formats.values.tensor import Tensor
from marlin_ckpt.storage.source import Source

Array = NDArray[Any]

BLOCK = 1 << 20  # elements
_MOST_REPEATED = 1 << 24  # elements of an expanded tensor, beyond those that it views


def read(source: Source, tensor: Tensor, *, widened: bool = False) -> Array:
    """Reads a tensor's values.

    Args:
        source: the file.
        tensor: where they lie.
        widened: give float16 as float32 too, in which their sums do not overflow.

    Returns:
        an array of the tensor's shape. Types that numpy lacks (bfloat16, float8_e4m3fn ...) are given as
        float32, which holds each of their values exactly.

    Raises:
        CorruptCheckpointError: an element lies outside of the storage, or the file ends.
        UnknownFormatError: the type is not known here.
        UnsafeCheckpointError: the tensor has far more elements than places in its storage.
        OSError: the file cannot be read.
    """
    return _valued(read_bits(source, tensor), tensor, widened=widened)


def read_bits(source: Source, tensor: Tensor) -> Array:
    """Reads a tensor's elements as they lie in the file; raises as `read` does.

    Returns:
        an array of the tensor's shape, in the machine's byte order. Of types that numpy lacks the elements
        are their bits, as unsigned integers.
    """
    kind = _kind(tensor)
    first, last = _span(tensor)
    shape = tensor.shape
    if not tensor.numel:
        try:
            return np.empty(shape, kind.numpy)
        except ValueError as error:  # a size of 2^62 beside one of 0
            raise _outside(tensor) from error
    span = _read_span(source, tensor, kind, first, last + 1 - first)
    strides = [
        step * kind.item_bytes if size > 1 else 0 for size, step in zip(shape, tensor.stride, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(span, shape, strides, writeable=False)


def blocks(
    source: Source, tensor: Tensor, elements: int = BLOCK, *, widened: bool = False, bits: bool = False
) -> Iterator[Array]:
    """Reads a tensor in pieces, in row-major order; raises as `read` does.

    Args:
        source: the file.
        tensor: where its elements lie.
        elements: the most that a piece may have.
        widened: as for `read`.
        bits: give the elements as `read_bits` does.

    Yields:
        flat arrays. Of a tensor that is not contiguous, the span of the storage that it views is in memory at
        once.
    """
    kind = _kind(tensor)
    first, _ = _span(tensor)
    whole = None if tensor.is_contiguous else read_bits(source, tensor)
    for start in range(0, tensor.numel, elements):
        count = min(elements, tensor.numel - start)
        if whole is None:
            piece = _read_span(source, tensor, kind, first + start, count)
        else:
            piece = whole.flat[start : start + count]
        yield piece if bits else _valued(piece, tensor, widened=widened)


def _kind(tensor: Tensor) -> Dtype:
    kind = dtype(tensor.dtype)
    if not kind.item_bytes:
        raise UnknownFormatError(f"the values of tensor {tensor.name} cannot be read: {tensor.dtype}")
    return kind


def _span(tensor: Tensor) -> tuple[int, int]:
    """The places of the first and the last element of the storage that a tensor views.

    Raises:
        CorruptCheckpointError: they are not in the storage.
        UnsafeCheckpointError: it has far more elements than it views.
    """
    if any(size < 0 for size in tensor.shape):
        raise _outside(tensor)
    if not tensor.numel:
        return tensor.offset, tensor.offset - 1
    last = tensor.offset
    for size, step in zip(tensor.shape, tensor.stride, strict=True):
        # torch has no negative strides.
        if step < 0:
            raise _outside(tensor)
        last += (size - 1) * step
    if tensor.offset < 0 or (last + 1) * tensor.item_bytes > tensor.storage_bytes:
        raise _outside(tensor)
    if tensor.numel > last + 1 - tensor.offset + _MOST_REPEATED:
        what = f"refused: tensor {tensor.name} says the same few elements {tensor.numel} times over"
        raise UnsafeCheckpointError(what)
    return tensor.offset, last


def _outside(tensor: Tensor) -> CorruptCheckpointError:
    what = f"tensor {tensor.name} views what its storage does not have"
    return CorruptCheckpointError(what, tensors=(tensor.name,))


def _read_span(source: Source, tensor: Tensor, kind: Dtype, first: int, count: int) -> Array:
    order = ">" if tensor.byteorder == "big" else "<"
    data = np.empty(count * kind.item_bytes, "u1")
    view = data.data
    if source.read_into(tensor.start + first * kind.item_bytes, view) < len(view):
        what = f"truncated: the file ends within tensor {tensor.name}"
        raise CorruptCheckpointError(what, tensors=(tensor.name,))
    found: Array = data.view(order + kind.numpy)
    return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))


def _valued(bits: Array, tensor: Tensor, *, widened: bool) -> Array:
    """What the elements are worth."""
    if tensor.dtype == "bfloat16":
        wide = bits.astype("u4")
        return np.asarray(np.left_shift(wide, 16, out=wide).view("f4"))
    if not dtype(tensor.dtype).is_numpys:
        return np.asarray(np.frombuffer(eight_bit_values(tensor.dtype), "<f4").astype("f4")[bits])
    if tensor.dtype == "bool":
        return np.asarray(bits.view("u1") != 0)
    return bits.astype("f4") if widened and tensor.dtype == "float16" else bits
