"""The types of tensors' elements: their names, their sizes, and what numpy can make of them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dtype:
    """How an element lies in a file.

    Attributes:
        item_bytes: its size.
        numpy: numpy's code for what lies there, without its byte order; unsigned bits where numpy lacks it.
        is_numpys: whether that code gives the values themselves.
    """

    item_bytes: int
    numpy: str
    is_numpys: bool = True


# By torch's names; without those whose elements are parts of bytes (int4, float4_e2m1fn_x2, quint4x2 ...).
DTYPES = {
    "float64": Dtype(8, "f8"),
    "float32": Dtype(4, "f4"),
    "float16": Dtype(2, "f2"),
    "bfloat16": Dtype(2, "u2", is_numpys=False),
    "float8_e4m3fn": Dtype(1, "u1", is_numpys=False),
    "float8_e4m3fnuz": Dtype(1, "u1", is_numpys=False),
    "float8_e5m2": Dtype(1, "u1", is_numpys=False),
    "float8_e5m2fnuz": Dtype(1, "u1", is_numpys=False),
    "float8_e8m0fnu": Dtype(1, "u1", is_numpys=False),
    "complex128": Dtype(16, "c16"),
    "complex64": Dtype(8, "c8"),
    "int64": Dtype(8, "i8"),
    "int32": Dtype(4, "i4"),
    "int16": Dtype(2, "i2"),
    "int8": Dtype(1, "i1"),
    "uint64": Dtype(8, "u8"),
    "uint32": Dtype(4, "u4"),
    "uint16": Dtype(2, "u2"),
    "uint8": Dtype(1, "u1"),
    "bool": Dtype(1, "b1"),
    # Quantized: the integers as they are stored.
    "qint8": Dtype(1, "i1"),
    "quint8": Dtype(1, "u1"),
    "qint32": Dtype(4, "i4"),
}
_UNKNOWN = Dtype(0, "")

# Of the classes in torch/storage.py that are pickled by name; other dtypes are pickled as UntypedStorage.
STORAGES = {
    "UntypedStorage": "uint8", "ByteStorage": "uint8", "CharStorage": "int8", "BoolStorage": "bool",
    "ShortStorage": "int16", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "IntStorage": "int32",
    "FloatStorage": "float32", "LongStorage": "int64", "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8", "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}  # fmt: skip

# Of a safetensors file. Source: `_TYPES` in safetensors/torch.py of safetensors 0.8.
SAFETENSORS = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


def dtype(name: str) -> Dtype:
    """What is known of a type; of one that is not known here, a size of 0."""
    return DTYPES.get(name, _UNKNOWN)


# Bits of exponent and mantissa, bias, and whether the greatest exponent holds infinities as IEEE 754 has it.
# Source: c10/util/Float8_*.h of torch 2.13.
_EIGHT_BITS = {
    "float8_e4m3fn": (4, 3, 7, False),
    "float8_e4m3fnuz": (4, 3, 8, False),
    "float8_e5m2": (5, 2, 15, True),
    "float8_e5m2fnuz": (5, 2, 16, False),
    "float8_e8m0fnu": (8, 0, 127, False),
}


def eight_bit_values(name: str) -> bytes:
    """The values of a type of 8 bits, in the order of their bits.

    Args:
        name: of the type, `float8_e4m3fn`.

    Returns:
        256 floats of 32 bits, little-endian, which all of them are exactly.
    """
    return struct.pack("<256f", *(_eight_bit_value(name, bits) for bits in range(256)))


def _eight_bit_value(name: str, bits: int) -> float:
    exponent_bits, mantissa_bits, bias, has_infinities = _EIGHT_BITS[name]
    if name == "float8_e8m0fnu":
        return math.nan if bits == 0xFF else math.ldexp(1, bits - bias)  # noqa: PLR2004 - all bits set
    sign = -1.0 if bits & 0x80 else 1.0
    exponent = (bits & 0x7F) >> mantissa_bits
    mantissa = bits & ((1 << mantissa_bits) - 1)
    if name.endswith("fnuz") and bits == 0x80:  # noqa: PLR2004 - what would be minus zero
        return math.nan
    if name == "float8_e4m3fn" and bits & 0x7F == 0x7F:  # noqa: PLR2004 - all bits but the sign's
        return math.copysign(math.nan, sign)
    if has_infinities and exponent == (1 << exponent_bits) - 1:
        return sign * math.inf if not mantissa else math.copysign(math.nan, sign)
    if not exponent:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)
