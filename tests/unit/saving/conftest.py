"""Saves that are held up for as long as a test wants."""

from __future__ import annotations

import pytest

from tests.support.async_runs import Gate, LateCopies


@pytest.fixture
def gate(monkeypatch):
    one = Gate(monkeypatch)
    yield one
    one.opened.set()


@pytest.fixture
def late(monkeypatch):
    one = LateCopies(monkeypatch)
    yield one
    one.release()
