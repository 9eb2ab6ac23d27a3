"""Trees deeper than Python's stack are cleaned like others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from marlin_ckpt.cli.main import main


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A file, and beside it folders in folders, deeper than Python's stack, with one at the bottom."""
    (tmp_path / "model_1.pt").write_bytes(b"to go")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("model_2.pt", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    yield tmp_path
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
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(21):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("model_2.pt", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    assert main(["clean", str(tmp_path), "--recursive"]) == 0
    os.close(here)
    assert not (tmp_path / "model_1.pt").exists()
    assert "model_1.pt" in capsys.readouterr().out
