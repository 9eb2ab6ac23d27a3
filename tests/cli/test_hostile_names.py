"""Names of files that attack a terminal, a renderer or a parser; off a terminal."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from marlin_ckpt import Checkpoint
from marlin_ckpt.cli.main import main
from marlin_ckpt.cli.views import run
from tests.support.folders import visible

# Name, index. Where a byte is not UTF-8 the name is one that only os.fsencode can spell.
HOSTILE = [
    (b"new\nline_1.pt", 1),
    (b"return\r_1.pt", 1),
    (b"tab\t_1.pt", 1),
    (b"\x1b[31mred_2.pt", 2),
    (b"\x1b]52;c;ZXZpbA==\x07_3.pt", 3),
    (b"\x1b[2J\x1b[H_3.pt", 3),
    ("c1\u009b31m_4.pt".encode(), 4),
    (b"raw c1 \x9b31m_4.pt", 4),
    (b"del\x7f_4.pt", 4),
    ("bidi\u202egnp_5.pt".encode(), 5),
    ("isolate\u2066\u2069_5.pt".encode(), 5),
    ("separator\u2028_5.pt".encode(), 5),
    (b"[red]_6.pt", 6),
    (b"[\\]_6.pt", 6),
    (b"[link=evil]x_6.pt", 6),
    (b"\xff\xfe_7.pt", 7),
    (b"-rf_8.pt", 8),
    (b"model_9\n.pt", None),
    ("model_\u0663.pt".encode(), None),
    ("model_\uff13.pt".encode(), None),
    (b"model_\xb3.pt", None),
]
NAMES = [name for name, _ in HOSTILE]


@pytest.fixture
def command(capsysbinary):
    def run(*arguments: str | Path) -> tuple[int, bytes, bytes]:
        code = main(list(map(os.fspath, arguments)))
        return code, *capsysbinary.readouterr()

    return run


@pytest.fixture
def directory(tmp_path) -> Path:
    for name in NAMES:
        Path(tmp_path, os.fsdecode(name)).touch()
    (tmp_path / "x[").mkdir()
    (tmp_path / "x[" / "]_1.pt").touch()
    return tmp_path


def assert_harmless(printed: bytes) -> list[str]:
    """That text holds nothing but printable characters and line ends; returns its lines."""
    lines = printed.decode("utf-8", "strict").split("\n")
    assert lines.pop() == ""
    assert [line for line in lines if not line.isprintable()] == []
    return lines


def test_the_table_has_one_harmless_line_for_each_file(command, directory):
    code, out, err = command("list", directory, "--recursive")
    header, *rows = assert_harmless(out)
    assert (code, len(assert_harmless(err)), header.split()[0]) == (0, 1, "index")
    expected = sorted("-" if index is None else str(index) for _, index in [*HOSTILE, (b"x[/]_1.pt", 1)])
    assert sorted(row.split()[0] for row in rows) == expected


@pytest.mark.parametrize(
    "shown",
    [
        r"new\nline_1.pt",
        r"\x1b[31mred_2.pt",
        r"\x1b]52;c;ZXZpbA==\x07_3.pt",
        r"c1\x9b31m_4.pt",
        r"bidi\u202egnp_5.pt",
        r"\xff\xfe_7.pt",
        "[red]_6.pt",
        "x[/]_1.pt",
        "[link=evil]x_6.pt",
    ],
)
def test_controls_are_spelled_out_and_markup_is_shown_literally(command, directory, shown):
    _, out, _ = command("list", directory, "--recursive")
    assert [line for line in out.decode().splitlines() if line.endswith("  " + shown)]


def test_the_document_of_list_is_ascii_and_gives_each_name_back(command, directory):
    code, out, err = command("list", directory, "--json")
    assert (code, err) == (0, b"")
    listed = json.loads(out.decode("ascii"))["checkpoints"]
    assert {os.fsencode(os.path.basename(one["path"])): one["index"] for one in listed} == dict(HOSTILE)


@pytest.mark.parametrize(("name", "index"), [pair for pair in HOSTILE if pair[1] is not None])
def test_a_script_can_open_what_latest_prints_into_its_pipe(command, directory, name, index):
    prefix = os.fsdecode(name).rpartition("_")[0]
    code, out, err = command("latest", directory, f"--prefix={prefix}")
    assert (code, err) == (0, b"")
    assert out == os.fsencode(directory) + b"/" + name + b"\n"
    assert os.path.samefile(out[:-1], os.path.join(os.fsencode(directory), name))
    code, out, _ = command("latest", directory, f"--prefix={prefix}", "--json")
    assert os.fsencode(json.loads(out.decode("ascii"))["path"]) == os.fsencode(directory) + b"/" + name


@pytest.mark.parametrize("digit", ["\u0663", "\uff13", "\u00b3", "\u2462", "\U0001d7d1"])
def test_the_digits_of_other_scripts_are_no_index(command, tmp_path, digit):
    (tmp_path / f"model_{digit}.pt").touch()
    assert command("latest", tmp_path)[:2] == (4, b"")
    assert json.loads(command("list", tmp_path, "--json")[1])["checkpoints"][0]["index"] is None
    (tmp_path / "model_1.pt").touch()
    assert command("latest", tmp_path)[1] == os.fsencode(tmp_path / "model_1.pt") + b"\n"


def test_a_failing_latest_names_hostile_prefixes_harmlessly(command, directory):
    code, out, err = command("latest", directory, "--prefix", "\x1b[31mother\u202e")
    assert (code, out) == (4, b"")
    assert_harmless(err)


def test_clean_prints_each_name_harmlessly_and_removes_it(command, directory):
    code, foretold, _ = command("clean", directory, "--recursive", "--dry-run")
    assert (code, len(assert_harmless(foretold))) == (0, len(NAMES) + 1)
    assert rb"\x1b[31mred_2.pt" in foretold
    code, out, err = command("clean", directory, "--recursive")
    assert (code, len(assert_harmless(out)), len(assert_harmless(err))) == (0, len(NAMES) + 1, 1)
    assert os.listdir(directory) == ["x["]
    assert os.listdir(directory / "x[") == []


def test_the_document_of_clean_is_ascii_and_gives_each_name_back(command, directory):
    code, out, err = command("clean", directory, "--json")
    assert (code, err) == (0, b"")
    removed = json.loads(out.decode("ascii"))["removed"]
    assert {os.fsencode(os.path.basename(one["path"])) for one in removed} == set(NAMES)


def test_metrics_with_hostile_names_are_listed_harmlessly(command, make_checkpointer, tmp_path):
    names = {"\x1b[31mloss": 1.0, "new\nline": 2.0, "[red]": 3.0, "bidi\u202e": 4.0}
    make_checkpointer().save(Checkpoint({}, {}, {}, metrics=names), 0)
    _, out, _ = command("list", tmp_path / "checkpoints")
    header, row = assert_harmless(out)
    assert header.split()[4:-2] == [r"\x1b[31mloss", "[red]", r"bidi\u202e", r"new\nline"]
    assert row.split()[6:-2] == ["1", "3", "4", "2"]
    document = json.loads(command("list", tmp_path / "checkpoints", "--json")[1])
    assert document["checkpoints"][0]["metrics"] == names


def test_training_into_a_directory_with_a_hostile_name_prints_it_harmlessly(command, repository, tmp_path):
    saved = os.path.join(tmp_path, "new\nline \x1b[31mred \u202e [/]")
    written = saved.replace("\n", "\\n").replace("\x1b", "\\e").replace("\u202e", "\\u202e")
    options = ["--set", f'checkpointer.save_dir="{written}"', "--set", "trainer.epochs=1"]
    configuration = repository / "configs/ci.yaml"
    for resume in ([], ["--resume"], []):
        code, out, err = command("train", "--config", configuration, *options, *resume)
        assert code == 0
        assert_harmless(out)
        assert rb"new\nline \x1b[31mred \u202e [/]" in err
        assert_harmless(err)
    assert visible(saved) == ["model_0.pt"]


@pytest.fixture
def configured(tmp_path, repository, monkeypatch) -> None:
    """A working directory with a configuration in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(repository / "configs/ci.yaml", tmp_path)


@pytest.mark.parametrize("hostile", ["\x1b]0;title\x07", "new\nline", "\u202e", "\udcff"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "{}"],
        ["latest", "{}"],
        ["clean", "{}"],
        ["{}"],
        ["list", "--{}"],
        ["list", ".", "--ext", "/{}"],
        ["list", ".", "{}"],
        ["train", "--config", "{}"],
        ["train", "--config", "ci.yaml", "--set", "{}"],
        ["train", "--config", "ci.yaml", "--set", "{}.key=1"],
        ["train", "--config", "ci.yaml", "--set", "trainer.epochs={}"],
        ["train", "--config", "ci.yaml", "--set", "module.name={}"],
    ],
    ids=" ".join,
)
def test_an_error_about_a_hostile_argument_is_harmless(command, configured, arguments, hostile):
    code, out, err = command(*(one.format(hostile) for one in arguments))
    assert code in (2, 4)
    assert out == b""
    lines = assert_harmless(err)
    assert lines[0].startswith("error: ")


def test_the_id_of_a_run_does_nothing_to_the_terminal(make_checkpointer, make_checkpoint, tmp_path, capsys):
    checkpointer = make_checkpointer()
    checkpointer.save(make_checkpoint(), 1)
    checkpointer.run_id = "\x1b[31mred\x1b[0m"
    checkpointer.save(make_checkpoint(), 2)
    assert main(["clean", str(tmp_path / "checkpoints"), "--keep-last", "1", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "\\x1b[31mred" in out
    assert "\x1b" not in out + err


def test_the_id_of_a_resumed_run_does_nothing_to_the_terminal(capsys):
    report = {
        "files": [],
        "removed": [],
        "epochs": 1,
        "global_steps": 1,
        "seconds": 1.0,
        "overhead": None,
        "saves": [],
        "failed_saves": [],
        "ranks": 1,
    }
    run.show({**report, "run_id": "\x1b[31mred"})
    assert "\x1b" not in capsys.readouterr().err
