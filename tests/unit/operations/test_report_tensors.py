"""What a report says of tensors: what moved, how values spread, and what takes the bytes."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys

import pytest
import torch

from marlin_ckpt.formats.statistics import Columns, Statistics
from marlin_ckpt.operations.report.course import Point
from marlin_ckpt.operations.report.figures import Figures
from marlin_ckpt.operations.report.gathering import Wanted, gather
from marlin_ckpt.operations.report.movement import movement
from tests.support import run_directories as runs
from tests.support.run_directories import save


def by_name(report):
    return {one.name: one for one in report.points}


def test_statistics_in_files_show_what_moved_and_where_a_nan_came_in_and_no_tensor_is_read(tmp_path):
    scales = (1.0, 2.0, math.nan, math.nan)
    for index, scale in enumerate(scales):
        save(tmp_path, index, index, scale=scale, has_statistics=True)
    report = gather(str(tmp_path))
    moved = report.movement
    assert (moved.tensors, moved.columns, moved.how, moved.missing) == (runs.NAMES, (0, 1, 2, 3), "files", 0)
    weight, _ = moved.change
    assert (weight[0], weight[1], weight[2]) == (None, pytest.approx(1.0), None)
    assert moved.nans[0] == (0, 0, 12, 12)
    assert moved.dead == ((False,) * 4, (True,) * 4)
    worst = report.banners[0]
    assert "since model_2.pt, in layers.0.weight. The last checkpoint without is model_1.pt" in worst.what
    assert (worst.severity, report.histograms) == ("bad", ())


def test_with_stats_tensors_are_read_once_and_the_next_report_knows_them(tmp_path):
    for index in range(3):
        save(tmp_path, index, index, scale=index + 1.0)
    assert gather(str(tmp_path)).movement is None
    totals = []

    @contextlib.contextmanager
    def progress(total):
        totals.append([total])
        yield totals[-1].append

    wanted = Wanted(reads_tensors=True)
    report = gather(str(tmp_path), wanted, progress)
    assert report.movement.how == "read"
    assert report.movement.change[0][1:] == (pytest.approx(1.0), pytest.approx(0.5))
    assert [(one.tensor, sum(one.counts), one.low, one.high) for one in report.histograms] == [
        ("layers.0.weight", 12, 3.0, 36.0), ("layers.0.bias", 3, 0.0, 0.0),
    ]  # fmt: skip
    (total, *read) = totals[0]
    assert sum(read) == total == report.totals.size_bytes
    assert gather(str(tmp_path), wanted, progress).movement == report.movement
    assert gather(str(tmp_path)).movement == report.movement
    assert len(totals) == 1
    save(tmp_path, 1, 1, scale=9.0)
    gather(str(tmp_path), wanted, progress)
    assert totals[1][0] == (tmp_path / "model_1.pt").stat().st_size


def test_stats_find_damage_that_the_structure_does_not_show(tmp_path):
    save(tmp_path, 0, 1)
    save(tmp_path, 1, 2)
    data = bytearray((tmp_path / "model_1.pt").read_bytes())
    data[data.index(torch.arange(1.0, 13).numpy().tobytes()) + 2] ^= 4
    (tmp_path / "model_1.pt").write_bytes(data)
    assert by_name(gather(str(tmp_path)))["model_1.pt"].complete is True
    report = gather(str(tmp_path), Wanted(reads_tensors=True))
    assert by_name(report)["model_1.pt"].complete is False
    assert report.points[report.newest].name == "model_0.pt"
    hint = f"marlin-ckpt salvage {tmp_path}/model_1.pt -o rescued.pt"
    assert (report.banners[0].severity, report.banners[0].hint) == ("bad", hint)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"files": {"model_0.pt": 3}}', b'{"files": []}'])
def test_a_cache_of_statistics_that_is_none_is_passed_over(tmp_path, content):
    save(tmp_path, 0, 1)
    gather(str(tmp_path), Wanted(reads_tensors=True))
    (tmp_path / ".marlin-ckpt" / "statistics.json").write_bytes(content)
    assert gather(str(tmp_path)).movement is None


def test_sizes_have_the_names_of_parameters_for_what_the_optimizer_keeps(tmp_path):
    save(tmp_path, 0, 1)
    found = {(one.group, one.name): one.size_bytes for one in gather(str(tmp_path)).sizes}
    assert found == {
        ("module", "layers.0.weight"): 48, ("module", "layers.0.bias"): 12,
        ("optimizer", "layers.0.weight: exp_avg"): 12, ("optimizer", "layers.0.bias: exp_avg"): 12,
        ("other", "trainer_state.seed"): 8,
    }  # fmt: skip


def test_a_report_is_made_without_torch(tmp_path):
    save(tmp_path, 0, 1)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from marlin_ckpt.operations.report.gathering import Wanted, gather\n"
        "print(len(gather(sys.argv[1], Wanted(reads_tensors=True)).histograms))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, os.fspath(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2\n"


def test_each_tensor_has_its_own_numbers_where_checkpoints_have_others_or_another_order():
    of = {
        "a": {"x": Statistics(1, 0, 1), "y": Statistics(2, 2, 2), "gone": Statistics(9, 0, 9)},
        "b": {"y": Statistics(3, 1, 1, 4, 5), "x": Statistics(2, 0, 1)},
        "c": {"x": Statistics(3, 0, 2, 0, 6), "y": Statistics(6, 6, 6), "new": Statistics(0, 0, 0)},
    }
    figures = Figures(of={name: Columns.of(found) for name, found in of.items()})
    moved = movement([Point(run_id="r", name=name) for name in of], figures, {"new": 1})
    assert moved.tensors == ("x", "y", "new", "gone")
    norms = ((1, 2, math.inf), (2, math.nan, 6), (None, None, 0), (9, None, None))
    assert repr(moved.norms) == repr(norms)  # in which NaN equals NaN
    assert moved.nans == ((0, 0, 0), (0, 4, 0), (None, None, 0), (0, None, None))
    assert moved.infinities == ((0, 0, 6), (0, 5, 0), (None, None, 0), (0, None, None))
    assert moved.dead == (
        (False, False, False),
        (True, False, True),
        (None, None, False),
        (False, None, None),
    )
    assert moved.change == ((None, 1.0, None), (None, None, None), (None, None, None), (None, None, None))
