"""The header of a safetensors file: ours is the one that the library writes; its length is checked first."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.safetensors import writer
from marlin_ckpt.formats.safetensors.header import read_header
from marlin_ckpt.formats.values.draft import Draft
from marlin_ckpt.storage.local.files import open_source


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


@pytest.mark.parametrize("length", [0, 1, (100 << 20) + 1])
def test_a_header_of_a_length_that_no_tool_writes_is_not_read(tmp_path, length):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    os.truncate(path, 8 + max(2, length))
    with open_source(str(path)) as source, pytest.raises(CorruptCheckpointError, match="header does not fit"):
        read_header(source)
