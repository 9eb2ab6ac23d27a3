"""`selection` chooses tensors by pattern and sorts them as a person counts."""

from __future__ import annotations

import os

import pytest
import torch

from marlin_ckpt import errors
from marlin_ckpt.formats.content.outline import Outline, read_outline
from marlin_ckpt.operations.selection import Order, matching
from marlin_ckpt.storage.local.files import open_source


@pytest.fixture
def outline(tmp_path) -> Outline:
    path = tmp_path / "a.pt"
    torch.save({"h.10": torch.zeros(2), "h.2": torch.zeros(3), "a": torch.zeros(1)}, path)
    with open_source(os.fspath(path)) as source:
        return read_outline(source)


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (Order.ORDER, ["h.10", "h.2", "a"]),
        (Order.NAME, ["a", "h.2", "h.10"]),
        (Order.SIZE, ["h.2", "h.10", "a"]),
    ],
)
def test_tensors_come_in_the_order_that_was_asked_for(outline, order, names):
    assert [one.name for one in matching(outline, None, order)] == names


def test_a_pattern_selects_by_the_whole_name(outline):
    assert [one.name for one in matching(outline, "h.1*", Order.ORDER)] == ["h.10"]


def test_a_pattern_that_no_name_matches_is_an_error_that_names_a_tensor(outline):
    with pytest.raises(errors.MarlinError, match="no tensor has a name like h") as raised:
        matching(outline, "h", Order.ORDER)
    assert "h.10" in raised.value.hint


def test_a_file_without_tensors_has_none_to_match(tmp_path):
    torch.save({"epoch": 1}, tmp_path / "a.pt")
    with open_source(os.fspath(tmp_path / "a.pt")) as source:
        assert matching(read_outline(source), "*", Order.NAME) == []
