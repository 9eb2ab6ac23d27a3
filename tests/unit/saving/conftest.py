"""Saves that are held up for as long as a test wants, and files that share bytes."""

from __future__ import annotations

import pytest

from tests.support.async_runs import Gate, LateCopies
from tests.support.clones import Clones


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


@pytest.fixture
def clones(monkeypatch):
    return Clones().put_in(monkeypatch)
