"""The summary of a tree and the figures of its tensors lose nothing."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from marlin_ckpt.formats.content.contents import read_contents
from marlin_ckpt.formats.content.summary import summarise
from marlin_ckpt.storage.local.files import open_source


@given(values=st.lists(st.floats(width=32), max_size=50), size=st.integers(1, 7))
@example(values=[0.0030913404189050198, -7.96381463329282e-21, 0.00024072251108009368], size=2)
def test_figures_do_not_depend_on_how_the_values_are_cut_into_blocks(values, size):
    from marlin_ckpt.formats.values import arrays, distribution

    path = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"show{os.getpid()}.pt"
    torch.save([torch.tensor(values)], path)
    original = arrays.blocks
    try:
        with open_source(str(path)) as source, pytest.MonkeyPatch.context() as patch:
            (tensor,) = read_contents(source).tensors
            whole = distribution.distribution(source, tensor)
            patch.setattr(arrays, "blocks", lambda fd, tensor: original(fd, tensor, size))
            cut = distribution.distribution(source, tensor)
    finally:
        path.unlink()
    assert whole.statistics[3:] == cut.statistics[3:]
    assert whole.histogram == cut.histogram
    scale = max((abs(value) for value in values if math.isfinite(value)), default=0)
    # The squares of a block are summed in float32.
    assert whole.statistics.norm == pytest.approx(cut.statistics.norm, rel=1e-6, abs=1e-6 * scale)
    figures = (*whole.statistics[1:3], whole.mean, whole.std), (*cut.statistics[1:3], cut.mean, cut.std)
    for one, other in zip(*figures, strict=True):
        assert one == pytest.approx(other, nan_ok=True, rel=1e-9, abs=1e-9 * scale)


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(["weight", "bias"]), st.integers(1, 3)), max_size=30
    )
)
def test_the_summary_loses_no_tensor_and_no_element(parts):
    state = {f"h.{number}.{name}": torch.ones(size) for number, name, size in parts}
    path = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"summary{os.getpid()}.pt"
    torch.save(state, path)
    try:
        with open_source(str(path)) as source:
            found = read_contents(source)
    finally:
        path.unlink()
    whole = summarise(found.root)
    assert (whole.tensors, whole.numel) == (len(state), sum(one.numel() for one in state.values()))

    def leaves(branch: Any) -> int:
        return sum(map(leaves, branch.children)) if branch.children else branch.numel

    assert leaves(whole) == whole.numel
