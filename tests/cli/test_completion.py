"""Completion: for each shell that it is offered for, in a real one where that is installed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shellingham

from marlin_ckpt.cli import completion
from marlin_ckpt.cli.main import main
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.target import whole
from tests.support import s3_servers
from tests.support.folders import REPOSITORY

SHELLS = ["bash", "zsh", "fish"]
INSTALLED = [shell for shell in SHELLS if shutil.which(shell)]  # bash is always there
# Per shell: what it takes to complete the words of a line, given as arguments, one completion a line.
BASH = """
eval "$(marlin-ckpt --show-completion bash)"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_marlin_ckpt_completion marlin-ckpt
printf '%s\\n' "${COMPREPLY[@]}"
"""
FILES = {"bash": ".bash_completions/marlin-ckpt.sh", "zsh": ".zfunc/_marlin-ckpt"}
FILES["fish"] = ".config/fish/completions/marlin-ckpt.fish"


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """A home of its own, and the command of this tree on the path."""
    command = tmp_path / "bin" / "marlin-ckpt"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m marlin_ckpt "$@"\n')
    command.chmod(0o700)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}


def run(command: list[str], environment: dict[str, str], **options) -> str:
    done = subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True, timeout=60, **options
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ver"], ["verify"]),
        (["verify", "--j"], ["--json"]),
        (["show", "x.pt", "--sort", ""], ["order", "name", "size"]),
        (["--vers"], ["--version"]),
        (["config", "sc"], ["schema"]),
        (["config", "schema", "--document", "li"], ["list"]),
        (["verify", "che"], []),  # nothing of ours, so that the shell completes the name of a file
    ],
    ids=" ".join,
)
def test_bash_completes_commands_options_and_their_values(environment, words, expected):
    said = run(["bash", "-c", BASH, "bash", "marlin-ckpt", *words], environment)
    assert said.split() == expected


def test_bash_completes_paths_itself_where_there_is_nothing_of_ours(environment):
    show = 'eval "$(marlin-ckpt --show-completion bash)"; complete -p marlin-ckpt'
    assert "-o default" in run(["bash", "-c", show], environment)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_given_commands_with_their_summaries(environment, shell):
    asked = {"_MARLIN_CKPT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "marlin-ckpt ver"}
    asked["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    said = run(["marlin-ckpt"], {**environment, **asked})
    assert "verify" in said
    assert "Check every byte of checkpoints for damage." in said


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_shown_for_the_shell_that_is_named_or_else_for_the_calling_one(
    shell, capsys, monkeypatch
):
    assert main(["--show-completion", shell]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert f"_MARLIN_CKPT_COMPLETE=complete_{shell}" in shown.out
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    assert main(["--show-completion"]) == 0
    assert capsys.readouterr() == shown


@pytest.mark.parametrize("shell", INSTALLED)
def test_a_shell_takes_the_script_that_is_shown_for_it(environment, shell):
    prepared = "autoload -Uz compinit; compinit -u; " if shell == "zsh" else ""
    script = run(["marlin-ckpt", "--show-completion", shell], environment)
    run([shell, "-c", prepared + script], environment)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_installed_into_the_home_once_however_often(environment, shell, tmp_path):
    start = {"bash": ".bashrc", "zsh": ".zshrc"}.get(shell)
    if start:
        (tmp_path / start).write_text("export MINE=1\n")
    for _ in range(2):
        said = run(["marlin-ckpt", "--install-completion", shell], environment)
        assert said == (
            f"{shell} completion installed in {tmp_path / FILES[shell]}; it takes effect in a new shell\n"
        )
    assert f"complete_{shell}" in (tmp_path / FILES[shell]).read_text()
    if start:
        lines = [line for line in (tmp_path / start).read_text().split("\n") if line]
        assert lines[0] == "export MINE=1"
        assert len(lines) == len(set(lines))


def test_a_new_bash_completes_after_the_installation(environment, tmp_path):
    run(["marlin-ckpt", "--install-completion", "bash"], environment)
    line = f"source {tmp_path / '.bashrc'}; complete -p marlin-ckpt"
    assert "_marlin_ckpt_completion" in run(["bash", "-c", line], environment)


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
@pytest.mark.parametrize(("named", "says"), [(["tcsh"], "'tcsh'"), ([], "cannot be found out")], ids=str)
def test_a_shell_without_completion_is_refused_and_the_others_are_named(
    option, named, says, capsys, monkeypatch
):
    def fail() -> None:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", fail)
    assert main([option, *named]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "bash, zsh, fish" in err


def test_a_home_that_cannot_be_written_to_is_an_error_in_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / ".bash_completions").write_text("a file in the way")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion", "bash"]) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert str(Path(tmp_path)) in err


def line_of_bash(words: list[str]) -> list[str]:
    """The words of a line as bash has them, which takes them apart at colons."""
    return [part for word in words for part in re.split("(:)", word) if part]


@pytest.mark.parametrize("splits", [True, False], ids=["at colons", "at blanks alone"])
def test_bash_completes_the_names_in_a_store_by_one_request(s3, environment, proxy, splits):
    for name in ("run/model_1.pt", "run/model_2.pt", "run/.marlin-ckpt/notes.json", "runs/x.pt"):
        paths.publish(f"{s3}/{name}", whole(b"data"), 4)
    proxy.reset()
    asked = {**environment, "AWS_ENDPOINT_URL": proxy.endpoint}

    def completed(*words: str) -> list[str]:
        line = ["marlin-ckpt", *words]
        return run(["bash", "-c", BASH, "bash", *(line_of_bash(line) if splits else line)], asked).split()

    begin = s3.removeprefix("s3:") if splits else s3
    assert completed("diff", f"{s3}/run/model_1.pt", f"{s3}/run") == [f"{begin}/run/", f"{begin}/runs/"]
    assert proxy.kinds() == ["ListObjects"]
    both = [f"{begin}/run/model_{index}.pt" for index in (1, 2)]
    assert completed("export", "x.pt", "-o", f"{s3}/run/") == both


def test_a_url_that_cannot_be_asked_about_is_completed_by_nothing_and_nothing_is_said(s3, monkeypatch, capfd):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_servers.free_port()}")
    monkeypatch.setattr(completion, "_ONE_S", "1ms")
    for url in (f"{s3}/mo", "s3://", "s3://buck", "s3://user:pass@bucket/x", "s3", "checkpoints/mo"):
        assert completion.complete_place(url) == []
    assert capfd.readouterr() == ("", "")


def test_what_is_on_a_disk_is_completed_without_what_talks_to_a_store(environment):
    code = "import sys; from marlin_ckpt.cli.main import main; main([]); sys.exit('boto3' in sys.modules)"
    line = {"COMP_WORDS": "marlin-ckpt\nshow\nx", "COMP_CWORD": "2", "_MARLIN_CKPT_COMPLETE": "complete_bash"}
    assert run([sys.executable, "-c", code], {**environment, **line}).strip() == ""
