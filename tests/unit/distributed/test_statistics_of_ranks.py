"""The statistics of a tensor of which each rank writes a part are those of the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.distributed.shards.statistics import OfRank, Tensors, combined, name_of
from marlin_ckpt.formats import statistics
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.values.accumulating import Accumulator

_VALUES = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])


def _sent(*parts: torch.Tensor) -> bytes:
    own = OfRank((str(one.dtype)[6:], one.nbytes) for one in parts)
    for one, told in zip(parts, own.observers(), strict=True):
        data = memory(one.data_ptr(), one.nbytes) if one.numel() else memoryview(b"")
        if told is not None:
            told(data[:3])
            told(data[3:])
    return own.to_bytes()


@given(st.lists(st.lists(_VALUES, max_size=6), min_size=1, max_size=5))
def test_parts_make_the_statistics_of_the_whole(rows):
    parts = [torch.tensor(one) for one in rows]
    other = torch.tensor([2, -3], dtype=torch.int16)
    flags = torch.tensor([True])
    sent = [_sent(one, *([flags, other] if rank == 0 else [])) for rank, one in enumerate(parts)]
    of_ranks = [np.array([0, 1, 2] if rank == 0 else [0]) for rank in range(len(rows))]
    names = [("w", 0), ("flags", 1), ("other", 2), ("tied", 0)]
    found = statistics.from_json(combined(Tensors(["float32", "bool", "int16"], names, of_ranks), sent))
    assert found is not None
    whole = Accumulator()
    whole.add(torch.cat(parts).numpy())
    known = found.by_name()
    assert [*known] == ["w", "other", "tied"]
    assert tuple(known["w"]) == pytest.approx(tuple(whole.statistics()), rel=1e-6, nan_ok=True)
    assert known["tied"] == known["w"] or math.isnan(known["w"].minimum)
    assert known["other"] == (pytest.approx(13**0.5), -3, 2, 0, 0)


def test_norms_whose_squares_are_too_large_are_combined():
    sent = [_sent(torch.full((4,), 1e200, dtype=torch.float64)) for _ in range(4)]
    found = statistics.from_json(combined(Tensors(["float64"], [("w", 0)], [np.array([0])] * 4), sent))
    assert found is not None
    assert found.by_name()["w"] == (pytest.approx(4e200), 1e200, 1e200, 0, 0)


def test_names_are_those_that_show_prints():
    assert name_of(("trainer_state", "optimizers", 0, "state", "3", "exp_avg")) == (
        "trainer_state.optimizers[0].state.3.exp_avg"
    )
    assert name_of(("model", "0.weight")) == "model.0.weight"
