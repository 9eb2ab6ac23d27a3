"""Folders made to attack whoever reads them: nothing runs, nothing outside is read, and little is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from marlin_ckpt.storage.local.store import LocalStore
from tests.support import hostile_folders, warm
from tests.support.damaging import said_by
from tests.support.folder_changes import SECRET, secret_of
from tests.support.folders import REPOSITORY, SUPPORT
from tests.support.foreign.corpus import CHECKPOINTS
from tests.support.hostile_folders import FOLDERS

# Several times what these folders take.
MOST_SECONDS = 4  # of a processor's time
MOST_BYTES = 200_000_000
LARGEST_JSON = 100_000_000
LONGEST = 3_000  # characters of a message
CALLS = ["list", "latest", "clean", "verify", "show", "diff", "export"]
SOUND = ("hf-cached", "hf-sharded", "trainer", "trainer-fsdp", "trainer-deepspeed", "accelerate")
CODES = {
    "list": (0,),
    "clean": (0,),
    "latest": (0, 4),
    "show": (0, 1, 3),
    "diff": (0, 1, 3),
    "export": (0, 1, 3),
}


@pytest.fixture(scope="module")
def reports(
    tmp_path_factory: pytest.TempPathFactory, cases: Callable[[int, int], int]
) -> Iterator[list[dict[str, Any]]]:
    """What each call said of each folder; the calls take turns unless the whole campaign is asked for."""
    directory = tmp_path_factory.mktemp("hostile")
    try:
        yield _reports(directory, cases)
    finally:  # pytest cannot remove folders whose paths are longer than a system call takes
        subprocess.run(["rm", "-rf", str(directory)], check=True)


def _reports(directory: Path, cases: Callable[[int, int], int]) -> list[dict[str, Any]]:
    listed = []
    for name in SOUND:  # what they make a process import is no folder's doing
        (directory / name).mkdir()
        listed.append({"title": name, "path": str(CHECKPOINTS[name](directory / name).path)})
    listed *= cases(3, 1)  # so that each call is made with each of them
    start = len(listed)
    listed += hostile_folders.make_all(directory, large=cases(0, 1) == 1)
    (directory / "list.json").write_text(json.dumps(listed))
    (directory / "here").mkdir()
    ended = warm.run(
        [
            sys.executable, SUPPORT / "hostile_worker.py", directory / "list.json", "0",
            REPOSITORY / "configs/ci.yaml", str(cases(3, 1)), *CALLS,
        ],
        cwd=directory / "here", env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True,
        timeout=600,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-300:] + ended.stderr
    assert os.listdir(directory / "here") == []  # nothing has run
    said = [one for one in map(json.loads, ended.stdout.splitlines()) if "code" in one]
    return [{**one, **listed[one["number"]]} for one in said if one["number"] >= start]


def where(
    reports: list[dict[str, Any]], wrong: Callable[[dict[str, Any]], Any]
) -> dict[tuple[str, str], Any]:
    """What a check says of the calls that it finds wrong, by folder and call."""
    said = {(one["title"], one["call"]): wrong(one) for one in reports}
    return {key: value for key, value in said.items() if value}


def test_every_call_is_made_and_most_folders_are_verified(reports, cases):
    assert {one["call"] for one in reports} == {*CALLS}
    assert len(reports) >= len(FOLDERS) * len(CALLS) // cases(4, 1)


def test_nothing_of_any_folder_runs_and_nothing_is_written(reports):
    assert where(reports, lambda one: one["events"]) == {}


def test_nothing_outside_of_a_folder_is_shown(reports):
    assert where(reports, lambda one: SECRET in one["out"] + one["err"] or "root:" in one["out"]) == {}


def test_each_call_exits_with_a_code_of_its_own_and_without_a_traceback(reports):
    def wrong(one: dict[str, Any]) -> Any:
        codes = one["verified"] if one["call"] == "verify" else CODES[one["call"]]
        is_ours = "MARLIN_CKPT_TRACEBACK" not in one["err"] and "Traceback" not in one["err"]
        return not (one["code"] in codes and is_ours) and (one["code"], one["out"][-200:] + one["err"][-200:])

    assert where(reports, wrong) == {}


def test_what_is_printed_is_short_and_harmless_to_a_terminal(reports):
    def wrong(one: dict[str, Any]) -> Any:
        said = one["err"] + ("" if one["call"] == "latest" else one["out"])  # a script opens what it reads
        is_long = one["call"] in ("verify", "diff", "export") and len(said) > LONGEST
        return is_long or [line for line in said.split("\n") if not line.isprintable()]

    assert where(reports, wrong) == {}


def test_time_and_memory_are_bounded(reports):
    def wrong(one: dict[str, Any]) -> Any:
        json_bytes = sum(path.stat().st_size for path in Path(one["path"]).glob("*.json") if path.is_file())
        most_bytes = MOST_BYTES + 4 * min(json_bytes, LARGEST_JSON)  # as text twice, and what it makes
        return (one["busy"] > MOST_SECONDS or one["grown"] > most_bytes) and (one["busy"], one["grown"])

    assert where(reports, wrong) == {}


def _without(path: Path) -> None:
    path.unlink(missing_ok=True)


def _emptied(path: Path) -> None:
    if path.exists():
        path.write_bytes(b"")


def _linked_outside(path: Path) -> None:
    secret_of(path.parent)
    path.unlink(missing_ok=True)
    path.symlink_to("../outside.safetensors")


@pytest.mark.parametrize("change", [_without, _emptied, _linked_outside])
@pytest.mark.parametrize("command", ["verify", "show", "export"])
def test_a_file_that_changes_after_its_folder_was_listed_is_noticed(tmp_path, monkeypatch, change, command):
    made = CHECKPOINTS["hf-sharded"](tmp_path)
    opening = LocalStore.open

    def changed(store: LocalStore, name: str) -> Any:
        if name.endswith("2-of-00003.safetensors"):
            change(made.path / "model-00002-of-00003.safetensors")
        return opening(store, name)

    monkeypatch.setattr(LocalStore, "open", changed)
    target = ["-o", str(tmp_path / "exported.safetensors")] if command == "export" else []
    code, printed = said_by(command, made.path, *target)
    assert code in (1, 3) or "MISSING" in printed
    assert "model-00002-of-00003.safetensors" in printed
    assert SECRET not in printed
    assert not (tmp_path / "exported.safetensors").exists()
