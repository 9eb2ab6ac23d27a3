"""The runs and lines that are made of the events of a history."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.directory.history.events import BroughtBack, Ended, Measured, Removed, Started
from marlin_ckpt.directory.runs import beginning_with
from marlin_ckpt.operations.history.lineage import runs_of
from marlin_ckpt.operations.history.rows import Unended, choose, rows_of, short_ids
from tests.support.histories import ONE, OTHER, at, killed_and_resumed, of_another_run, save

EVENTS = [*killed_and_resumed(), *of_another_run()]


def everything(_name):
    return True


def test_a_start_without_an_end_was_killed_if_the_run_was_started_again():
    one, other = runs_of(EVENTS)
    assert [(start.how, start.saves, start.failed_saves) for start in one.starts] == [
        ("killed", 3, 1),
        ("stopped", 1, 0),
    ]
    assert [start.how for start in other.starts] == ["failed"]
    assert one.starts[1].resumed.name == "model_1.pt"
    assert one.starts[0].last.at == at(4)


def _holder(**facts):
    return {"run_id": ONE, "host": socket.gethostname(), "pid": os.getpid(), **facts}


@pytest.fixture(scope="module")
def dead() -> int:
    """The id of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@pytest.mark.parametrize(
    ("holder", "how"),
    [
        (None, "unknown"),
        ({}, "killed"),
        (_holder(), "running"),
        (_holder(run_id=""), "running"),
        (_holder(run_id=OTHER), "killed"),
        (_holder(host="elsewhere"), "unknown"),
        (_holder(pid="1"), "unknown"),
        (_holder(pid=1 << 99), "unknown"),
    ],
)
def test_the_last_start_without_an_end_runs_if_its_process_holds_the_lease(holder, how):
    (run,) = runs_of(EVENTS[:3], holder)
    assert [start.how for start in run.starts] == [how]


def test_a_process_that_has_gone_was_killed_though_the_lease_names_it(dead):
    assert runs_of(EVENTS[:3], _holder(pid=dead))[0].starts[0].how == "killed"


def test_who_holds_the_lease_says_nothing_about_starts_that_have_an_end_or_write_none():
    assert runs_of(EVENTS, {})[0].starts[1].how == "stopped"
    assert runs_of([Started(by="Saver")], {})[0].starts[0].how == "unknown"


def test_another_run_that_starts_meanwhile_says_nothing_about_the_first():
    one, other = runs_of([Started(run_id=ONE), Started(run_id=OTHER), save(0, 1)])
    assert (one.starts[0].how, one.starts[0].saves) == ("unknown", 1)
    assert (other.starts[0].how, other.starts[0].saves) == ("unknown", 0)


def test_a_run_whose_beginning_is_lost_has_a_start_that_did_not_begin():
    (run,) = runs_of(EVENTS[2:5])
    (start,) = run.starts
    assert (start.began, start.first.at, start.saves) == (None, at(1), 3)


def test_what_a_command_removes_is_of_the_run_that_saved_it_and_no_sign_of_its_life():
    removal = Removed(at=at(50), name="model_0.pt", by="clean")
    assert runs_of([removal]) == []
    began, again = (Started(by="Trainer", run_id=ONE, at=at(minute)) for minute in (1, 55))
    (run,) = runs_of([began, removal, BroughtBack(name="model_0.pt")])
    assert run.starts[0].last == began
    events = [began, save(0, 2), removal, BroughtBack(name="model_0.pt"), Removed(name="other"), again]
    rows = rows_of(events, everything)
    assert [row.run_id for row in rows] == [ONE, ONE, ONE, ONE, "", ONE, ONE]
    assert [row.event.since for row in rows if isinstance(row.event, Unended)] == [at(2)]


@pytest.mark.parametrize("by", ["CheckpointDirectory", "Saver", "transformers", ""])
def test_a_loop_that_writes_no_ends_is_not_said_to_have_been_killed(by):
    events = [Started(by=by, run_id=ONE), save(0, 1), Started(by=by, run_id=ONE), save(1, 2)]
    assert [row.event for row in rows_of(events, everything)] == events
    assert [start.how for start in runs_of(events)[0].starts] == ["unknown", "unknown"]


def test_the_line_on_a_kill_stands_before_the_start_that_shows_it():
    rows = rows_of(EVENTS, everything)
    (place,) = (number for number, row in enumerate(rows) if isinstance(row.event, Unended))
    assert (rows[place].event.since, rows[place].event.at, rows[place].event.run_id) == (at(4), at(10), ONE)
    assert rows[place + 1].event == EVENTS[7]
    assert rows[place + 1].before == EVENTS[0]
    assert [row.event for row in rows if not isinstance(row.event, Unended)] == EVENTS


def test_an_end_is_no_kill_and_the_events_after_it_do_not_open_the_start_again():
    start = Started(by="Trainer", run_id=ONE)
    rows = rows_of([start, Ended(run_id=ONE), save(0, 1), start], everything)
    assert not any(isinstance(row.event, Unended) for row in rows)


def test_a_save_is_gone_if_no_event_says_why_its_file_is_not_there():
    events = [save(0, 1), save(1, 2), save(2, 3), save(2, 4), Removed(name="model_0.pt")]
    rows = rows_of(events, lambda name: name == "model_1.pt")
    assert [row.is_gone for row in rows] == [False, False, False, True, False]


def test_a_checkpoint_that_was_brought_back_and_is_not_there_is_gone():
    events = [save(0, 1), Removed(name="model_0.pt"), BroughtBack(name="model_0.pt")]
    assert [row.is_gone for row in rows_of(events, lambda name: False)] == [True, False, False]


def test_lines_are_chosen_by_run_then_time_then_number():
    rows = rows_of(EVENTS, everything)
    assert {row.run_id for row in choose(rows, run_id=OTHER)} == {OTHER}
    assert [row.event.at for row in choose(rows, since_s=rows[-2].event.at_s())] == [at(22), at(23)]
    assert [row.event.at for row in choose(rows, last=2)] == [at(22), at(23)]
    assert choose(rows, run_id=ONE, last=1)[0].event == EVENTS[11]
    assert len(choose(rows, last=1000)) == len(rows)


def test_an_event_whose_time_cannot_be_read_is_in_no_range():
    assert choose(rows_of([Measured(at="soon")], everything), since_s=1) == []


_IDS = st.sets(st.text("ab3", min_size=1, max_size=12), min_size=1, max_size=8)


@given(_IDS)
def test_short_ids_are_beginnings_and_no_two_are_the_same(ids):
    short = short_ids(ids)
    assert set(short) == ids
    assert all(one.startswith(short[one]) for one in ids)
    assert all(short[one] != short[other] for one, other in itertools.combinations(ids, 2))


@given(_IDS)
def test_a_whole_id_means_its_run_whatever_begins_with_it(ids):
    assert all(beginning_with(one, ids) == [one] for one in ids)


def test_the_beginning_of_an_id_means_each_run_whose_id_begins_so():
    assert beginning_with("3fa", [ONE, OTHER]) == [ONE, OTHER]
    assert beginning_with("3fa1", [ONE, OTHER]) == [ONE]
    assert beginning_with("4", [ONE, OTHER]) == []
