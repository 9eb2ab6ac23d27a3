"""What a user sees when something is wrong: one message, the right exit code, never a traceback."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from marlin_ckpt import __version__
from marlin_ckpt.cli.main import main

COMMANDS = [
    "train",
    "prove-resume",
    "list",
    "latest",
    "show",
    "verify",
    "salvage",
    "diff",
    "export",
    "average",
    "clean",
    "advise",
]


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


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_argument_points_to_the_help_of_its_command(command, name):
    assert command(name)[2].endswith(f"hint: marlin-ckpt {name} --help\n")


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
def test_a_file_in_place_of_the_directory_exits_1_in_one_line(command, tmp_path, name):
    (tmp_path / "model_1.pt").touch()
    code, out, err = command(name, tmp_path / "model_1.pt")
    assert (code, out) == (1, "")
    assert err == f"error: cannot read the directory: Not a directory: {tmp_path / 'model_1.pt'}\n"
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
    code, out, err = command(name, "--help")
    assert (code, err) == (0, "")
    assert f"Example: marlin-ckpt {name} " in out


@pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["no arguments", "--help"])
def test_help_names_each_command_and_exit_code(command, arguments):
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    assert re.findall(r"^  (\w[\w-]*)  ", out, re.MULTILINE) == COMMANDS
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
    assert len(summaries) == len(COMMANDS)
    assert [one for one in summaries if one.endswith("...") or not one.endswith(".")] == []


def test_version_prints_name_and_version(command):
    assert command("--version") == (0, f"marlin-ckpt {__version__}\n", "")


def test_completion_of_bash_completes_a_command(run_command):
    request = {"_MARLIN_CKPT_COMPLETE": "complete_bash", "COMP_WORDS": "marlin-ckpt la", "COMP_CWORD": "1"}
    ended = run_command(env=request)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, [b"latest"], b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_for_each_shell(command, shell):
    code, out, err = command("--show-completion", shell)
    assert (code, err) == (0, "")
    assert "_MARLIN_CKPT_COMPLETE" in out


@pytest.fixture(scope="module")
def full_directory(tmp_path_factory) -> Path:
    """More files than a buffer of 8 KiB holds lines for."""
    directory = tmp_path_factory.mktemp("full")
    for index in range(300):
        (directory / f"model_{index}.pt").touch()
    return directory


# The command as a shell has it: stdout is buffered, unlike where PYTHONUNBUFFERED is set.
_BUFFERED = {"PYTHONUNBUFFERED": ""}


@pytest.mark.parametrize(
    "environment", [_BUFFERED, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"]
)
@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["latest"], ["clean", "--dry-run"]], ids=" ".join
)
def test_a_reader_that_has_gone_ends_the_command_without_a_word(
    run_command, full_directory, arguments, environment
):
    reader, writer = os.pipe()
    os.close(reader)
    name, *options = arguments
    ended = run_command(
        name,
        full_directory,
        *options,
        capture_output=False,
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment,
    )
    os.close(writer)
    talk = [line for line in ended.stderr.splitlines() if not line.startswith(b"300 files in ")]
    assert talk == []
    # 141 is what a shell reports for a program that SIGPIPE ended.
    assert ended.returncode == 141


@pytest.mark.parametrize(
    "environment", [_BUFFERED, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"]
)
def test_output_that_does_not_fit_the_disk_is_a_failure_in_one_message(run_command, tmp_path, environment):
    (tmp_path / "model_1.pt").touch()
    with open("/dev/full", "wb") as full:
        ended = run_command(
            "latest", tmp_path, capture_output=False, stdout=full, stderr=subprocess.PIPE, env=environment
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"error: ")
    assert b"No space left on device" in ended.stderr
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr


_START = "import sys; from marlin_ckpt.cli.main import main; sys.exit(main())"


@pytest.fixture
def redirected(repository):
    """Runs a command with streams as a shell's words set them; gives its end."""

    def run(words: str, *arguments: str | Path, **options) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {words}', "sh", sys.executable, "-c", _START, *arguments],
            env={**os.environ, **_BUFFERED, "PYTHONPATH": str(repository)},
            check=False,
            capture_output=True,
            timeout=60,
            **options,
        )

    return run


def test_a_closed_stderr_does_not_change_the_exit_code(redirected, tmp_path):
    ended = redirected("2>&-", "latest", tmp_path)
    assert (ended.returncode, ended.stdout) == (4, b"")


@pytest.mark.parametrize("words", ["<&- >&- 2>&-", ">&-", "2>/dev/full"])
def test_a_run_that_nobody_listens_to_ends_as_well_as_another(redirected, repository, tmp_path, words):
    config, one = repository / "configs" / "ci.yaml", "trainer.epochs=1"
    ended = redirected(words, "train", "--config", config, "--set", one, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert b"rror" not in ended.stderr
    # Neither stream's number was taken by a file that the run wrote.
    assert main(["verify", str(tmp_path / "checkpoints" / "ci" / "model_0.pt")]) == 0


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["latest"], ["verify"]], ids=" ".join)
def test_a_stream_that_python_does_not_have_is_no_terminal(monkeypatch, tmp_path, name, arguments):
    (tmp_path / "model_1.pt").write_bytes(b"")
    monkeypatch.setattr(sys, name, None)
    assert main([arguments[0], str(tmp_path), *arguments[1:]]) == 0


def test_progress_on_a_terminal_that_has_gone_ends_no_run(monkeypatch, repository, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stderr", GoneTerminal())
    assert main(["train", "--config", str(repository / "configs/ci.yaml"), "--set", "trainer.epochs=1"]) == 0


class GoneTerminal(io.StringIO):
    """A terminal whose other end was closed: writing to it fails with EIO."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    "environment", [_BUFFERED, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"]
)
def test_help_whose_reader_has_gone_or_that_does_not_fit_the_disk_ends_like_other_output(
    run_command, environment
):
    reader, writer = os.pipe()
    os.close(reader)
    options = {"capture_output": False, "stderr": subprocess.PIPE, "env": environment}
    gone = run_command("--help", stdout=writer, **options)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (141, b"")
    with open("/dev/full", "wb") as full:
        ended = run_command("--help", stdout=full, **options)
    assert ended.returncode == 1
    assert ended.stderr == b"error: cannot write the output: No space left on device: stdout\n"


def test_a_name_that_the_encoding_of_stdout_lacks_is_escaped(run_command, tmp_path):
    (tmp_path / "mod\u00e8le_1.pt").touch()
    ended = run_command("list", tmp_path, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"})
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.splitlines()[1].endswith(b"mod\\xe8le_1.pt")
