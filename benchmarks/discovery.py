"""Times `latest` and the search for checkpoints, beside the least that any program needs for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.interleaved import Call, medians
from benchmarks.report import Row, Setting
from marlin_ckpt import get_latest_file

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
_OURS = "import sys; from marlin_ckpt.cli.main import main; sys.exit(main())"


def _fill(directory: Path, files: int) -> Path:
    directory.mkdir()
    for index in range(files):
        (directory / f"model_{index}.pt").touch()
    return directory


def program(command: str, path: Path) -> Call:
    """Runs a command of marlin-ckpt on a path, in a process of its own."""
    return _process(_OURS, command, path)


def typer_alone(path: Path) -> Call:
    """Runs a program that does nothing: no command made with Typer can be faster."""
    return _process(_EMPTY_PROGRAM, "latest", path)


def _process(code: str, command: str, path: Path) -> Call:
    line = [sys.executable, "-c", code, command, str(path)]
    # Where bytecode may not be cached, ours alone would be compiled anew each time.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run(line, env=environment, stdout=subprocess.DEVNULL, check=True)


def _scan(directory: Path) -> None:
    with os.scandir(directory) as entries:
        for _ in entries:
            pass


def finding(setting: Setting) -> list[Row]:
    """`latest` beside a Typer program that does nothing, and the discovery beside one pass of a directory."""
    rounds = setting.rounds * 4
    few = _fill(setting.directory / "few", setting.sizes.few_files)
    many = _fill(setting.directory / "many", setting.sizes.many_files)
    processes = medians({"ours": program("latest", few), "limit": typer_alone(few)}, rounds)
    passes = medians({"ours": lambda: get_latest_file(many, "model"), "limit": lambda: _scan(many)}, rounds)
    return [
        Row("find", f"{what} of {files:,} files", against, timings["ours"].wall_s, timings["limit"].wall_s,
            rounds, bound)
        for what, files, against, timings, bound in (
            ("`marlin-ckpt latest`", setting.sizes.few_files, "an empty Typer program", processes, 1.5),
            ("`get_latest_file`", setting.sizes.many_files, "`os.scandir` alone", passes, 3.0),
        )
    ]  # fmt: skip
