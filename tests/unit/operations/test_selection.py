"""`selection` chooses tensors by pattern and sorts them as a person counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from marlin_ckpt import errors
from marlin_ckpt.formats.content.contents import Contents, read_contents
from marlin_ckpt.operations.selection import Order, count_values, matching
from marlin_ckpt.storage.local.files import open_source


def contents_of(state: Any, path: Path) -> Contents:
    torch.save(state, path)
    with open_source(os.fspath(path)) as source:
        return read_contents(source)


@pytest.fixture
def contents(tmp_path) -> Contents:
    state = {"h.10": torch.zeros(2), "h.2": torch.zeros(3), "a": torch.zeros(1)}
    return contents_of(state, tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (Order.ORDER, ["h.10", "h.2", "a"]),
        (Order.NAME, ["a", "h.2", "h.10"]),
        (Order.SIZE, ["h.2", "h.10", "a"]),
    ],
)
def test_tensors_come_in_the_order_that_was_asked_for(contents, order, names):
    assert [one.name for one in matching(contents, None, order)] == names


def test_a_pattern_selects_by_the_whole_name(contents):
    assert [one.name for one in matching(contents, "h.1*", Order.ORDER)] == ["h.10"]


def test_a_pattern_that_no_name_matches_is_an_error_that_names_a_tensor(contents):
    with pytest.raises(errors.MarlinError, match="no tensor has a name like h") as raised:
        matching(contents, "h", Order.ORDER)
    assert "h.10" in raised.value.hint


def test_a_file_without_tensors_has_none_to_match(tmp_path):
    assert matching(contents_of({"epoch": 1}, tmp_path / "a.pt"), "*", Order.NAME) == []


def test_a_long_list_in_many_places_is_counted_without_being_written_out(tmp_path):
    found = contents_of([[None] * 100_000] * 1_000, tmp_path / "a.pt")
    assert count_values(found, "") == 1_000
