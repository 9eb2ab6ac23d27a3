"""How the tests of the command run it: in this process, or in one of its own."""

from __future__ import annotations

import datetime
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marlin_ckpt.cli import output
from marlin_ckpt.cli.main import main
from marlin_ckpt.cli.views import events
from marlin_ckpt.formats.manifest import json_ready
from marlin_ckpt.saving import lineage
from tests.support import documents
from tests.support.terminal import HOSTILE, run_on_terminal
from tests.support.users import NOBODY, unprivileged


@pytest.fixture(autouse=True)
def printed_documents(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict]]:
    """The JSON documents that commands print in this process, each of which must fit its schema."""
    printed: list[dict] = []
    document = output.document

    def noted(value: dict, many: str = "") -> None:
        printed.append(json_ready({"schema": f"marlin-ckpt/{output.documents.command}/1", **value}))
        document(value, many)

    monkeypatch.setattr(output, "document", noted)
    yield printed
    assert [fault for one in printed for fault in documents.faults(one)] == []


@pytest.fixture
def run_main(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `marlin-ckpt` in this process; gives the exit code, and what went to stdout and to stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([*map(os.fspath, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def manifests_say(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime.timedelta], None]:
    """Has what is saved from now on say in its manifest that it was written so long ago."""

    def say(ago: datetime.timedelta) -> None:
        text = (datetime.datetime.now(datetime.UTC) - ago).isoformat(timespec="milliseconds")
        monkeypatch.setattr(lineage, "now", lambda: text.replace("+00:00", "Z"))

    return say


@pytest.fixture
def run_command(repository: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs `marlin-ckpt` in a process of its own; bytes in and out."""

    def run(*arguments: str | bytes, **options) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(repository), **options.pop("env", {})}
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 120, **options}
        command = [sys.executable, "-m", "marlin_ckpt", *arguments]
        return subprocess.run(command, env=environment, check=False, **options)

    return run


@pytest.fixture
def shown(capsys):
    """Runs `show` and gives what it printed."""

    def run(path: Path | str, *options: str, code: int = 0) -> str:
        assert main(["show", os.fspath(path), *options]) == code
        ended = capsys.readouterr()
        return ended.out if code == 0 else ended.err

    return run


@pytest.fixture
def document(shown):
    """Runs `show --json` and gives the document."""
    return lambda path, *options: json.loads(shown(path, "--json", *options))


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the zone of this machine."""

    def enter(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()
        events._local_minute.cache_clear()

    yield enter
    monkeypatch.undo()
    time.tzset()
    events._local_minute.cache_clear()


@pytest.fixture
def log(run_main):
    """Runs `log`, which must exit with 0, and gives the lines of stdout."""

    def run(*arguments):
        code, out, err = run_main("log", *arguments)
        assert (code, err) == (0, "")
        return out.splitlines()

    return run


@pytest.fixture
def on_terminal(tmp_path):
    """Runs the command on a terminal, in the test's own directory."""
    return functools.partial(run_on_terminal, tmp_path)


@pytest.fixture
def users_directory(public) -> Iterator[Path]:
    """A directory of an ordinary user, who acts from now on: root passes all permissions."""
    if os.geteuid() == 0:
        os.chown(public, NOBODY, NOBODY)
    with unprivileged():
        yield public


@pytest.fixture
def hostile_directory(tmp_path) -> Path:
    directory = tmp_path / "x["
    directory.mkdir()
    for name in HOSTILE:
        Path(directory, os.fsdecode(name)).touch()
    (directory / "]_9.pt").touch()
    return directory
