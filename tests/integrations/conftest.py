"""A file system that shares blocks, where there is none."""

from __future__ import annotations

import pytest

from tests.support.clones import Clones


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> Clones:
    return Clones().put_in(monkeypatch)
