"""Rounding to fewer bits is that of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.formats.values import rounding


@given(
    st.lists(st.one_of(st.floats(width=32), st.floats()), min_size=1, max_size=50), st.sampled_from([32, 64])
)
def test_rounding_is_that_of_torch_bit_for_bit(values, width):
    kind, own = (np.float32, torch.float32) if width == 32 else (np.float64, torch.float64)
    with np.errstate(over="ignore"):
        given_values = np.array(values).astype(kind)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        expected = torch.from_numpy(given_values).to(own).to(dtype)
        found, became_infinite = rounding.rounded(given_values, name)
        is_nan = torch.isnan(expected).numpy()
        theirs = expected.view(torch.int16 if dtype.itemsize == 2 else torch.int32).numpy()
        assert np.array_equal(found.view(theirs.dtype)[~is_nan], theirs[~is_nan])
        again = torch.from_numpy(found.view(theirs.dtype)).view(dtype)
        assert torch.equal(torch.isnan(again), torch.isnan(expected))
        infinite = int((torch.isinf(expected) & torch.isfinite(torch.from_numpy(given_values))).sum())
        assert became_infinite == infinite


@pytest.mark.parametrize("start", range(0, 1 << 32, 1 << 29))
def test_bfloat16_is_rounded_as_by_torch_all_over_the_range(start):
    # Each upper half of a float32 there is, with lower halves about the ties.
    upper = np.arange(start >> 16, (start + (1 << 29)) >> 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (upper[:, None] | lower).reshape(-1).view(np.float32)
    (found, _), expected = rounding.rounded(values, "bfloat16"), torch.from_numpy(values).to(torch.bfloat16)
    numbers = ~np.isnan(values)
    assert np.array_equal(found[numbers], expected.view(torch.uint16).numpy()[numbers])
    assert np.isnan((found[~numbers].astype(np.uint32) << 16).view(np.float32)).all()
