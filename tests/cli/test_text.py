"""Values as a person reads them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.cli.text import age, count, size
from marlin_ckpt.escaping import escape

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@given(st.integers(0, 999 * 10**12))
def test_a_size_is_shown_within_half_a_percent_in_at_most_three_digits(size_bytes: int) -> None:
    number, unit = size(size_bytes).split(" ")
    assert re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?", number)
    assert float(number) * _UNITS[unit] == pytest.approx(size_bytes, rel=0.006, abs=0)


@given(st.floats(-10, 10**9))
def test_an_age_never_claims_more_than_has_gone_by(seconds: float) -> None:
    number, unit = age(seconds).split(" ")
    length = {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    assert 0 <= int(number) * length <= max(0, seconds) + 0.5


@pytest.mark.parametrize(("number", "shown"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_one_thing_is_named_in_the_singular(number: int, shown: str) -> None:
    assert count(number, "file") == shown


@given(st.text(st.characters(codec=None)))
def test_an_escaped_text_is_printable_and_a_printable_one_is_left_as_it_is(text: str) -> None:
    assert escape(text).isprintable()
    assert escape(escape(text)) == escape(text)
    if text.isprintable():
        assert escape(text) == text
