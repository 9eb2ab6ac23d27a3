"""`marlin-ckpt log`: what happened in the runs of a directory, a line for each event."""

from __future__ import annotations

import json
import os
import socket

import pytest

from marlin_ckpt import CheckpointDirectory
from marlin_ckpt.directory.history.events import KINDS, Ended, Event, Saved, Started
from tests.support.histories import (
    ONE,
    OTHER,
    at,
    killed_and_resumed,
    log_directory,
    of_another_run,
    save,
    write,
)
from tools import schemas


@pytest.fixture(autouse=True)
def _in_utc(in_zone, monkeypatch):
    in_zone("UTC")
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def directory(tmp_path):
    return log_directory(tmp_path / "runs")


def test_each_event_has_a_line_with_its_time_its_run_and_what_happened(log, directory):
    cost = "(1.4 GB, stall 20 ms, 900 ms to write)"
    versions, newer = "marlin-ckpt 0.2.0, torch 2.13.0", "torch 2.13.1 (was 2.13.0)"
    assert log(directory) == [
        f"2026-11-27 12:00:00  3fa1c2  began: run {ONE}, 1 rank, commit abc1234, {versions}",
        "2026-11-27 12:01:00  3fa1c2  epoch 0, step 300  val_loss 0.9",
        f"2026-11-27 12:01:00  3fa1c2  saved model_0.pt {cost}  val_loss 0.9",
        f"2026-11-27 12:02:00  3fa1c2  saved model_1.pt {cost}  val_loss 0.45",
        f"2026-11-27 12:03:00  3fa1c2  saved model_2.pt {cost}  val_loss 0.3",
        "2026-11-27 12:03:01  3fa1c2  removed model_0.pt: not among the last 2",
        "2026-11-27 12:04:00  3fa1c2  save failed: model_3.pt: No space left on device",
        "2026-11-27 12:10:00  3fa1c2  killed, or cut off: no end is recorded after 2026-11-27 12:04:00",
        f"2026-11-27 12:10:00  3fa1c2  began again: 2 ranks (was 1), commit def5678, {newer}",
        "2026-11-27 12:10:01  3fa1c2  resumed from model_1.pt, passing over model_2.pt: corrupt: data/3",
        "2026-11-27 12:11:00  3fa1c2  SIGTERM at step 700",
        f"2026-11-27 12:11:00  3fa1c2  saved model_3.pt {cost}  val_loss nan",
        "2026-11-27 12:11:01  3fa1c2  ended: stopped after 2 epochs, 700 steps",
        f"2026-11-27 12:20:00  3fa2d4  began: run {OTHER}, 1 rank",
        f"2026-11-27 12:20:01  3fa2d4  resumed from model_3.pt of run {ONE}",
        f"2026-11-27 12:21:00  3fa2d4  saved model_4.pt {cost}",
        "2026-11-27 12:22:00  3fa2d4  ended: failed after 1 epoch, 9 steps: ValueError: bad\\ndata",
        "2026-11-27 12:23:00  3fa2d4  clean removed model_4.pt: older than 7d",
    ]  # fmt: skip


def test_where_there_is_one_run_no_line_names_it_but_that_of_its_start(log, tmp_path):
    lines = log(write(tmp_path, *killed_and_resumed(), names=("model_1.pt", "model_2.pt", "model_3.pt")))
    assert [line for line in lines if ONE[:6] in line] == lines[:1]
    assert lines[1] == "2026-11-27 12:01:00  epoch 0, step 300  val_loss 0.9"


def test_options_choose_lines_and_turn_their_order_round(log, directory):
    everything = log(directory)
    assert log(directory, "--reverse") == everything[::-1]
    assert log(directory, "-n", "3") == everything[-3:]
    assert log(directory, "-n", "2", "--reverse") == everything[:-3:-1]
    assert log(directory, "--since", "2026-11-27 12:22:00") == everything[-2:]
    of_one = [line.replace("3fa1c2  ", "") for line in everything if "  3fa1c2  " in line]
    assert log(directory, "--run", "3fa1") == log(directory, "--run", ONE) == of_one


def test_times_are_those_of_this_machine_and_since_takes_them_as_they_are_printed(log, directory, in_zone):
    in_zone("Asia/Kolkata")
    last = log(directory)[-1]
    assert last.startswith("2026-11-27 17:53:00  ")
    assert log(directory, "--since", last[:19]) == [last]


def test_a_start_like_the_one_before_it_says_so(log, tmp_path):
    began = killed_and_resumed()[0]
    again = Started(**{**began.facts(), "run_id": ONE, "at": at(2)})
    lines = log(write(tmp_path, began, Ended(run_id=ONE, at=at(1), epochs=1, step=1), again, _ended(3)))
    assert lines[1:3] == [
        "2026-11-27 12:01:00  ended: finished after 1 epoch, 1 step",
        "2026-11-27 12:02:00  began again: as before",
    ]


def _ended(minute: int) -> Ended:
    return Ended(run_id=ONE, at=at(minute))


def test_a_checkpoint_that_somebody_took_away_is_said_to_be_gone(log, tmp_path):
    lines = log(write(tmp_path, save(0, 1), save(1, 2), _ended(3), names=("model_1.pt",)))
    assert lines[0].endswith(
        "model_0.pt (1.4 GB, stall 20 ms, 900 ms to write); it is no longer there  val_loss 0.9"
    )
    assert "no longer" not in lines[1]


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("", "was killed: it has no end, and its process has gone"),
        ("elsewhere", "has no end yet: it runs, or was killed"),
        (socket.gethostname(), "runs"),
    ],
)
def test_of_a_run_without_an_end_stderr_says_whether_it_runs(run_main, tmp_path, host, says):
    directory = write(tmp_path, *killed_and_resumed()[:2])
    if host:
        holder = {"run_id": ONE, "host": host, "pid": os.getpid()}
        (directory / ".marlin-ckpt" / "lease.json").write_text(json.dumps(holder))
    code, out, err = run_main("log", directory)
    assert (code, len(out.splitlines())) == (0, 2)
    assert err == f"run {ONE} {says}\n"


def test_where_no_event_is_as_new_as_asked_that_is_said(run_main, directory):
    assert run_main("log", directory, "--since", "2100-01-01") == (0, "", "no such events\n")


def test_brief_leaves_out_what_there_is_much_of(log, directory):
    many = ("epoch", "saved", "removed", "clean")
    lines = [line for line in log(directory) if line[29:].split()[0].rstrip(",") not in many]
    assert log(directory, "--brief") == lines
    assert len(lines) == 10


def test_lines_that_are_damaged_or_of_a_newer_version_are_counted_and_the_others_shown(run_main, tmp_path):
    lines = b'{"event":"started"\nnoise\n{"event":"teleported","at":"2030-01-01T00:00:00.000Z"}\n'
    code, out, err = run_main("log", write(tmp_path, _ended(1), lines=lines))
    assert (code, out) == (0, "2026-11-27 12:01:00  ended: finished after 0 epochs, 0 steps\n")
    assert err.splitlines() == [
        "warning: 2 lines of the history cannot be read: damaged, or not ours",
        "warning: 1 event of a kind that a newer marlin-ckpt writes",
    ]


def test_an_empty_directory_is_said_to_be_empty(run_main, tmp_path):
    said = f"error: no history found: {tmp_path}\nhint: it is empty\n"
    assert run_main("log", tmp_path) == (4, "", said)


@pytest.mark.parametrize("lines", [None, b"", b"noise\n"], ids=["no folder", "empty", "damage alone"])
def test_a_directory_without_a_history_exits_4_and_the_hint_is_list(run_main, tmp_path, lines):
    (tmp_path / "model_0.pt").touch()
    if lines is not None:
        write(tmp_path, lines=lines)
    code, out, err = run_main("log", tmp_path)
    assert (code, out) == (4, "")
    assert err.splitlines()[-2:] == [
        f"error: no history found: {tmp_path}",
        f"hint: version 0.1 and other tools keep none; marlin-ckpt list {tmp_path} shows the checkpoints",
    ]


def test_where_a_directory_below_has_a_history_the_hint_names_it(run_main, directory):
    code, _, err = run_main("log", directory.parent)
    assert code == 4
    assert (
        err.splitlines()[-1] == f"hint: marlin-ckpt log {directory} prints the history of a directory in it"
    )


def test_a_directory_that_is_not_there_exits_4(run_main, tmp_path):
    assert run_main("log", tmp_path / "none")[0] == 4


def test_a_run_that_is_not_there_exits_4_and_one_that_may_be_several_2(run_main, directory):
    code, out, err = run_main("log", directory, "--run", "ff")
    assert (code, out) == (4, "")
    assert err.splitlines() == [
        f"error: no history of run ff found: {directory}",
        f"hint: it has runs {ONE}, {OTHER}",
    ]
    code, out, err = run_main("log", directory, "--run", "3fa")
    assert (code, out) == (2, "")
    assert f"'3fa' is the beginning of several ids: {ONE}, {OTHER}" in err


@pytest.mark.parametrize("option", [("--since", "soon"), ("-n", "0"), ("-n", "x")])
def test_a_value_that_is_no_time_or_no_number_is_a_usage_error(run_main, directory, option):
    assert run_main("log", directory, *option)[0] == 2


HOSTILE = "a\x1b[2J\u202eb\nc"


def test_texts_of_a_history_never_move_the_cursor(run_main, tmp_path):
    hostile = [type(one)(**{**_hostile(one), "at": HOSTILE}) for one in killed_and_resumed()]
    code, out, _ = run_main("log", write(tmp_path, *hostile, *of_another_run()))
    assert code == 0
    assert "a\\x1b[2J\\u202eb\\nc" in out
    assert out.replace("\n", "").isprintable()
    assert len(out.splitlines()) == 17  # of a start by somebody unknown no end is missed


def _hostile(event: Event) -> dict[str, object]:
    """Its facts, with a hostile text in the place of each text."""
    facts = {**event.facts(), "run_id": event.run_id}
    texts = {name: HOSTILE for name, one in facts.items() if isinstance(one, str)}
    maps = {name: {HOSTILE: HOSTILE} for name in ("versions", "passed_over") if name in facts}
    return {**facts, **texts, **maps, **({"metrics": {HOSTILE: 1.0}} if "metrics" in facts else {})}


def test_the_document_has_each_start_of_each_run_and_the_events_as_the_history_has_them(run_main, directory):
    code, out, err = run_main("log", directory, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["schema"] == "marlin-ckpt/log/1"
    one, other = document["runs"]
    assert [start["how"] for start in one["starts"]] == ["killed", "stopped"]
    assert one["starts"][1]["resumed_from"] == {
        "name": "model_1.pt",
        "index": 1,
        "run_id": ONE,
        "save_number": 2,
        "passed_over": {"model_2.pt": "corrupt: data/3"},
    }
    assert other["starts"][0]["resumed_from"]["run_id"] == ONE
    assert other["starts"][0]["error"] == "ValueError: bad\ndata"
    lines = (directory / ".marlin-ckpt" / "events.jsonl").read_text().splitlines()
    assert document["events"] == [json.loads(line) for line in lines]


def test_the_document_has_the_events_that_are_chosen(run_main, directory):
    document = json.loads(run_main("log", directory, "--run", OTHER, "-n", "2", "--reverse", "--json")[1])
    assert [one["at"] for one in document["events"]] == [at(23), at(22)]
    assert [one["run_id"] for one in document["runs"]] == [OTHER]


def test_the_schema_describes_each_fact_of_each_kind_of_event():
    schema = schemas.read("log")["$defs"]["event"]["properties"]
    facts = {name for kind in KINDS.values() for name in kind().facts()}
    assert {*schema} == {"event", "at", "run_id", *facts}
    assert all(f"`{kind}`" in schema["event"]["description"] for kind in KINDS)


def test_a_name_that_leads_out_of_the_directory_is_looked_for_and_never_opened(log, tmp_path):
    event = Saved(run_id=ONE, at=at(1), name="../" * 3 + "/etc/passwd\0")
    assert "no longer there" in log(write(tmp_path / "a", event, _ended(2)))[0]


def test_the_only_run_that_there_is_is_named_as_one(run_main, tmp_path):
    with CheckpointDirectory(tmp_path / "runs") as runs:
        runs.save({"step": 0}, 0)
    hints = {
        command: run_main(command, tmp_path / "runs", "--run", "zz")[2].splitlines()[-1]
        for command in ("log", "list")
    }
    assert hints["log"].startswith("hint: it has run ")
    assert hints["list"].startswith("hint: there is run ")
