"""`marlin-ckpt report`: the page that it writes, what it replaces, and its data."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import safetensors.torch
import torch

from marlin_ckpt.cli.main import main
from tests.support import documents
from tests.support import run_directories as runs
from tests.support.foreign import trainer

HOSTILE = "</script><!-- \x1b[31m_7.pt"


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["report", *map(os.fspath, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def directory(tmp_path):
    return runs.troubled(tmp_path / "run")


def test_the_page_is_written_and_an_earlier_one_is_replaced(command, directory, tmp_path):
    code, out, err = command("run")
    assert (code, out) == (0, "")
    assert err.startswith("wrote report.html: 5 checkpoints, 1 other file, ")
    assert "warning: other_1.pt is not whole: " in err
    assert "hint: marlin-ckpt salvage run/other_1.pt -o rescued.pt\n" in err
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>\n<!-- a report by marlin-ckpt")
    assert "model_2.pt" in page
    assert command("run", "-o", "report.html")[0] == 0


@pytest.mark.parametrize("content", ["", "<!doctype html>\n<p>mine", "mine"])
def test_a_file_that_is_no_report_is_replaced_by_force_alone(command, directory, tmp_path, content):
    (tmp_path / "mine.html").write_text(content)
    code, out, err = command("run", "-o", "mine.html")
    assert (code, out, (tmp_path / "mine.html").read_text()) == (1, "", content)
    assert "error: would replace a file that is no report of marlin-ckpt: mine.html\nhint: " in err
    assert command("run", "-o", "mine.html", "--force")[0] == 0
    assert "marlin-ckpt" in (tmp_path / "mine.html").read_text()


def test_a_folder_in_the_place_of_the_page_is_an_error(command, directory, tmp_path):
    (tmp_path / "report.html").mkdir()
    assert command("run")[0] == 1
    code, _, err = command("run", "-o", "none/report.html")
    assert (code, "none" in err) == (1, True)


def test_the_page_goes_to_standard_output_and_nothing_else_does(command, directory, tmp_path):
    code, out, err = command("run", "-o", "-")
    assert (code, err) == (0, "")
    assert (out.startswith("<!doctype html>"), out.endswith("</html>\n")) == (True, True)
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_the_data_is_as_its_schema_says_and_no_page_is_written(command, directory, tmp_path):
    code, out, _ = command("run", "--json", "--compare", "run/model_1.pt")
    document = json.loads(out)
    other = {"schema": document["schema"], **document["other"]}
    assert (code, documents.faults(document), documents.faults(other)) == (0, [], [])
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_rules_are_given_as_to_clean(command, directory):
    document = json.loads(command("run", "--json", "--keep-last", "1", "--keep-best", "accuracy:max:2")[1])
    (rules,) = document["retention"]
    assert (rules["rules"], rules["source"]) == ("last 1, best accuracy:max:2", "options")
    assert command("run", "--keep-best", "a:min:x")[0] == 0  # a metric of that name
    assert command("run", "--keep-last", "0")[0] == 2


@pytest.mark.parametrize("name", ["none", "run/none.pt"])
def test_what_is_not_there_is_told_with_the_exit_code_of_no_checkpoint(command, directory, tmp_path, name):
    code, _, err = command(name)
    assert (code, err.splitlines()[0]) == (4, f"error: no such file or directory: {name}")
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_names_from_files_reach_neither_the_terminal_nor_the_page_as_they_are(command, tmp_path):
    about = runs.manifest(7, 1, metrics={HOSTILE: float("nan")})
    runs.write(tmp_path / "run", runs.event(about, HOSTILE.replace("/", "")))
    runs.save(tmp_path / "run", 8, 2, metrics={HOSTILE: float("nan"), "\ud800": 1.0})
    code, out, err = command("run", "-o", "-")
    assert (code, "\x1b" in out + err, "<!-- \x1b" in out) == (0, False, False)
    code, _, err = command("run")
    assert (code, "\x1b" in err) == (0, False)


def test_folders_and_files_of_other_tools_are_shown_with_what_they_know(command, tmp_path):
    trainer.make_trainer(tmp_path / "run", step=4)
    trainer.make_trainer(tmp_path / "run", step=10)
    document = json.loads(command("run", "--json", "--stats")[1])
    assert [(one["kind"], one["index"]) for one in document["points"]] == [("trainer", 4), ("trainer", 10)]
    assert document["movement"]["how"] == "read"
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    (point,) = json.loads(command("w.safetensors", "--json")[1])["points"]
    assert (point["name"], point["complete"]) == ("w.safetensors", None)


def test_stats_write_nothing_into_a_folder_that_is_itself_a_checkpoint(command, tmp_path):
    folder = trainer.make_trainer(tmp_path / "run", step=4).path
    before = sorted(os.listdir(folder))
    assert command(folder, "--stats")[0] == 0
    assert sorted(os.listdir(folder)) == before


def test_stats_of_a_directory_that_cannot_be_written_to_are_shown_all_the_same(command, tmp_path):
    runs.save(tmp_path / "run", 0, 1)
    (tmp_path / "run" / ".marlin-ckpt").write_text("in the way")
    document = json.loads(command("run", "--json", "--stats")[1])
    assert document["movement"]["columns"] == [0]


def test_a_directory_without_any_checkpoint_has_a_page(command, tmp_path):
    (tmp_path / "run").mkdir()
    assert command("run")[0] == 0
    shutil.rmtree(tmp_path / "run")


def test_the_help_says_that_all_usual_extensions_are_in_a_report(run_main, directory):
    assert "else all usual ones" in " ".join(run_main("report", "--help")[1].split())
