"""The types of tensors' elements: their names, their sizes, and what numpy can make of them."""

from typing import NamedTuple


class Dtype(NamedTuple):
    """How an element lies in a file.

    Attributes:
        item_bytes: its size.
        numpy: numpy's code for what lies there, without its byte order; unsigned bits where numpy lacks it.
        storage: the class in torch/storage.py that storages of it are pickled by; "" where they are pickled
            as UntypedStorage, and the dtype beside them.
        safetensors: its code in safetensors files; "" where these hold none of it.
        is_numpys: whether numpy's code gives the values themselves.
        is_quantized: whether a scale belongs to it.
    """

    item_bytes: int
    numpy: str
    storage: str = ""
    safetensors: str = ""
    is_numpys: bool = True
    is_quantized: bool = False


def _bits(item_bytes: int, safetensors: str = "", storage: str = "") -> Dtype:
    return Dtype(item_bytes, f"u{item_bytes}", storage, safetensors, is_numpys=False)


FLOAT4 = "float4_e2m1fn_x2"  # two values in each byte, which torch counts as one element

# By torch's names; without those whose bytes are compared and not understood (quint4x2 ...).
# In the order in which safetensors puts the data, largest alignment first. Source of the codes: `_TYPES` in
# safetensors/torch.py of safetensors 0.8; of the order: its tensor.rs.
DTYPES = {
    "complex128": Dtype(16, "c16", "ComplexDoubleStorage"),
    "uint64": Dtype(8, "u8", "", "U64"),
    "int64": Dtype(8, "i8", "LongStorage", "I64"),
    "float64": Dtype(8, "f8", "DoubleStorage", "F64"),
    "complex64": Dtype(8, "c8", "ComplexFloatStorage", "C64"),
    "complex32": _bits(4),
    "float32": Dtype(4, "f4", "FloatStorage", "F32"),
    "uint32": Dtype(4, "u4", "", "U32"),
    "int32": Dtype(4, "i4", "IntStorage", "I32"),
    "bfloat16": _bits(2, "BF16", "BFloat16Storage"),
    "float16": Dtype(2, "f2", "HalfStorage", "F16"),
    "uint16": Dtype(2, "u2", "", "U16"),
    "int16": Dtype(2, "i2", "ShortStorage", "I16"),
    "float8_e5m2fnuz": _bits(1, "F8_E5M2FNUZ"),
    "float8_e4m3fnuz": _bits(1, "F8_E4M3FNUZ"),
    "float8_e8m0fnu": _bits(1, "F8_E8M0"),
    "float8_e4m3fn": _bits(1, "F8_E4M3"),
    "float8_e5m2": _bits(1, "F8_E5M2"),
    "int8": Dtype(1, "i1", "CharStorage", "I8"),
    "uint8": Dtype(1, "u1", "ByteStorage", "U8"),
    "bool": Dtype(1, "b1", "BoolStorage", "BOOL"),
    FLOAT4: _bits(1, "F4"),
    # Each of them in a byte of its own.
    **{f"int{bits}": Dtype(1, "i1") for bits in range(1, 8)},
    **{f"uint{bits}": Dtype(1, "u1") for bits in range(1, 8)},
    # What means nothing but its bits.
    "bits16": Dtype(2, "u2"),
    **{name: Dtype(1, "u1") for name in ("bits8", "bits1x8", "bits2x4", "bits4x2")},
    # The integers as they are stored.
    "qint8": Dtype(1, "i1", "QInt8Storage", is_quantized=True),
    "quint8": Dtype(1, "u1", "QUInt8Storage", is_quantized=True),
    "qint32": Dtype(4, "i4", "QInt32Storage", is_quantized=True),
}
# Of NumPy's arrays alone.
_NUMPYS = {"float128": Dtype(16, "f16"), "complex256": Dtype(32, "c32")}
TIMES = ("datetime64", "timedelta64")  # with a unit, `datetime64[ns]`; as whole numbers of it
_TIME = Dtype(8, "i8", is_numpys=False)
_UNKNOWN = Dtype(0, "")

STORAGES = {
    "UntypedStorage": "uint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    **{one.storage: name for name, one in DTYPES.items() if one.storage},
}
# The last two are not torch's, and there are no others whose elements are parts of bytes.
SAFETENSORS = {
    **{one.safetensors: name for name, one in DTYPES.items() if one.safetensors},
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
}


def dtype(name: str) -> Dtype:
    """What is known of a type of torch's or NumPy's; of one that is not known here, a size of 0."""
    if name in DTYPES:
        return DTYPES[name]
    return _TIME if name.startswith(TIMES) else _NUMPYS.get(name, _UNKNOWN)
