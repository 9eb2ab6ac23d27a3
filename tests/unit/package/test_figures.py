"""The figures of the README are taken from those that were measured."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import _BEGIN, _END
from tools import figures


def measured(folder, rows) -> None:
    (folder / "docs").mkdir()
    (folder / "docs" / "benchmarks.json").write_text(json.dumps({"rows": rows}))


def rows() -> list[dict]:
    return [
        {"what": f"{what} and so on", "against": beside, "ours": 0.5, "other": 2.25, "unit": "s"}
        for what, beside in figures._ROWS
    ]


def test_each_row_is_that_of_the_file_and_what_was_there_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "REPOSITORY", tmp_path)
    measured(tmp_path, rows())
    (tmp_path / "README.md").write_text(f"above\n{_BEGIN}old\n{_END}below\n")
    figures.main()
    text = (tmp_path / "README.md").read_text()
    assert text == f"above\n{_BEGIN}{figures.table()}{_END}below\n"
    assert text.count("| 500 ms | 2.25 s |\n") == len(figures._ROWS)


def test_a_row_that_was_not_measured_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "REPOSITORY", tmp_path)
    measured(tmp_path, rows()[1:])
    with pytest.raises(LookupError, match="raw O_DIRECT write"):
        figures.table()
