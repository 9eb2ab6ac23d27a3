"""What a command advises where nothing has the path, or a directory has it in place of a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """`runs` with two files and a folder, and an empty folder `old`."""
    for name in ("runs/a/best", "old"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("run.yaml", "runs/model_1.pt", "runs/model_2.pt"):
        (tmp_path / name).write_bytes(b"data" * len(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["list", "latest", "clean", "advise", "env", "verify", "report"])
def test_each_command_names_the_directory_that_was_meant(run_main, here, command):
    code, out, err = run_main(command, "run", *(["--json"] if command == "list" else []))
    assert (code, err.splitlines()[-1]) == (4, "hint: did you mean runs?")
    assert not out or json.loads(out)["error"]["hint"] == "did you mean runs?"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("list", "checkpoints"), "here are old, runs"),
        (("show", "runs/model_3.pt"), "did you mean runs/model_2.pt?"),
        (("show", "runs/x"), "runs has a, model_1.pt, model_2.pt"),
        (("list", "rnus/a/b"), "did you mean runs?"),
        (("list", "runs/a/b/c/"), "runs/a has best"),
        (("show", "old/x"), ""),
        (("env", ""), ""),
        (("report", "old", "--compare", "runs/model_3.pt"), "did you mean runs/model_2.pt?"),
        (("list", "link"), "it is a symbolic link to gone, which is not there"),
        (
            ("show", "runs"),
            "name a file in it: model_1.pt, model_2.pt; marlin-ckpt latest runs prints the newest",
        ),
        (("show", "runs/a"), "marlin-ckpt list runs/a --recursive shows the checkpoints in it"),
        (("export", "old", "-o", "x.pt"), "it is empty"),
        (("train", "--config", "runs.yml"), "did you mean run.yaml?"),
    ],
)
def test_the_hint_is_a_name_like_it_or_what_is_there(run_main, here, arguments, hint):
    (here / "link").symlink_to("gone")
    code, _, err = run_main(*arguments)
    assert code
    assert [line.removeprefix("hint: ") for line in err.splitlines()[1:]] == [hint] * bool(hint)


def test_the_names_in_a_hint_are_few_and_harmless(run_main, here):
    for name in "fghijk":
        (here / f"{name}\x1b[2J").mkdir()
    err = run_main("list", "0")[2]
    assert "\x1b" not in err
    assert err.endswith("j\\x1b[2J, ...\n")
    shutil.rmtree(here / "runs")
    (here / "a b").mkdir()
    (here / "a b" / "c").mkdir()
    assert "list 'a b' --recursive" in run_main("show", "a b")[2]
