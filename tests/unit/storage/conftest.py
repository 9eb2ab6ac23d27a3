"""Files that are written to, and a file system where they can share blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clones import Clones


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> Clones:
    return Clones().put_in(monkeypatch)
