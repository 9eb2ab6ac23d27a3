"""The measures of how far tensors have gone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.formats.values import distance


@given(
    st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_the_sum_of_the_measures_of_parts_is_the_measure_of_the_whole(values, cut):
    a, b = (np.array(column, np.float32) for column in zip(*values, strict=True))

    def measure(part: slice) -> distance.Distance:
        x, y = a[part].copy(), b[part].copy()
        differs = distance.differences(x.data.cast("B"), y.data.cast("B"), "float32")
        return distance.Ruler().measure(x, y, differs)

    parts, whole = measure(slice(0, cut)) + measure(slice(cut, None)), measure(slice(None))
    assert (parts.differing, parts.not_finite, parts.maximum) == (
        whole.differing,
        whole.not_finite,
        whole.maximum,
    )
    for name in ("squares", "other_squares", "difference_squares", "product"):
        scale = math.sqrt(whole.squares * whole.other_squares)
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-9 * scale)
    assert whole.cosine is None or -1 <= whole.cosine <= 1
