"""Times `latest` and the discovery against what they cannot beat, interleaved in one run.

    python benchmarks/discovery.py [--rounds 20] [--json FILE]

Ratios of medians: `marlin-ckpt latest` on 1,000 files against a Typer program that does nothing, and
`get_latest_file` on 100,000 files in one folder against a bare `os.scandir` pass.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

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


def _ratio(ours: Callable[[], object], limit: Callable[[], object], rounds: int) -> dict[str, float]:
    """Medians of interleaved rounds, in seconds, after one round that warms the caches."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for call, taken in zip((ours, limit), times, strict=True):
            began = time.perf_counter()
            call()
            if number:
                taken.append(time.perf_counter() - began)
    medians = [statistics.median(taken) for taken in times]
    return {"ours_s": medians[0], "limit_s": medians[1], "ratio": medians[0] / medians[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder, "few"), Path(folder, "many")
        for directory, files in ((few, 1_000), (many, 100_000)):
            directory.mkdir()
            _fill(directory, files)
        empty = _process(_EMPTY_PROGRAM, few)
        results = {
            "latest, 1,000 files / empty Typer program": _ratio(_process(_LATEST, few), empty, args.rounds),
            "get_latest_file, 100,000 files / os.scandir": _ratio(
                lambda: get_latest_file(many, "model"), lambda: _scan(many), args.rounds
            ),
        }
    bounds = (1.5, 3.0)
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    print(f"{machine}, typer {version('typer')}; medians of {args.rounds}")
    for (name, result), bound in zip(results.items(), bounds, strict=True):
        times = f"{result['ours_s'] * 1e3:7.1f} ms / {result['limit_s'] * 1e3:7.1f} ms"
        print(f"{name:45} {times} = {result['ratio']:.2f}  (at most {bound})")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()
