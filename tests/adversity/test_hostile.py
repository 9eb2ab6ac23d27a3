"""Files made to attack whoever reads them: nothing in them runs, and reading them costs little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import warm
from tests.support.folders import REPOSITORY, SUPPORT

# Several times what formats/budget.py allows: a loop that explodes takes hundreds of times as long.
MOST_SECONDS = 8  # of a processor's time
MOST_BYTES = 200_000_000  # beyond the file's own size
# In turns of three, those whose answers are compared meet the same files: list, verify, latest --intact.
CALLS = ["list", "latest", "clean", "verify", "load", "train", "latest --intact"]
DOCUMENTS = ["list --json", "verify --json"]
BYTES_AS_THEY_ARE = ("latest", "latest --intact")  # a script opens what it reads there


@dataclass(frozen=True)
class Session:
    """What a worker told of its calls.

    Attributes:
        files: by their titles, what is expected of each.
        calls: one report for each call; where the worker died of one, its code is the signal's name.
        left: what the calls left in the worker's directory.
        control: what the hook saw of a pickle that ran.
    """

    files: dict[str, dict[str, Any]]
    calls: list[dict[str, Any]]
    left: list[str]
    control: list[str]

    def where(self, wrong: Callable[[dict[str, Any], dict[str, Any]], Any]) -> dict[str, Any]:
        """What a check says of the calls that it finds wrong, by file and call."""
        said = {(call["title"], call["call"]): wrong(self.files[call["title"]], call) for call in self.calls}
        return {key: value for key, value in said.items() if value}


def attack(directory: Path, groups: list[str], chosen: list[str], one_in: int = 1) -> Session:
    """Makes the files of some groups and hands them to workers, a new one where one has died.

    Each of the chosen calls is made with one in so many of the files; the calls take turns.
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("MARLIN_CKPT_TRACEBACK", None)
    (directory / "files").mkdir()
    made = warm.run(
        [sys.executable, SUPPORT / "hostile_files.py", directory / "files", *groups],
        env=environment, stdout=subprocess.PIPE, check=True, timeout=120,
    )  # fmt: skip
    (directory / "list.json").write_bytes(made.stdout)
    listed = json.loads(made.stdout)
    session = Session({one["title"]: one for one in listed}, [], [], [])
    start, calls = 0, ""
    while start < len(listed):
        workplace = directory / f"worker{start}{calls}"
        workplace.mkdir()
        arguments = [directory / "list.json", f"{start}{calls}", REPOSITORY / "configs/ci.yaml", one_in]
        ended = warm.run(
            [sys.executable, SUPPORT / "hostile_worker.py", *map(str, arguments), *chosen],
            cwd=workplace, env=environment, capture_output=True, timeout=600,
        )  # fmt: skip
        last = read_reports(ended, listed, session)
        session.left.extend(os.listdir(workplace))
        start, calls = (len(listed), "") if last is None else (last["begins"], f":{last['call']}")
    return session


def read_reports(ended: subprocess.CompletedProcess[bytes], listed: list[Any], session: Session) -> Any:
    """Takes over what a worker told; returns the call that it died of, or None."""
    begun = None
    for line in map(json.loads, ended.stdout.splitlines()):
        begun = line if "begins" in line else None if "code" in line else begun
        session.control.extend(line.get("control", []))
        if "code" in line:
            session.calls.append({**line, "title": listed[line["number"]]["title"]})
    if ended.returncode == 0:
        return None
    assert begun is not None, ended.stderr.decode()
    died = {
        "code": f"died: {-ended.returncode}",
        "events": [],
        "out": "",
        "err": "",
        "busy": 99.0,
        "grown": 0,
    }
    session.calls.append({**died, "call": begun["call"], "title": listed[begun["begins"]]["title"]})
    return begun


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, cases: Callable[[int, int], int]) -> Session:
    groups = ["ordinary", "swollen", "amplified", "slow"][: cases(3, 4)]
    calls = [*CALLS, *DOCUMENTS[: cases(0, 2)]]
    return attack(tmp_path_factory.mktemp("hostile"), groups, calls, cases(3, 1))


def test_there_are_more_than_100_files_of_different_content(session):
    contents = set()
    for title, file in session.files.items():
        is_small = os.path.isfile(file["path"]) and os.path.getsize(file["path"]) < 100_000_000
        contents.add(Path(file["path"]).read_bytes() if is_small else title)
    assert len(contents) > 250
    assert {file["group"] for file in session.files.values()} >= {"ordinary", "swollen", "amplified"}


def test_the_hook_sees_a_pickle_that_runs(session):
    # Shows that what watches the calls can see something.
    assert any(event.startswith("os.system") for event in session.control)
    assert any(event.startswith("pickle.find_class") for event in session.control)


def test_nothing_of_any_file_runs(session):
    assert session.where(lambda _, call: call["events"]) == {}
    assert session.left == []


def test_every_call_ends_and_no_error_but_ours_gets_out(session):
    def wrong(_, call):
        stray = "MARLIN_CKPT_TRACEBACK" in call["err"] or "Traceback" in call["err"]
        return call["code"] if isinstance(call["code"], str) else stray and call["err"]

    assert session.where(wrong) == {}


def test_load_refuses_what_is_not_harmless_with_exit_code_3(session):
    codes = {"refused": (3,), "perhaps": (0, 3), "error": (1, 4)}

    def wrong(file, call):
        return call["call"] == "load" and call["code"] not in codes[file["loads"]] and str(call["code"])

    assert session.where(wrong) == {}


def test_resuming_from_a_hostile_file_exits_3(session, cases):
    trained = [call for call in session.calls if call["call"] == "train"]
    assert len(trained) > cases(3, 10)
    assert [call for call in trained if call["code"] != 3] == []


def test_verify_exits_3_for_a_container_that_lies(session):
    def wrong(file, call):
        return (
            call["call"].startswith("verify") and call["code"] not in file["verified"] and str(call["code"])
        )

    assert session.where(wrong) == {}


def stops_a_search(call: dict[str, Any]) -> bool:
    """Whether a file is refused that would take too much to be read: it may be sound, and the newest."""
    return call["call"] == "latest --intact" and call["code"] == 3 and "refused" in call["err"]


def test_list_latest_and_clean_pass_over_what_is_hostile(session):
    codes = {"list": (0,), "list --json": (0,), "clean": (0,), "latest": (0, 4), "latest --intact": (0, 4)}

    def wrong(_, call):
        is_right = stops_a_search(call) or call["code"] in codes.get(call["call"], (call["code"],))
        return not is_right and str(call["code"])

    assert session.where(wrong) == {}


def test_list_marks_as_not_intact_what_verify_finds_in_the_structure(session):
    marked = session.where(lambda _, call: call["call"] == "list" and " no: " in call["out"])
    listed = {call["title"] for call in session.calls if call["call"] == "list"}
    lying = {title for title in listed if title.startswith("manifest: ")}
    corrupt = {(title, "list") for title in lying if session.files[title]["verified"] == [3]}
    assert corrupt
    assert corrupt <= marked.keys()


def test_latest_intact_exits_4_where_verify_finds_the_only_file_corrupt(session):
    verified = {call["title"]: call["code"] for call in session.calls if call["call"] == "verify"}

    def wrong(_, call):
        is_corrupt = verified.get(call["title"]) == 3 and not stops_a_search(call)
        return call["call"] == "latest --intact" and is_corrupt and call["code"] != 4 and str(call["code"])

    assert session.where(wrong) == {}


def test_whatever_is_printed_is_harmless_to_a_terminal(session):
    def wrong(_, call):
        out = "" if call["call"] in BYTES_AS_THEY_ARE else call["out"]
        return [line for line in f"{out}\n{call['err']}".split("\n") if not line.isprintable()]

    assert session.where(wrong) == {}


def is_slow(_: dict[str, Any], call: dict[str, Any]) -> float:
    return call["busy"] if call["busy"] > MOST_SECONDS else 0


def is_large(file: dict[str, Any], call: dict[str, Any]) -> int:
    size = os.path.getsize(file["path"]) if os.path.isfile(file["path"]) else 0
    return call["grown"] if call["grown"] > size + MOST_BYTES else 0


def test_no_call_takes_long(session):
    assert session.where(is_slow) == {}


def test_no_call_takes_more_memory_than_the_file_is_long_and_200_mb(session):
    assert session.where(is_large) == {}
