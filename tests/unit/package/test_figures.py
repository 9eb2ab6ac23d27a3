"""The figures of the README are taken from those that were measured."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import _BEGIN, _END, _FIGURES
from tools import figures

QUIET, BUSY = _BEGIN.format(_FIGURES), _BEGIN.format("docs/benchmarks-busy.json")


def measured(folder, rows) -> None:
    (folder / "docs").mkdir()
    for name, factor in (("benchmarks", 1), ("benchmarks-busy", 2)):
        found = [{**row, "ratio": factor * row["ours"] / row["other"]} for row in rows]
        (folder / "docs" / f"{name}.json").write_text(json.dumps({"rows": found}))


def rows() -> list[dict]:
    return [
        {
            "what": f"{what} and so on",
            "against": beside,
            "ours": 0.5,
            "other": 2.25,
            "unit": "s",
            "bound": 1.0,
        }
        for what, beside in figures._ROWS
    ]


def test_each_row_is_that_of_the_file_and_what_was_there_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "REPOSITORY", tmp_path)
    measured(tmp_path, rows())
    page = tmp_path / "docs" / "benchmarks.md"
    (tmp_path / "README.md").write_text(f"above\n{QUIET}old\n{_END}below\n")
    page.write_text(f"{QUIET}all\n{_END}between\n{BUSY}old\n{_END}below\n")
    figures.main()
    text = (tmp_path / "README.md").read_text()
    assert text == f"above\n{QUIET}{figures.table()}{_END}below\n"
    assert text.count("| 500 ms | 2.25 s |\n") == len(figures._ROWS)
    assert page.read_text() == f"{QUIET}all\n{_END}between\n{BUSY}{figures.busy_table()}{_END}below\n"
    assert page.read_text().count("| 500 ms | 2.25 s | 0.44 | 0.22 |\n") == len(figures._ROWS)


def test_beside_busy_cores_only_rows_with_a_bar_are_shown_and_none_is_needed_on_a_quiet_machine(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(figures, "REPOSITORY", tmp_path)
    first, second, *_ = rows()
    measured(tmp_path, [first, {**second, "bound": None}])
    (tmp_path / "docs" / "benchmarks.json").write_text(json.dumps({"rows": []}))
    assert figures.busy_table().splitlines()[2:] == [
        f"| {first['what']} | {first['against']} | 500 ms | 2.25 s | 0.44 |  |"
    ]


def test_a_row_that_was_not_measured_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "REPOSITORY", tmp_path)
    measured(tmp_path, rows()[1:])
    with pytest.raises(LookupError, match="raw O_DIRECT write"):
        figures.table()
