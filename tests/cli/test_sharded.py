"""Every command takes a sharded checkpoint for one checkpoint."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

import marlin_ckpt
from marlin_ckpt.cli.main import main
from marlin_ckpt.formats.manifest import Mesh, Sharded
from tests.support.equality import is_same
from tests.support.folder_checkpoints import about
from tests.support.sharded_folders import state_of, write, write_manifest


@pytest.fixture
def directory(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for index in (3, 4, 5):
        write(tmp_path / f"model_{index}.dcp", ranks=2, index=index, manifest=about(index, save_number=index))
    return tmp_path


def run(capsys, *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main([*arguments]) == code
    found = capsys.readouterr()
    return found.out, found.err


def document(capsys, *arguments: str, code: int = 0) -> dict:
    return json.loads(run(capsys, *arguments, "--json", code=code)[0])


@pytest.mark.usefixtures("directory")
def test_list_latest_and_verify_have_a_row_for_each(capsys):
    rows = document(capsys, "list", ".")["checkpoints"]
    assert [(Path(one["path"]).name, one["index"], one["complete"]) for one in rows] == [
        (f"model_{index}.dcp", index, True) for index in (3, 4, 5)
    ]
    assert run(capsys, "latest", ".", "--intact")[0] == "./model_5.dcp\n"
    assert [one["status"] for one in document(capsys, "verify", ".")["files"]] == ["intact"] * 3


def test_a_link_that_is_named_is_followed_to_a_folder_and_counts_for_none_beside_it(directory, capsys):
    (directory / "best").symlink_to("model_4.dcp")
    assert run(capsys, "verify", "best")[0] == f"intact  {directory / 'model_4.dcp'}\n"
    assert document(capsys, "show", "best")["index"] == 4
    run(capsys, "diff", "best", "model_4.dcp")
    run(capsys, "export", "best", "-o", "best.pt", "--state", "all")
    assert marlin_ckpt.load("best")["trainer_state"]["epoch"] == 4
    assert len(document(capsys, "list", ".", "--ext", "dcp")["checkpoints"]) == 3
    run(capsys, "clean", ".", "--keep-last", "1", "--ext", "dcp")
    assert sorted(os.listdir()) == ["best", "best.pt", "model_4.dcp", "model_5.dcp"]


def test_show_says_how_many_ranks_wrote_it_and_how_they_were_arranged(directory, capsys):
    assert "sharded by 2 ranks\n" in run(capsys, "show", "model_3.dcp")[0]
    write_manifest(directory / "model_3.dcp", about(3), Sharded("5f0c", 2, Mesh(("dp", "tp"), (2, 1))))
    out, _ = run(capsys, "show", "model_3.dcp")
    assert "sharded by 2 ranks (mesh: dp 2 x tp 1)\n" in out
    for shape, words in {(2,): "", (2, 1): " (mesh: 2 x 1)"}.items():  # torch was told no names
        numbers = tuple(map(str, range(len(shape))))
        write_manifest(directory / "model_4.dcp", about(4), Sharded("5f0c", 2, Mesh(numbers, shape)))
        assert f"sharded by 2 ranks{words}\n" in run(capsys, "show", "model_4.dcp")[0]
    assert "optimizer  trainer_state.optimizers[0]: Adam" in out
    assert ".marlin" not in out
    assert re.search(r"\ntrainer_backend_state +empty\n", out)
    found = document(capsys, "show", "model_3.dcp")
    assert found["sharded"] == {
        "save_id": "5f0c", "world_size": 2, "mesh": {"names": ["dp", "tp"], "shape": [2, 1]}
    }  # fmt: skip
    assert (found["layout"], found["kind"], found["index"]) == ("sharded", "checkpoint", 3)


@pytest.mark.usefixtures("directory")
def test_diff_and_average_read_them_as_files(capsys):
    run(capsys, "export", "model_3.dcp", "-o", "model_3.pt", "--state", "all")
    assert run(capsys, "diff", "model_3.dcp", "model_3.pt") == ("", "19 tensors: 19 same\n")
    for before in ("model_3.dcp", "model_3.pt"):
        out, err = run(capsys, "diff", before, "model_4.dcp", code=1)
        assert "value  trainer_state.epoch  3 -> 4\n" in out
        assert "19 tensors: 13 changed, 6 same; 2 other values differ\n" in err
    run(capsys, "average", "model_3.dcp", "model_4.dcp", "-o", "mean.pt")
    found = torch.load("mean.pt", weights_only=True)
    weights = [state_of(index)["module_interface_state"]["0.weight"] for index in (3, 4)]
    assert torch.allclose(found["0.weight"], sum(weights) / 2)


@pytest.mark.usefixtures("directory")
def test_clean_moves_one_to_the_trash_whole_and_brings_it_back(capsys):
    run(capsys, "clean", ".", "--keep-last", "1", "--to-trash")
    assert [name for name in os.listdir() if not name.startswith(".")] == ["model_5.dcp"]
    run(capsys, "clean", ".", "--undo")
    assert [one["status"] for one in document(capsys, "verify", ".")["files"]] == ["intact"] * 3
    out, _ = run(capsys, "clean", ".", "--keep-last", "2")
    assert "remove      3" in out
    run(capsys, "clean", ".", "--yes")
    assert [name for name in os.listdir() if not name.startswith(".")] == []


@pytest.mark.usefixtures("directory")
def test_a_report_shows_them(capsys):
    run(capsys, "report", ".", "-o", "report.html")
    assert "model_5.dcp" in Path("report.html").read_text()


@pytest.mark.usefixtures("directory")
def test_export_makes_a_file_of_one_and_one_of_a_file(capsys):
    _, err = run(capsys, "export", "model_3.dcp", "-o", "a.pt", "--state", "all")
    assert "wrote a.pt: all, 19 tensors, 157 kB\n" in err
    found = document(capsys, "export", "a.pt", "-o", "a.dcp", "--state", "all")
    assert (found["output"], found["state"], found["tensors"]) == ("a.dcp", "all", 19)
    run(capsys, "diff", "a.dcp", "model_3.dcp")
    run(capsys, "export", "a.dcp", "-o", "b.pt", "--state", "all")
    assert is_same(torch.load("b.pt", weights_only=True), state_of(3))
    _, err = run(capsys, "export", "a.dcp", "-o", "b.pt", "--state", "all", code=1)
    assert "hint: choose another output, or replace it with --force" in err


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("option", [["--dtype", "bf16"], ["--strip-prefix", "a"], ["--dequantize"]])
def test_options_for_weights_are_refused_where_all_is_written(capsys, option):
    _, err = run(capsys, "export", "model_3.dcp", "-o", "a.pt", "--state", "all", *option, code=2)
    assert f"{option[0]}: is for weights alone, not for --state all" in err


@pytest.mark.usefixtures("directory")
def test_weights_alone_make_no_sharded_checkpoint(capsys):
    _, err = run(capsys, "export", "model_3.dcp", "-o", "a.dcp", code=2)
    assert "add --state all" in err


@pytest.mark.usefixtures("directory")
def test_a_missing_shard_is_named_with_what_to_type_next(capsys):
    os.unlink("model_5.dcp/__1_0.distcp")
    out, err = run(capsys, "verify", ".", code=3)
    assert "incomplete  ./model_5.dcp  (__1_0.distcp is missing, with " in out
    assert "marlin-ckpt latest . --intact" in err
    assert "marlin-ckpt salvage ./model_5.dcp -o rescued.pt" in err
    assert run(capsys, "latest", ".", "--intact")[0] == "./model_4.dcp\n"
