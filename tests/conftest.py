"""What the tests share."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import settings

from marlin_ckpt import Checkpoint, DefaultCheckpointer, DefaultCheckpointerArguments
from marlin_ckpt.cli.main import main
from tests.support.folders import REPOSITORY

# Derandomised: CI fails only for what a change made fail. No deadline: machines are shared.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")

collect_ignore = ["peers"]  # which need what `make test-peers` installs; named on the command line they run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run the adversity campaigns at their full size")


@pytest.fixture(scope="session")
def cases(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How many cases a campaign tries: a sample in each run, all of them with `--campaign`."""
    whole = request.config.getoption("--campaign")
    return lambda sample, full: full if whole else sample


class PicklableMock(mock.MagicMock):
    """The mock of PyMarlin's own tests: it pickles as a plain MagicMock."""

    def __reduce__(self):
        return (mock.MagicMock, ())


@pytest.fixture
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture
def make_checkpointer(tmp_path: Path) -> Callable[..., DefaultCheckpointer]:
    """Makes checkpointers that save to and load from `tmp_path / "checkpoints"` unless told otherwise."""

    def make(**fields) -> DefaultCheckpointer:
        directory = str(tmp_path / "checkpoints")
        defaults = {"save_dir": directory, "model_state_save_dir": directory, "load_dir": directory}
        return DefaultCheckpointer(DefaultCheckpointerArguments(**{**defaults, **fields}))

    return make


@pytest.fixture
def make_checkpoint() -> Callable[..., Checkpoint]:
    """Makes a small checkpoint whose tensors hold `value`."""

    def make(value: float = 1.0, **metrics: float) -> Checkpoint:
        return Checkpoint(
            module_interface_state={"weight": torch.full((8, 8), value)},
            trainer_state={"last_epoch": int(value)},
            trainer_backend_state={"global_step_completed": 3},
            metrics=metrics or None,
        )

    return make


@pytest.fixture
def run_main(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `marlin-ckpt` in this process; gives the exit code, and what went to stdout and to stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([*map(os.fspath, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[str]:
    """An empty one, in memory where that can be had: for hundreds of saves, each of which is synced."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keeps torch to one: two that wait for each other on busy cores lengthen small steps a hundredfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run_command(repository: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs `marlin-ckpt` in a process of its own; bytes in and out."""

    def run(*arguments: str | bytes, **options) -> subprocess.CompletedProcess[bytes]:
        command = [
            sys.executable,
            "-c",
            "import sys; from marlin_ckpt.cli.main import main; sys.exit(main())",
        ]
        environment = {**os.environ, "PYTHONPATH": str(repository), **options.pop("env", {})}
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 120, **options}
        return subprocess.run([*command, *arguments], env=environment, check=False, **options)

    return run
