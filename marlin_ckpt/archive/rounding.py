"""Floating-point values in another dtype, rounded to the nearest, ties to even, as torch rounds them."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# What `--dtype` takes, and torch's name for each.
SHORT_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_INFINITY = 0x7F80
_BFLOAT16_NAN = 0x7FC0  # c10::detail::round_to_nearest_even


def is_floating(dtype: str) -> bool:
    """Whether torch calls a dtype, such as `bfloat16`, floating-point."""
    return dtype.startswith(("float", "bfloat"))


def rounded(values: Array, dtype: str) -> Array:
    """Rounds to `float64`, `float32`, `float16` or `bfloat16`.

    Args:
        values: flat, of a floating-point dtype of numpy's.
        dtype: torch's name of the new one. From float64 to 16 bits it goes by way of float32, as in torch.

    Returns:
        the values in that dtype; the bits of bfloat16, which numpy lacks, as uint16. What is too large for
        the dtype is infinite in it.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype == "float64":
            return values.astype(np.float64, copy=False)
        single = values.astype(np.float32, copy=False)
        if dtype == "float32":
            return single
        return single.astype(np.float16) if dtype == "float16" else _bfloat16_bits(single)


def _bfloat16_bits(values: Array) -> Array:
    """The upper halves of float32, plus one where the lower half says so; it may carry into the exponent."""
    bits = values.view(np.uint32)
    # Half of the last place that is kept, less one, and one more where that place is odd.
    kept: Array = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    kept[np.isnan(values)] = _BFLOAT16_NAN  # a NaN with its payload in the lower half would become infinite
    return kept


def became_infinite(values: Array, result: Array, dtype: str) -> int:
    """How many finite values are infinite in what `rounded` made of them."""
    # In bfloat16: all of the exponent's bits, and none of the others.
    infinite = (result & 0x7FFF) == _INFINITY if dtype == "bfloat16" else np.isinf(result)
    return int(np.count_nonzero(infinite & np.isfinite(values)))
