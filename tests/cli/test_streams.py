"""How the command ends where nobody reads what it prints: closed, full or broken streams, other encodings."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marlin_ckpt.cli.main import main
from tests.support import warm


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


def test_a_closed_stdout_changes_neither_the_exit_code_nor_what_is_said_on_stderr(redirected, tmp_path):
    (tmp_path / "model_1.pt").write_bytes(b"text")
    opened = redirected("", "verify", tmp_path)
    closed = redirected(">&-", "verify", tmp_path)
    assert (opened.returncode, closed.returncode, closed.stdout) == (0, 0, b"")
    assert opened.stdout
    assert opened.stderr == closed.stderr != b""


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "full"])
def test_a_run_that_nobody_listens_to_ends_as_well_as_another(redirected, repository, tmp_path, is_closed):
    train = ["train", "--config", str(repository / "configs" / "ci.yaml"), "--set", "trainer.epochs=1"]
    if is_closed:
        ended = redirected("<&- >&- 2>&-", *train, cwd=tmp_path)
    else:
        environment = {**os.environ, **_BUFFERED, "PYTHONPATH": str(repository)}
        command = [sys.executable, "-c", _START, *train]
        with open("/dev/full", "wb") as full:
            ended = warm.run(command, cwd=tmp_path, env=environment, stderr=full, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert b"rror" not in (ended.stderr or b"")
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
    error, hint = ended.stderr.splitlines()
    assert error == b"error: cannot write the output: No space left on device: stdout"
    assert b"df -h" in hint


def test_a_name_that_the_encoding_of_stdout_lacks_is_escaped(run_command, tmp_path):
    (tmp_path / "mod\u00e8le_1.pt").touch()
    ended = run_command("list", tmp_path, "-q", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"})
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.splitlines()[1].endswith(b"mod\\xe8le_1.pt")
