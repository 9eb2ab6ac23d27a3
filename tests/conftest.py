"""What all tests share: one thread, whole campaigns on demand, and small checkpoints."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.campaign import PARTS, part_of
from tests.support.folders import REPOSITORY

if TYPE_CHECKING:
    from marlin_ckpt import Checkpoint, DefaultCheckpointer

# One thread, here and in every process started from here: several that wait for one another on busy
# cores lengthen the small steps of the tests a hundredfold.
os.environ["OMP_NUM_THREADS"] = "1"

# In the background of a shell SIGINT is ignored; tests that interrupt themselves would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a run tells of itself is looked at in `caplog`; the library sets no levels.
for name in ("marlin_ckpt.checkpointer", "marlin_ckpt.training.trainer"):
    logging.getLogger(name).setLevel(logging.INFO)

# What tests are not to change, here and at the end of each.
_SYSTEMS = Path(tempfile.gettempdir())
_MODE = stat.S_IMODE(_SYSTEMS.stat().st_mode)

collect_ignore = ["browser", "peers"]  # which need what `make test-browser` and `make test-peers` install


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--campaign", choices=["all", *PARTS], help="run this part of the campaign, at its full size"
    )
    parser.addoption(
        "--device",
        default="cuda",
        help="where tests/device/ runs: cuda by default; cpu tries these tests",
    )
    parser.addoption(
        "--reflinks", help="a directory on XFS, btrfs or bcachefs, for the tests of blocks that files share"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Imports what all tests need, but not where they are handed out alone: the workers wait for that."""
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        return
    import torch
    from hypothesis import settings

    # Derandomised: CI fails only for what a change made fail. No deadline: machines are shared.
    settings.register_profile("ci", derandomize=True, deadline=None)
    settings.load_profile("ci")
    torch.set_num_threads(1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Passes over the files that are in no part of the campaign, or in another than is asked for."""
    asked = config.getoption("--campaign")
    if asked is None or not collection_path.is_file():
        return None
    part = part_of(collection_path)
    return True if part is None or asked not in ("all", part) else None


# The longest files. Where one of them began last, its worker would go on alone.
_FIRST = frozenset(
    (REPOSITORY / "tests" / name).resolve(strict=True)
    for name in (
        "unit/package/test_benchmarks.py",
        "unit/package/test_docs.py",
        "unit/storage/test_s3.py",
        "unit/training/parallel/test_ddp.py",
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the longest files begin first."""
    items.sort(key=lambda item: item.path.resolve() not in _FIRST)


gc.disable()  # until all tests are collected, which leaves hardly any garbage


def pytest_collection_finish() -> None:
    """Spares each later collection of garbage the walk through what imports and collecting have made."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def cases(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How many cases a test of the campaign tries: a sample in each run, all of them with `--campaign`."""
    whole = request.config.getoption("--campaign") is not None
    return lambda sample, full: full if whole else sample


@pytest.fixture(autouse=True)
def _as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no shell around the tests, and no earlier test, say how wide the output is."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Names a test that closes the system's temporary folder to other programs, and opens it again."""
    yield
    if (mode := stat.S_IMODE(_SYSTEMS.stat().st_mode)) != _MODE:
        _SYSTEMS.chmod(_MODE)
        pytest.fail(f"{_SYSTEMS} had the mode {_MODE:04o}, and had {mode:04o} after this test")


@pytest.fixture(scope="session", autouse=True)
def _as_it_was() -> Iterator[None]:
    """Finds what all tests together have changed in this process."""

    def state() -> tuple[str, int]:
        umask = os.umask(0o77)
        os.umask(umask)
        return os.getcwd(), umask

    before = state()
    yield
    assert state() == before


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Has what this process and its children leave behind, killed ones too, removed by pytest in the end."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(tmp_path_factory.mktemp("left", numbered=False))


@pytest.fixture
def public() -> Iterator[Path]:
    """An empty directory that every user can reach, unlike `tmp_path`."""
    directory = Path(tempfile.mkdtemp(prefix="marlin-ckpt-test-", dir=_SYSTEMS))
    directory.chmod(0o755)
    yield directory
    subprocess.run(["chmod", "-R", "u+rwx", directory], check=True)  # what is closed to its owner
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def reflinks(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory on a file system that shares blocks between files."""
    if (folder := request.config.getoption("--reflinks")) is None:
        pytest.skip("needs --reflinks with a directory on XFS, btrfs or bcachefs")
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        yield Path(directory)


@pytest.fixture
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture
def make_checkpointer(tmp_path: Path) -> Callable[..., DefaultCheckpointer]:
    """Makes checkpointers that save to and load from `tmp_path / "checkpoints"` unless told otherwise."""
    from marlin_ckpt import DefaultCheckpointer, DefaultCheckpointerArguments

    def make(**fields) -> DefaultCheckpointer:
        directory = str(tmp_path / "checkpoints")
        defaults = {"save_dir": directory, "model_state_save_dir": directory, "load_dir": directory}
        return DefaultCheckpointer(DefaultCheckpointerArguments(**{**defaults, **fields}))

    return make


@pytest.fixture
def make_checkpoint() -> Callable[..., Checkpoint]:
    """Makes a small checkpoint whose tensors hold `value`."""
    import torch

    from marlin_ckpt import Checkpoint

    def make(value: float = 1.0, **metrics: float) -> Checkpoint:
        return Checkpoint(
            module_interface_state={"weight": torch.full((8, 8), value)},
            trainer_state={"last_epoch": int(value)},
            trainer_backend_state={"global_step_completed": 3},
            metrics=metrics or None,
        )

    return make


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[str]:
    """An empty one, in memory where that can be had: for hundreds of saves, each of which is synced."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield path


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the one S3 server of this run of the tests answers."""
    from tests.support import s3_servers

    s3_servers.read_models_once()
    top = tmp_path_factory.getbasetemp()
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    folder = (top.parent if is_worker else top) / "s3"
    return s3_servers.shared(folder, os.getppid() if is_worker else os.getpid())


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix on a real S3 server, which this process and its children find."""
    from tests.support import s3_servers

    for name, value in s3_servers.environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_servers.BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def _shared_proxy(s3_endpoint: str):
    from tests.support.faulty_proxy import faulty_proxy

    with faulty_proxy(s3_endpoint) as one:
        yield one


@pytest.fixture
def proxy(_shared_proxy):
    """Stands before the S3 server: one for all tests, since each would take a client of its own."""
    yield _shared_proxy
    _shared_proxy.reset()


@pytest.fixture
def store(s3: str, proxy):
    """An empty prefix on the S3 server, reached through the proxy."""
    from tests.support.s3_stores import opened

    with opened(s3, proxy.endpoint) as one:
        yield one


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has requests that failed made again at once."""
    from marlin_ckpt.storage.s3 import retrying

    monkeypatch.setattr(retrying, "_FIRST_S", 0.01)
