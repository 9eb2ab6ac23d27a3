"""What is counted of flipped bits and of kills, and that the picture draws what was counted."""

from __future__ import annotations

import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.faults.flips import flip_each
from benchmarks.faults.formats import Pair
from benchmarks.faults.kills import TRAININGS, rows
from benchmarks.faults.picture import sections
from tests.support.folders import REPOSITORY
from tests.unit.package.test_benchmarks import bench

OURS = "marlin_ckpt.load"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, Path]:
    """What a quick run printed, the document that it wrote, and where."""
    folder = tmp_path_factory.mktemp("faults")
    outputs = ("--json", folder / "f.json", "--chart", folder / "f.svg")
    done = bench(REPOSITORY, "faults", "--quick", "--directory", folder, *outputs)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "f.json").read_text()), folder


def test_no_flipped_bit_is_loaded_wrong_by_us_and_each_one_of_data_is_elsewhere(quick):
    _, document, _ = quick
    assert [row["loaded_by"] == OURS for row in document["flips"]] == [False] * 3 + [True] * 2
    for row in document["flips"]:
        assert row["flipped"] == row["right"] + row["refused"] + row["wrong"] + row["ended"] > 10
        assert row["data_flipped"] > 0
        if row["loaded_by"] == OURS:
            assert row["wrong"] == row["data_wrong"] == 0
        else:
            assert row["wrong"] >= row["data_wrong"] == row["data_flipped"]


def test_the_document_says_what_was_run_when_and_what_was_left_out(quick):
    printed, document, folder = quick
    assert document["quick"] is True
    assert document["left_out"] == ["kills are left out, as asked for"]
    assert document["left_out"][0] in printed
    assert {"marlin-ckpt", "torch", "safetensors"} <= {*document["machine"]["versions"]}
    assert len(document["date"].split("-")) == 3
    assert str(folder) not in json.dumps(document)
    assert (folder / "f.svg").exists() == (find_spec("matplotlib") is not None)


def load_by_byte(state: dict, path: Path) -> dict:
    """A loader to which the four bytes of a file mean four things."""
    first, second, third, fourth = path.read_bytes()
    if first != 0:
        raise ValueError
    if fourth != 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return {**state, "epoch": third, "seen": (second, None)[1]}


def test_a_load_is_right_or_refused_or_wrong_or_ends_its_process(tmp_path):
    pair = Pair("w", "l", lambda _, path: path.write_bytes(bytes(4)), load_by_byte, lambda state: state)
    found = flip_each(pair, {"epoch": 0, "seen": None}, tmp_path)
    assert (found.right, found.refused, found.wrong, found.ended) == (8, 8, 8, 8)
    assert (found.size_bytes, found.flipped, found.data_flipped) == (4, 32, 0)
    assert (tmp_path / "checkpoint").read_bytes() == bytes(4)


def test_a_loader_that_loads_nothing_as_it_was_saved_is_no_row(tmp_path):
    pair = Pair(
        "w", "l", lambda _, path: path.write_bytes(b"\1"), lambda _state, _path: {}, lambda state: state
    )
    with pytest.raises(RuntimeError, match="l does not load what w wrote"):
        flip_each(pair, {"epoch": 0}, tmp_path)


def test_kills_of_all_ways_of_saving_through_an_adapter_are_added_up():
    bad = {"killed": 5, "unresumable": ["a", "b"], "different": ["c"]}
    good = {"killed": 7, "unresumable": [], "different": []}
    found = {
        "at once, link": good,
        "behind the loop, link": good,
        "stock, link": bad,
        "stock AsyncCheckpointIO, link": bad,
    }
    stock, ours = rows(TRAININGS[0], found)
    assert (stock.ours, stock.kinds, stock.killed, stock.unresumable, stock.different) == (False, 1, 5, 2, 1)
    assert (ours.ours, ours.kinds, ours.killed, ours.unresumable, ours.different) == (True, 2, 14, 0, 0)


def test_faults_are_counted_alone():
    done = bench(REPOSITORY, "faults", "find")
    assert done.returncode == 2
    assert "faults counts what becomes of damaged files, and goes alone" in done.stderr


def test_the_picture_draws_the_faults_that_were_counted():
    document = json.loads((REPOSITORY / "docs/faults.json").read_text())
    drawing = (REPOSITORY / "docs/faults.svg").read_text()
    assert document["quick"] is False
    drawn = sections(document)
    assert [len(section.bars) for section in drawn] == [5, 8]
    for section in drawn:
        for bar in section.bars:
            assert f"{bar.name} {bar.label}".replace("'", "&apos;") in drawing.replace("'", "&apos;")
            assert sum(bar.shares.values()) == pytest.approx(1)
    versions = document["machine"]["versions"]
    assert {"lightning", "transformers", "accelerate", "pytorch-ignite"} <= {*versions}


def test_no_fault_that_was_counted_got_past_our_loads_and_adapters():
    document = json.loads((REPOSITORY / "docs/faults.json").read_text())
    ours = [row for row in document["flips"] if row["loaded_by"] == OURS]
    for row in ours:
        assert row["flipped"] == 8 * row["size_bytes"]
        assert row["wrong"] == row["ended"] == row["data_wrong"] == 0
    assert [row["refused"] == row["flipped"] for row in ours if row["written_by"] == "marlin_ckpt.save"] == [
        True
    ]
    for row in document["kills"]:
        assert row["killed"] > 50
        assert not row["ours"] or row["unresumable"] == row["different"] == 0
