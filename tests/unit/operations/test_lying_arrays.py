"""Arrays of NumPy's that lie about their data cost no more than an error of ours."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from marlin_ckpt import errors
from marlin_ckpt.operations import diff
from marlin_ckpt.operations.one import opened
from tests.support.state_files import write_state


def compare(a: Path, b: Path) -> diff.Comparison:
    with opened(str(a)) as before, opened(str(b)) as after:
        return diff.compare(before, after)


class Lying:
    """Is pickled as a call with arguments and a state."""

    def __init__(self, called: Any, arguments: tuple[Any, ...], state: Any = None) -> None:
        self.reduced = (called, arguments) if state is None else (called, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def array_with(*state: Any) -> Lying:
    return Lying(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, *state))


F8 = np.dtype("f8")
LIES = {
    "too few bytes": array_with((4,), F8, False, b"123"),
    "too many bytes": array_with((1,), F8, False, bytes(24)),
    "a huge shape": array_with((2**62, 4), F8, False, bytes(8)),
    "a negative shape": array_with((-1,), F8, False, bytes(8)),
    "many dimensions": array_with((1,) * 100, F8, False, bytes(8)),
    "a shape of texts": array_with(("a",), F8, False, bytes(8)),
    "no shape": array_with(None, F8, False, bytes(8)),
    "a list of numbers": array_with((1,), F8, False, [1.0]),
    "bytes of objects": array_with((8,), np.dtype("O"), False, bytes(8)),
    "a number of other bytes": Lying(np._core.multiarray.scalar, (F8, b"123")),
    "a time beyond all years": Lying(np._core.multiarray.scalar, (np.dtype("M8[W]"), b"\xff" * 7 + b"\x7f")),
    "a set of a number": Lying(set, (5,)),
    "a set of two lists": Lying(set, ([1], [2])),
}


@pytest.mark.parametrize("title", LIES)
def test_an_array_that_lies_is_compared_as_the_object_that_it_is(tmp_path, title):
    path = write_state(tmp_path, {"w": torch.ones(1), "x": LIES[title]})
    other = write_state(tmp_path, {"w": torch.ones(1), "x": [LIES[title]]}, "other.pt")
    assert compare(path, path).is_same
    assert not compare(path, other).is_same


def test_an_array_whose_data_is_no_bytes_is_refused_by_name(tmp_path):
    data = Lying(codecs.encode, ("a\u4e00", "latin1"))
    path = write_state(tmp_path, {"x": array_with((2,), np.dtype("u1"), False, data)})
    with pytest.raises(errors.CorruptCheckpointError, match="array x is no bytes"):
        compare(path, path)
