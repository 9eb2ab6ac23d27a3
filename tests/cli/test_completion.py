"""Completion: for each shell that it is offered for, in a real one where that is installed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shellingham

from marlin_ckpt.cli.main import main
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
