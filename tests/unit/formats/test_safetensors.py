"""The header of a safetensors file is the one that the library writes."""

from __future__ import annotations

import math

import numpy as np
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.formats.safetensors import writer
from marlin_ckpt.formats.values.draft import Draft


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        st.tuples(
            st.sampled_from(["float32", "bfloat16", "int64", "bool"]), st.lists(st.integers(0, 4), max_size=3)
        ),
        max_size=8,
    )
)
def test_the_header_is_that_of_the_library_for_any_names_and_shapes(drawn):
    drafts, specs, keep = [], {}, []
    for name, (dtype, shape) in drawn.items():
        item = {"float32": 4, "bfloat16": 2, "int64": 8, "bool": 1}[dtype]
        drafts.append(Draft(name, dtype, math.prod(shape) * item, tuple(shape), "", lambda: memoryview(b"")))
        keep.append(np.zeros(math.prod(shape) * item, np.uint8))
        specs[name] = safetensors.TensorSpec(
            dtype=dtype, shape=shape, data_ptr=keep[-1].ctypes.data, data_len=keep[-1].nbytes
        )
    theirs = safetensors.serialize(specs, metadata={"format": "pt"})
    ours = writer.header(writer.in_order(drafts), {"format": "pt"})
    assert theirs[: len(ours)] == ours
