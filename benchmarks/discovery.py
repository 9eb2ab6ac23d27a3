"""Times `latest` and the discovery against what they cannot beat, interleaved in one run.

    python benchmarks/discovery.py [--rounds 20]

Ratios of medians: `marlin-ckpt latest` on 1,000 files against a Typer program that does nothing, and
`get_latest_file` on 100,000 files in one folder against a bare `os.scandir` pass.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from interleaved import machine, medians, row

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
_LATEST = "import sys; from marlin_ckpt.cli.main import main; sys.exit(main())"


def _fill(directory: Path, files: int) -> None:
    for index in range(files):
        (directory / f"model_{index}.pt").touch()


def _process(program: str, directory: Path) -> Callable[[], object]:
    command = [sys.executable, "-c", program, "latest", str(directory)]
    # Where bytecode may not be cached, ours alone would be compiled anew each time.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)


def _scan(directory: Path) -> None:
    with os.scandir(directory) as entries:
        for _ in entries:
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder, "few"), Path(folder, "many")
        for directory, files in ((few, 1_000), (many, 100_000)):
            directory.mkdir()
            _fill(directory, files)
        processes = medians(
            {"ours": _process(_LATEST, few), "limit": _process(_EMPTY_PROGRAM, few)}, args.rounds
        )
        passes = medians(
            {"ours": lambda: get_latest_file(many, "model"), "limit": lambda: _scan(many)}, args.rounds
        )
    print(f"{machine()}, typer {version('typer')}; medians of {args.rounds}")
    for name, timings, bound in (
        ("latest, 1,000 files / empty Typer program", processes, 1.5),
        ("get_latest_file, 100,000 files / os.scandir", passes, 3.0),
    ):
        print(row(name, timings["ours"].wall_s, timings["limit"].wall_s, bound))


if __name__ == "__main__":
    main()
