"""Times the commands that look, and the search for checkpoints, beside the least that any program needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.interleaved import Call, medians
from benchmarks.report import Row, Setting
from benchmarks.states import QUICK
from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments, get_latest_file

_EMPTY_PROGRAM = """
import typer
app = typer.Typer(rich_markup_mode=None)
@app.command()
def latest(directory: str) -> None:
    return None
@app.command()
def other(directory: str) -> None:
    return None
app()
"""
_OURS = "import sys; from marlin_ckpt.__main__ import main; sys.exit(main())"  # as the installed command


def _fill(directory: Path, files: int) -> Path:
    directory.mkdir()
    for index in range(files):
        (directory / f"model_{index}.pt").touch()
    return directory


def program(command: str, path: Path, *options: str) -> Call:
    """Runs a command of marlin-ckpt on a path, in a process of its own."""
    return _process(_OURS, command, path, *options)


def typer_alone(path: Path) -> Call:
    """Runs a program that does nothing: no command made with Typer can be faster."""
    return _process(_EMPTY_PROGRAM, "latest", path)


def _process(code: str, command: str, path: Path, *options: str) -> Call:
    line = [sys.executable, "-c", code, command, str(path), *options]
    # Where bytecode may not be cached, ours alone would be compiled anew each time.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    null = subprocess.DEVNULL
    return lambda: subprocess.run(line, env=environment, stdout=null, stderr=null, check=True)


def _scan(directory: Path) -> None:
    with os.scandir(directory) as entries:
        for _ in entries:
            pass


def finding(setting: Setting) -> list[Row]:
    """Commands beside a Typer program that does nothing, and the discovery beside one pass of a directory."""
    rounds = setting.rounds * (1 if setting.sizes is QUICK else 4)
    few = _fill(setting.directory / "few", setting.sizes.few_files)
    many = _fill(setting.directory / "many", setting.sizes.many_files)
    saved = _saved(setting.directory / "saved")
    commands = {
        f"`marlin-ckpt latest` of {setting.sizes.few_files:,} files": program("latest", few),
        "`marlin-ckpt list` of a file, in a pipe": program("list", saved.parent),
        "`marlin-ckpt list --json` of a file": program("list", saved.parent, "--json"),
        "`marlin-ckpt show` of a file, in a pipe": program("show", saved),
        "`marlin-ckpt show --json` of a file": program("show", saved, "--json"),
    }
    processes = medians({"limit": typer_alone(few), **commands}, rounds)
    limit_s = processes["limit"].wall_s
    passes = medians({"ours": lambda: get_latest_file(many, "model"), "limit": lambda: _scan(many)}, rounds)
    what = f"`get_latest_file` of {setting.sizes.many_files:,} files"
    times = passes["ours"].wall_s, passes["limit"].wall_s
    return [
        *(
            Row("find", name, "an empty Typer program", processes[name].wall_s, limit_s, rounds, 1.2)
            for name in commands
        ),
        Row("find", what, "`os.scandir` alone", *times, rounds, 3.0),
    ]


def _saved(directory: Path) -> Path:
    """A small checkpoint of ours."""
    arguments = DefaultCheckpointerArguments(save_dir=str(directory), model_state_save_dir=None)
    DefaultCheckpointer(arguments).save(Checkpoint({"weight": torch.zeros(64, 64)}, {}, {}), 0)
    return directory / "model_0.pt"
