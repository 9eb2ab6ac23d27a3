"""Rounds floating-point values to another dtype as torch does: to the nearest, ties to even."""

import numpy as np

from marlin_ckpt.formats.values.arrays import Array

# The values of `--dtype`, and torch's name for each.
SHORT_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_CODES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
# Elements at a time: for larger blocks, allocating the intermediate arrays takes longer than the computation.
_BLOCK = 1 << 14
_INFINITY = 0x7F80
_BFLOAT16_NAN = 0x7FC0  # c10::detail::round_to_nearest_even


def is_floating(dtype: str) -> bool:
    """Whether torch calls a dtype, such as `bfloat16`, floating-point."""
    return dtype.startswith(("float", "bfloat"))


def is_packed(dtype: str) -> bool:
    """Whether a floating-point dtype has values that are parts of bytes."""
    return dtype.startswith(("float4_", "float6_"))


def rounded(values: Array, dtype: str) -> tuple[Array, int]:
    """Rounds to `float64`, `float32`, `float16` or `bfloat16`.

    Args:
        values: flat, of a floating-point dtype of numpy's.
        dtype: torch's name of the new one. From float64 to 16 bits it goes by way of float32, as in torch.

    Returns:
        the values in that dtype (bfloat16, which numpy lacks, as its bits in uint16), and how many finite
        values became infinite, because they are too large for it.
    """
    result = np.empty(len(values), _CODES[dtype])
    became_infinite = 0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, len(values), _BLOCK):
            part = slice(start, start + _BLOCK)
            block = values[part]
            result[part] = _rounded_block(block, dtype)
            became_infinite += _became_infinite(block, result[part], dtype)
    return result, became_infinite


def _rounded_block(values: Array, dtype: str) -> Array:
    if dtype == "float64":
        return values
    single = values.astype(np.float32, copy=False)
    return _bfloat16_bits(single) if dtype == "bfloat16" else single.astype(_CODES[dtype], copy=False)


def _bfloat16_bits(values: Array) -> Array:
    """The upper halves of float32 values, rounded by the lower ones; that may carry into the exponent."""
    bits = values.view(np.uint32)
    # Half of the last place that is kept, less one, and one more where that place is odd.
    kept: Array = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    kept[np.isnan(values)] = _BFLOAT16_NAN  # a NaN with its payload in the lower half would become infinite
    return kept


def _became_infinite(values: Array, result: Array, dtype: str) -> int:
    # In bfloat16: all of the exponent's bits, and none of the others.
    infinite = (result & 0x7FFF) == _INFINITY if dtype == "bfloat16" else np.isinf(result)
    return int(np.count_nonzero(np.isfinite(values[infinite]))) if infinite.any() else 0
