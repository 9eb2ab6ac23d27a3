"""What the commands that look import: what they need themselves, beside an empty program of Typer's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Runs a command as its users do; the last line tells what has been imported.
_IMPORTED = """
import json, sys
before = set(sys.modules)
from marlin_ckpt.__main__ import main
code = main()
print(json.dumps([code, sorted(set(sys.modules) - before)]))
"""
_COMMAND_LINE = {
    "__main__", "cli.app", "cli.help", "cli.log", "cli.main", "cli.options", "cli.output",
    "cli.commands.registry", "cli.ranks.printing", "cli.text", "cli.widths",
    "errors", "escaping", "fields", "naming", "operations.launched", "refusals", "urls", "version",
}  # fmt: skip
_NAMES = {
    "directory.catalog", "directory.walk", "entries", "formats.layouts.folder", "formats.layouts.layout",
    "formats.layouts.sharded", "storage.hints", "storage.local.descent", "storage.local.files",
    "storage.local.mounts", "storage.local.moving", "storage.local.store", "storage.local.temporary",
    "storage.local.trees", "storage.paths", "storage.reading.readers", "storage.source", "storage.store",
    "storage.target",
}  # fmt: skip
_OF_LATEST = {"cli.commands.look.latest", "directory.latest", "directory.own", "directory.runs"}
# What takes longest of the standard library and of others, none of which these commands need.
_NEVER = {
    "torch", "numpy", "rich", "yaml", "pydantic", "boto3", "botocore", "safetensors",
    "bz2", "concurrent.futures", "ctypes", "hashlib", "ipaddress", "lzma", "socket", "subprocess",
}  # fmt: skip


@pytest.fixture
def directory(make_checkpointer, make_checkpoint, tmp_path) -> Path:
    """Checkpoints of ours."""
    checkpointer = make_checkpointer()
    for index in range(2):
        checkpointer.save(make_checkpoint(loss=0.5), index)
    return tmp_path / "checkpoints"


@pytest.fixture
def imported(repository: Path):
    """Runs a command; gives the modules that it has imported: ours without `marlin_ckpt.`, and the others."""

    def run(*arguments: str | Path) -> tuple[set[str], set[str]]:
        ended = subprocess.run(
            [sys.executable, "-c", _IMPORTED, *arguments],
            env={**os.environ, "PYTHONPATH": os.fspath(repository)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        code, names = json.loads(ended.stdout.splitlines()[-1])
        assert code == 0, ended.stderr
        top = repository / "marlin_ckpt"
        guides = {".".join(one.relative_to(top).parts[:-1]) for one in top.rglob("__init__.py")}
        own = {name.removeprefix("marlin_ckpt.") for name in names if name.startswith("marlin_ckpt.")}
        return own - guides, {name for name in names if not name.startswith("marlin_ckpt")}

    return run


def test_latest_imports_what_names_of_files_take_and_nothing_else(imported, directory):
    own, others = imported("latest", directory)
    assert own <= _COMMAND_LINE | _NAMES | _OF_LATEST
    assert others.isdisjoint(_NEVER | {"dataclasses", "isal", "json", "pickle"})
    packages = {name.partition(".")[0] for name in others} - set(sys.stdlib_module_names)
    assert packages <= {"annotated_doc", "typer"}


@pytest.mark.parametrize(
    ("command", "options"),
    [("list", ["--json"]), ("list", []), ("show", ["--json"]), ("show", [])],
    ids=["list json", "list in a pipe", "show json", "show in a pipe"],
)
def test_list_and_show_import_no_other_command_and_nothing_that_draws(imported, directory, command, options):
    place = directory if command == "list" else directory / "model_1.pt"
    own, others = imported(command, place, *options)
    mine = {"list": "cli.commands.look.list_", "show": "cli.commands.look.show"}[command]
    assert {name for name in own if name.startswith("cli.commands.")} == {mine, "cli.commands.registry"}
    assert others.isdisjoint(_NEVER)
    parts = ("checkpointer", "config", "distributed", "integrations", "loading", "saving", "training")
    assert not [name for name in own if name.startswith((*parts, "storage.s3", "cli.terminal", "grammars"))]
    packages = {name.partition(".")[0] for name in others} - set(sys.stdlib_module_names)
    assert packages <= {"annotated_doc", "isal", "typer"}
