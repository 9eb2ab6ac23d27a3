"""Trees deeper than Python's stack are cleaned like others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from marlin_ckpt.cli.main import main
from tests.support.folders import make_deep


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A file, and beside it folders in folders, deeper than Python's stack, with one at the bottom."""
    (tmp_path / "model_1.pt").write_bytes(b"to go")
    make_deep(tmp_path, "d", 600, "model_2.pt")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(500)  # half the usual one: the time grows with the square of the depth
    yield tmp_path
    sys.setrecursionlimit(limit)
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # shutil.rmtree recurses, too


def test_a_tree_deeper_than_pythons_stack_is_cleaned_to_its_bottom(deep, capsys):
    assert main(["clean", str(deep), "--recursive"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_file_deeper_than_pythons_stack_goes_to_the_trash_and_comes_back(deep, capsys):
    assert main(["clean", str(deep), "--recursive", "--to-trash"]) == 0
    assert main(["clean", str(deep), "--undo"]) == 0
    assert not (deep / ".trash").exists()
    assert main(["clean", str(deep), "--recursive", "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_a_path_that_is_too_long_for_the_system_keeps_nothing_else_from_being_removed(tmp_path, capsys):
    (tmp_path / "model_1.pt").write_bytes(b"to go")
    make_deep(tmp_path, "d" * 200, 21, "model_2.pt")
    assert main(["clean", str(tmp_path), "--recursive"]) == 0
    assert not (tmp_path / "model_1.pt").exists()
    assert "model_1.pt" in capsys.readouterr().out
