"""`show` says how many bytes of a file belong to no tensor, and `export` writes a file without them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from marlin_ckpt.cli.main import main
from tests.support.contents import FORMATS, contents, contents_of

LARGE = torch.zeros(1_000_000)
GRID = LARGE.view(1000, 1000)
STATES: dict[str, tuple[Any, int]] = {
    "whole": ([LARGE], 0),
    "whole, and a part of it": ([LARGE, LARGE[:10]], 0),
    "a slice": ([LARGE[:100]], 3_999_600),
    "two slices that overlap": ([LARGE[:100], LARGE[50:150]], 3_999_400),
    "two slices": ([LARGE[:100], LARGE[200:300]], 3_999_200),
    "a column": ([GRID[:, :1]], 3_996_000),
    "halves": ([GRID[:, :500], GRID[:, 500:]], 0),
    "an expanded row": ([GRID[:1].expand(9, 1000)], 3_996_000),
    "nothing of it": ([LARGE[:0]], 4_000_000),
    "no tensor": ([], 0),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("state", "unused"), STATES.values(), ids=STATES)
def test_the_bytes_that_belong_to_no_tensor_are_counted(tmp_path, state, unused, kind):
    assert contents_of(state, tmp_path / "a.pt", kind).unused_bytes == unused


def test_show_says_so_and_export_writes_the_small_file(tmp_path, capsys):
    torch.save({"w": LARGE[:100]}, tmp_path / "a.pt")
    assert main(["show", str(tmp_path / "a.pt")]) == 0
    assert (
        "unused     4 MB belong to no tensor: `export` writes a file without them" in capsys.readouterr().out
    )
    assert main(["show", str(tmp_path / "a.pt"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["unused_bytes"] == 3_999_600
    assert told["tensors"][0]["storage_bytes"] == 4_000_000
    assert main(["export", str(tmp_path / "a.pt"), "-o", str(tmp_path / "o.pt")]) == 0
    assert (tmp_path / "o.pt").stat().st_size < 4_000
    assert contents(tmp_path / "o.pt").unused_bytes == 0


def test_a_record_that_no_tensor_names_is_counted(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("a/data/17", bytes(5_000))
    assert contents(tmp_path / "a.pt").unused_bytes == 5_000


def test_nothing_is_said_of_a_file_in_which_all_belongs_to_tensors(tmp_path, capsys):
    torch.save({"w": LARGE}, tmp_path / "a.pt")
    save_file({"w": LARGE}, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        assert main(["show", str(tmp_path / name)]) == 0
        assert "unused" not in capsys.readouterr().out


def test_a_bare_storage_and_an_opaque_tensor_are_used_whole(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(LARGE.untyped_storage(), buffer)
    (tmp_path / "a.pt").write_bytes(buffer.getvalue())
    assert contents(tmp_path / "a.pt").unused_bytes == 0
