"""The values that quantized tensors stand for. Without torch.

torch's own have a scale and a zero point, for all elements or for each slice of a dimension: "Quantization"
in torch's manual. Those of bitsandbytes have a scale for each block or row: `dequantize_4bit`,
`dequantize_blockwise` and `int8_vectorwise_dequant` in backends/default/ops.py of bitsandbytes 0.50.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from marlin_ckpt.errors import CorruptCheckpointError, UnsavableStateError
from marlin_ckpt.formats.budget import check_json
from marlin_ckpt.formats.content.contents import TensorInfo
from marlin_ckpt.formats.values.arrays import Array
from marlin_ckpt.formats.values.checked import Checked
from marlin_ckpt.formats.values.tensor import contiguous_stride
from marlin_ckpt.operations.packed.finding import How, Quantized

_LONGEST_DESCRIPTION = 1 << 16  # bytes of JSON
_LEVELS, _NESTED_LEVELS = 16, 256  # values that four bits, and those of a nested scale, stand for
_DTYPES = ("bfloat16", "float16", "float32")
_MOST_DIMENSIONS = 64  # torch's own limit
_LARGEST = 127  # of the integers that stand for the greatest value of a row


class Values(NamedTuple):
    """What a quantized tensor stands for.

    Attributes:
        dtype: that it had before.
        shape: its sizes.
        read: returns the values as float32, flat.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array]

    def described(self, name: str) -> TensorInfo:
        """A tensor of these values, in place of the one that is stored."""
        own = f"the values of {name}"
        return TensorInfo(name, self.dtype, self.shape, contiguous_stride(self.shape), 0, own, 0, 0)


def unpack(file: Checked, one: Quantized) -> Values:
    """Finds out what a quantized tensor stands for; its values are read later.

    Raises:
        UnsavableStateError: nothing here can undo the way in which it was quantized.
        CorruptCheckpointError: its parts do not fit each other, or a checksum does not hold.
        ExcessError: its description would take too much memory.
        StorageError: the file cannot be read.
    """
    if one.how is How.FOUR_BITS:
        return _four_bits(file, one)
    if one.how is How.EIGHT_BITS:
        return _eight_bits(file, one)
    if one.how is How.TORCH:
        return _torchs(file, one)
    hint = "load it with the package that it is of, and dequantize it there"
    raise UnsavableStateError(f"{one.tensor.name} is quantized: {one.scheme}", file.contents.path, hint)


class _Description(NamedTuple):
    """What bitsandbytes says of a weight of 4 bits, in JSON.

    Attributes:
        shape: its sizes.
        dtype: that it had.
        blocksize: how many elements have one scale.
        nested_blocksize: how many scales have one scale, where they are quantized, too.
        nested_offset: what is added to each of these.
    """

    shape: tuple[int, ...]
    dtype: str
    blocksize: int
    nested_blocksize: int = 1
    nested_offset: float = 0.0

    @classmethod
    def of(cls, text: bytes) -> _Description:
        """Reads the JSON; raises ValueError, or what its types meet, where it is not what it should be."""
        found = json.loads(text)
        made = cls(
            tuple(found["shape"]), found["dtype"], found["blocksize"], found.get("nested_blocksize", 1),
            float(found.get("nested_offset", 0.0)),
        )  # fmt: skip
        numbers = (*made.shape, made.blocksize - 1, made.nested_blocksize - 1)
        if (
            len(made.shape) > _MOST_DIMENSIONS
            or made.dtype not in _DTYPES
            or not all(type(one) is int and one >= 0 for one in numbers)
        ):
            raise ValueError("its description does not hold")
        return made


def _four_bits(file: Checked, one: Quantized) -> Values:
    tensor, parts = one.tensor, one.parts
    described = parts["description"]
    if described.size_bytes > _LONGEST_DESCRIPTION:
        raise _does_not_fit(file, tensor, "its description is too long")
    text = file.bits(described).tobytes()
    check_json(text, file.contents.path)
    try:
        about = _Description.of(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise _does_not_fit(file, tensor, str(error)) from error
    count = math.prod(about.shape)
    block = min(about.blocksize, max(1, count))

    def scales() -> Array:
        stored = file.values(parts["absmax"])
        if "nested_absmax" not in parts or "nested_quant_map" not in parts:
            return stored
        levels, outer = file.values(parts["nested_quant_map"]), file.values(parts["nested_absmax"])
        places = np.arange(len(stored)) // min(about.nested_blocksize, max(1, len(stored)))
        if stored.dtype != np.uint8 or len(levels) != _NESTED_LEVELS or len(outer) <= places.max(initial=-1):
            raise _does_not_fit(file, tensor, "its scales do not fit each other")
        return np.asarray(levels[stored] * outer[places] + np.float32(about.nested_offset))

    def read() -> Array:
        file.expect(parts.values())
        bits, levels, factors = file.bits(tensor).view(np.uint8), file.values(parts["quant_map"]), scales()
        if any(map(np.iscomplexobj, (levels, factors))):
            raise _does_not_fit(file, tensor, "its scales are complex")
        if len(levels) != _LEVELS or 2 * len(bits) < count or len(factors) * block < count:
            raise _does_not_fit(file, tensor, "its parts do not fit its shape")
        levels = levels.astype(np.float32)
        made = np.empty(2 * len(bits), np.float32)
        made[::2], made[1::2] = levels[bits >> 4], levels[bits & 0xF]
        made = made[:count]
        whole = count // block
        made[: whole * block].reshape(whole, block)[...] *= factors[:whole, None]
        made[whole * block :] *= factors[whole : whole + 1]
        return made

    return Values(about.dtype, about.shape, read)


def _eight_bits(file: Checked, one: Quantized) -> Values:
    tensor, scales, form = one.tensor, one.parts["SCB"], one.parts.get("weight_format")
    if form is not None and (form.numel != 1 or file.bits(form).any()):
        what = f"{tensor.name} is not in rows, but in the order of some processor"
        raise UnsavableStateError(what, file.contents.path, "load it with bitsandbytes")

    def read() -> Array:
        file.expect([scales])
        rows = file.values(scales)
        if rows.shape != tensor.shape[:1]:
            raise _does_not_fit(file, tensor, "its scales do not fit its rows")
        values = file.bits(tensor).reshape(tensor.shape).astype(np.float32)
        values *= rows[:, None]
        values *= np.float32(1 / _LARGEST)
        return values.reshape(-1)

    return Values("float32", tensor.shape, read)


def _torchs(file: Checked, one: Quantized) -> Values:
    tensor = one.tensor

    def number(key: str) -> Any:
        if key in one.parts:
            file.expect([one.parts[key]])
            return file.values(one.parts[key])
        if key not in one.numbers:
            raise _does_not_fit(file, tensor, f"it has no {key}")
        return one.numbers[key]

    def read() -> Array:
        scale, zero_point = number("scale"), number("zero_point")
        values = file.bits(tensor).reshape(tensor.shape)
        if "axis" in one.numbers:
            axis = one.numbers["axis"]
            sizes = tensor.shape[int(axis) : int(axis) + 1] if axis in range(values.ndim) else ()
            if not sizes or {np.shape(scale), np.shape(zero_point)} != {sizes}:
                raise _does_not_fit(file, tensor, "its scales do not fit its shape")
            sizes = tuple(-1 if each == axis else 1 for each in range(values.ndim))
            scale, zero_point = np.reshape(scale, sizes), np.reshape(zero_point, sizes)
        elif np.ndim(scale) or np.ndim(zero_point):
            raise _does_not_fit(file, tensor, "its scale is no number")
        made: Array = (values.astype(np.int64) - np.asarray(zero_point, np.int64)).astype(np.float32)
        made *= np.asarray(scale, np.float32)
        return made.reshape(-1)

    return Values("float32", tensor.shape, read)


def _does_not_fit(file: Checked, tensor: TensorInfo, why: str) -> CorruptCheckpointError:
    what = f"the quantized tensor {tensor.name} cannot be read: {why}"
    return CorruptCheckpointError(what, file.contents.path, tensors=(tensor.name,))
