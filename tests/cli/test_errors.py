"""What a user sees when something is wrong: one message, the right exit code, never a traceback."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

from marlin_ckpt import __version__
from marlin_ckpt.cli.main import main

COMMANDS = [
    "train",
    "prove-resume",
    "list",
    "latest",
    "log",
    "report",
    "show",
    "verify",
    "salvage",
    "diff",
    "export",
    "average",
    "clean",
    "advise",
    "env",
    "init",
    "config show",
    "config schema",
]
TOP = {name.partition(" ")[0] for name in COMMANDS}


@pytest.fixture
def command(capsys):
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(list(map(os.fspath, arguments)))
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("lst", "No such command 'lst'. Did you mean 'list'"),
        ("--verbos", "No such option: --verbos"),
        ("list", "Missing argument 'DIR'"),
        ("latest", "Missing argument 'DIR'"),
        ("clean", "Missing argument 'DIR'"),
        ("train", "Missing option '--config'"),
        ("list a b", "unexpected extra argument"),
        ("list a --prefx run", "--prefx"),
        ("clean a --ext", "--ext"),
        ("train --config a.yaml --resume=yes", "--resume"),
    ],
)
def test_a_usage_error_exits_2_and_points_to_the_help(command, arguments, says):
    code, out, err = command(*arguments.split())
    assert (code, out) == (2, "")
    problem, advice = err.splitlines()
    assert problem.startswith("error: ")
    assert says in problem
    assert re.fullmatch(r"hint: marlin-ckpt( [\w-]+)? --help", advice)


def hints(command, *arguments) -> tuple[str, str]:
    """What stderr and the JSON document advise."""
    _, out, err = command(*arguments, "--json")
    return err.splitlines()[-1].removeprefix("hint: "), json.loads(out)["error"]["hint"]


@pytest.mark.parametrize("arguments", ["list", "list a --prefx run", "clean a --undo --to-trash", "lst"])
def test_the_document_of_a_usage_error_has_the_hint_of_stderr(command, arguments):
    shown, written = hints(command, *arguments.split())
    assert shown == written
    assert written.endswith("--help")


def test_the_document_of_an_unexpected_error_has_the_hint_of_stderr(command, tmp_path, monkeypatch):
    monkeypatch.delenv("MARLIN_CKPT_TRACEBACK", raising=False)
    monkeypatch.setattr("marlin_ckpt.directory.catalog.find", lambda *_, **__: 1 / 0)
    shown, written = hints(command, "list", tmp_path)
    assert shown == written
    assert "MARLIN_CKPT_TRACEBACK" in written


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"env", "init", "config schema"}))
def test_a_missing_argument_points_to_the_help_of_its_command(command, name):
    assert command(*name.split(" "))[2].endswith(f"hint: marlin-ckpt {name} --help\n")


@pytest.mark.parametrize("name", ["list", "latest", "clean"])
@pytest.mark.parametrize(
    ("extension", "says"),
    [(".pt", "write 'pt', not '.pt'"), ("", "must not be empty"), ("a/pt", "path separator")],
)
def test_a_bad_extension_exits_2_and_touches_nothing(command, tmp_path, name, extension, says):
    (tmp_path / "model_1.pt").touch()
    code, out, err = command(name, tmp_path, "--ext", extension)
    assert (code, out) == (2, "")
    assert "'--ext'" in err
    assert says in err
    assert (tmp_path / "model_1.pt").exists()


@pytest.mark.parametrize("name", ["list", "latest", "clean"])
@pytest.mark.parametrize(("prefix", "says"), [("", "must not be empty"), ("sub/model", "path separator")])
def test_a_bad_prefix_exits_2(command, tmp_path, name, prefix, says):
    (tmp_path / "model_1.pt").touch()
    code, out, err = command(name, tmp_path, "--prefix", prefix)
    assert (code, out) == (2, "")
    assert "'--prefix'" in err
    assert says in err


@pytest.mark.parametrize("name", ["list", "latest", "clean"])
def test_a_file_in_place_of_the_directory_exits_1_with_a_hint(command, tmp_path, name):
    (tmp_path / "model_1.pt").touch()
    code, out, err = command(name, tmp_path / "model_1.pt")
    assert (code, out) == (1, "")
    error, hint = err.splitlines()
    assert error == f"error: cannot read the directory: Not a directory: {tmp_path / 'model_1.pt'}"
    assert hint == f"hint: it is a file; marlin-ckpt show {tmp_path / 'model_1.pt'} looks into it"
    assert (tmp_path / "model_1.pt").exists()


@pytest.mark.parametrize(
    "argument", ["checkpointer.period=0", "checkpointer.perod=1", "trainer.epochs=two", "nonsense", "=1"]
)
def test_a_wrong_set_exits_2_before_anything_is_written(command, repository, tmp_path, monkeypatch, argument):
    monkeypatch.chdir(tmp_path)
    code, out, err = command("train", "--config", repository / "configs/ci.yaml", "--set", argument)
    assert (code, out) == (2, "")
    assert err.startswith(("error: --set ", "error: --set:"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_configuration_exits_2_in_one_line(command, tmp_path):
    code, out, err = command("train", "--config", tmp_path / "none.yaml")
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path / 'none.yaml'}: file: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_an_example_of_it(command, name):
    code, out, err = command(*name.split(" "), "--help")
    assert (code, err) == (0, "")
    assert f"Example: marlin-ckpt {name} " in out


@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["no arguments", "--help"])
def test_help_names_each_command_and_exit_code(command, arguments):
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    assert sorted(re.findall(r"^  (\w[\w-]*)  ", out, re.MULTILINE)) == sorted(TOP)
    for meaning in (
        "0 done",
        "1 failed",
        "2 usage",
        "3 bad content",
        "4 no",
        "5 directory in use",
        "130 inter",
        "141 the reader",
        "143 termi",
    ):
        assert meaning in " ".join(out.split())


@pytest.mark.parametrize("columns", ["64", "80"])
def test_no_summary_in_the_help_is_cut(command, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    summaries = re.findall(r"^  \w[\w-]*  +(.*)$", command("--help")[1], re.MULTILINE)
    assert len(summaries) == len(TOP)
    assert [one for one in summaries if one.endswith("...") or not one.endswith(".")] == []
    assert [one for one in summaries if len(one) > 45] == []


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_prints_name_and_version(command, option):
    assert command(option) == (0, f"marlin-ckpt {__version__}\n", "")


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_h_is_short_for_help(command, name):
    words = name.split(" ") if name else []
    assert command(*words, "-h") == command(*words, "--help")


def test_the_help_has_a_section_for_each_folder_of_commands(command, repository):
    sections = re.findall(r"^(\w+):\n((?:  \w.*\n)+)", command("--help")[1], re.MULTILINE)
    folders = {path.parent.name for path in (repository / "marlin_ckpt/cli/commands").glob("*/*.py")}
    assert [title for title, _ in sections] == ["Run", "Look", "Check", "Change"]
    assert {title.lower() for title, _ in sections} == folders
    columns = {re.match(r"  \S+ +", line).end() for _, text in sections for line in text.splitlines()}
    assert len(columns) == 1


def test_every_command_that_can_be_quiet_has_a_short_option_for_it(command):
    quiet = [name for name in COMMANDS if "--quiet" in command(*name.split(" "), "--help")[1]]
    assert {"train", "verify"} <= {*quiet}
    assert [name for name in quiet if "-q, --quiet" not in command(name, "--help")[1]] == []


def test_ls_is_list_by_another_name_that_the_help_does_not_list(command, tmp_path):
    assert command("ls", tmp_path) == command("list", tmp_path)
    assert command("ls", tmp_path, "--json") == command("list", tmp_path, "--json")
    assert not re.search(r"\bls\b", command("--help")[1])


GONE = [
    "list .",
    "list x",
    "latest .",
    "show x",
    "report .",
    "verify .",
    "verify x",
    "salvage x -o y",
    "diff x y",
    "clean . --yes",
]
GONE += [
    "export {} -o y.pt",
    "average {} -o y.pt",
    "train --config x",
    "prove-resume --config x",
    "advise --size 1MB",
    "env",
]


@pytest.mark.parametrize("words", GONE)
def test_a_working_directory_that_has_been_removed_is_told_in_one_sentence(
    command, tmp_path, monkeypatch, words
):
    torch.save({"a": torch.ones(1)}, tmp_path / "model_1.pt")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, out, err = command(*(word.format(tmp_path / "model_1.pt") for word in words.split()))
    assert (code, out) == (1, "")
    assert err == "error: the working directory has been removed\nhint: cd to a directory that is there\n"


def test_without_a_working_directory_absolute_paths_are_as_good_as_ever(command, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert command("list", tmp_path)[0] == 0
    assert command("list", tmp_path / "x") == (4, "", f"error: no such directory: {tmp_path / 'x'}\n")
