"""`selection` chooses tensors by pattern and sorts them as a person counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from marlin_ckpt import errors
from marlin_ckpt.formats.content.outline import Outline, read_outline
from marlin_ckpt.operations.selection import Order, count_values, matching
from marlin_ckpt.storage.local.files import open_source


def outline_of(state: Any, path: Path) -> Outline:
    torch.save(state, path)
    with open_source(os.fspath(path)) as source:
        return read_outline(source)


@pytest.fixture
def outline(tmp_path) -> Outline:
    state = {"h.10": torch.zeros(2), "h.2": torch.zeros(3), "a": torch.zeros(1)}
    return outline_of(state, tmp_path / "a.pt")


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
    assert matching(outline_of({"epoch": 1}, tmp_path / "a.pt"), "*", Order.NAME) == []


def test_a_long_list_in_many_places_is_counted_without_being_written_out(tmp_path):
    found = outline_of([[None] * 100_000] * 1_000, tmp_path / "a.pt")
    assert count_values(found, "") == 1_000
