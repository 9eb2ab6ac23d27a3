"""The benchmarks run, leave out with a word what is missing, and the page shows what they measured."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks import chart, on_device
from benchmarks.report import Row, Setting
from benchmarks.states import QUICK
from tests.support import s3_servers, warm
from tests.support.folders import REPOSITORY

PAGE = "docs/benchmarks.md"
_COLUMNS = ("what", "against", "ours", "other", "ratio", "bound")
_SECONDS = {"ms": 1e-3, "s": 1.0, "MiB": 1.0}
_PEERS = {
    "safetensors": "safetensors + fsync",
    "torch_checkpointing": "torch_checkpointing + fsync",
    "lightning_fabric": "Lightning + fsync",
    "orbax": "Orbax + fsync",
    "pytorch_lightning": "Lightning's AsyncCheckpointIO",
}


def bench(repository: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return warm.run(command, cwd=repository, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a quick run printed, and where it wrote its documents."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "page.md").write_text((REPOSITORY / PAGE).read_text())
    outputs = ("--json", folder / "b.json", "--chart", folder / "b.svg", "--page", folder / "page.md")
    done = bench(REPOSITORY, "--quick", "--directory", folder, *outputs)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def figures(page: str) -> list[dict[str, str]]:
    """The table between the page's two marks."""
    (block,) = re.findall(
        r"<!-- figures of docs/benchmarks.json -->\n(.*?)<!-- end of the figures -->", page, re.DOTALL
    )
    lines = [line.strip("|").split("|") for line in block.splitlines() if line.startswith("|")]
    return [dict(zip(_COLUMNS, (cell.strip() for cell in line), strict=True)) for line in lines[2:]]


def differences(page: str, rows: list[dict]) -> list[str]:
    """Where the page's table says something else than the measured rows."""
    shown = figures(page)
    if len(shown) != len(rows):
        return [f"{len(shown)} rows for {len(rows)}"]
    found = []
    for cells, row in zip(shown, rows, strict=True):
        for column in ("what", "against"):
            if cells[column] != row[column]:
                found.append(f"{cells[column]} for {row[column]}")
        for column in ("ours", "other"):
            number, unit = cells[column].split()
            digit = 10.0 ** -len(number.partition(".")[2])
            if not math.isclose(
                float(number), row[column] / _SECONDS[unit], rel_tol=0, abs_tol=0.501 * digit
            ):
                found.append(f"{row['what']}, {row['against']}: {cells[column]} for {row[column]}")
        if not math.isclose(float(cells["ratio"]), row["ours"] / row["other"], rel_tol=0, abs_tol=0.00501):
            found.append(
                f"{row['what']}, {row['against']}: {cells['ratio']} for {row['ours'] / row['other']}"
            )
        if (float(cells["bound"]) if cells["bound"] else None) != row["bound"]:
            found.append(f"{row['what']}, {row['against']}: at most {cells['bound']} for {row['bound']}")
    return found


def test_the_json_says_what_was_measured_on_what_and_how_often(quick: tuple[str, Path]) -> None:
    printed, folder = quick
    document = json.loads((folder / "b.json").read_text())
    assert document["quick"] is True
    assert document["rounds"] == 1
    assert {"processor", "cores", "busy", "memory_gb", "filesystem", "kernel", "python", "versions"} == set(
        document["machine"]
    )
    assert {"marlin-ckpt", "torch"} <= set(document["machine"]["versions"])
    groups = {row["group"] for row in document["rows"]}
    assert groups >= {
        "save",
        "save cpu",
        "small",
        "many",
        "verify warm",
        "restore warm",
        "restore cold",
        "folders",
        "stall",
        "slow",
        "find",
        "ranks",
        "planning",
    }
    for row in document["rows"]:
        assert row["ratio"] == row["ours"] / row["other"]
        assert row["what"] in printed
        assert row["against"] in printed
    assert str(folder) not in (folder / "b.json").read_text()


@pytest.mark.parametrize("module", sorted(_PEERS))
def test_a_peer_is_measured_where_it_is_installed_and_left_out_with_a_word_where_not(
    module: str, quick: tuple[str, Path]
) -> None:
    printed, folder = quick
    document = json.loads((folder / "b.json").read_text())
    word = f"{module} is not installed and left out"
    measured = any(row["against"] == _PEERS[module] for row in document["rows"])
    assert measured == (find_spec(module) is not None)
    assert (word in printed) != measured
    assert (word in document["left_out"]) != measured


def test_object_storage_is_measured_where_its_server_is_and_left_out_with_a_word_where_not(
    quick: tuple[str, Path],
) -> None:
    printed, folder = quick
    rows = [row for row in json.loads((folder / "b.json").read_text())["rows"] if row["group"] == "remote"]
    is_there = s3_servers.weed() is not None and find_spec("boto3") is not None
    assert ("object storage is left out" in printed) != is_there
    beside = {row["against"] for row in rows}
    assert ("requests alone" in beside) == is_there
    for name, module in (("Lightning with s3fs", "s3fs"), ("s3torchconnector", "s3torchconnector")):
        measured = is_there and find_spec(module) is not None
        assert (name in beside) == measured
        assert (f"{name} to S3 is left out, since {module} is not installed" in printed) == (
            is_there and not measured
        )
    acts = {row["what"].split()[0] for row in rows}
    assert acts == ({"save", "load"} if is_there else set())


def test_what_a_gpu_is_needed_for_runs_without_one_too(tmp_path: Path) -> None:
    setting = Setting(tmp_path, 1, QUICK, [].append, [].append)
    rows = on_device.measured(torch.device("cpu"), setting)
    stalls = {row.against for row in rows if row.what.startswith("stall") and row.bound is not None}
    assert {"one warm copy into pinned memory", "torch.distributed.checkpoint.async_save"} <= stalls
    assert all(row.ours > 0 and row.other > 0 for row in rows)
    assert not any(tmp_path.iterdir())


def test_a_chart_is_drawn_where_matplotlib_is_and_missed_with_a_word_where_not(
    quick: tuple[str, Path],
) -> None:
    printed, folder = quick
    drawable = find_spec("matplotlib") is not None
    assert (folder / "b.svg").exists() == drawable
    assert ("matplotlib is not installed: no chart" in printed) != drawable


def test_a_run_puts_its_own_figures_into_the_page_and_nothing_else(
    quick: tuple[str, Path], repository: Path
) -> None:
    _, folder = quick
    before, after = (repository / PAGE).read_text(), (folder / "page.md").read_text()
    assert differences(after, json.loads((folder / "b.json").read_text())["rows"]) == []
    between = re.compile(r"(?<=docs/benchmarks.json -->\n).*?(?=<!-- end of the figures)", re.DOTALL)
    assert between.sub("", before) == between.sub("", after)


def test_an_unknown_group_is_an_error_that_names_it(repository: Path) -> None:
    done = bench(repository, "saev")
    assert done.returncode == 2
    assert "no such group: saev" in done.stderr


def test_the_page_shows_the_figures_that_were_measured(repository: Path) -> None:
    document = json.loads((repository / "docs/benchmarks.json").read_text())
    page = (repository / PAGE).read_text()
    assert document["quick"] is False
    assert document["rounds"] >= 5
    assert document["machine"]["busy"] == 0
    assert differences(page, document["rows"]) == []
    for package, number in document["machine"]["versions"].items():
        assert f"{package} {number}" in page


@pytest.mark.parametrize("column", _COLUMNS)
def test_a_figure_that_is_changed_in_the_page_is_noticed(column: str, repository: Path) -> None:
    rows = json.loads((repository / "docs/benchmarks.json").read_text())["rows"]
    page = (repository / PAGE).read_text()
    cells = figures(page)[0]
    line = f"| {' | '.join(cells.values())} |"
    assert page.count(line) == 1
    changed = {
        **cells,
        column: re.sub(r"\d(?=\D*$)", lambda last: str((int(last[0]) + 2) % 10), cells[column]),
    }
    if changed == cells:
        changed[column] = "another"
    drifted = page.replace(line, f"| {' | '.join(changed.values())} |")
    assert len(differences(drifted, rows)) == 1


def test_the_picture_that_the_page_shows_draws_the_figures_that_were_measured(repository: Path) -> None:
    page = (repository / PAGE).read_text()
    (picture,) = re.findall(r"!\[[^\]]+\]\((.*?)\)", page)
    drawing = (repository / PAGE).with_name(picture).read_text()
    rows = json.loads((repository / "docs/benchmarks.json").read_text())["rows"]
    drawn = chart.sections(Row(**{key: row[key] for key in row if key != "ratio"}) for row in rows)
    assert len(drawn) >= 5
    for section in drawn:
        assert f"{section.title}: marlin-ckpt {section.bars[0].label}" in drawing
        for bar in [*section.bars, *([section.limit] if section.limit else [])]:
            assert f"{bar.name} {bar.label.split(' (')[0]}" in drawing
