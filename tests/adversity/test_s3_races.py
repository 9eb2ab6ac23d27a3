"""Processes that take the lease of a directory in a store, write its history or move things, all at once."""

from __future__ import annotations

import json
import os
import sys
import threading

import pytest

from marlin_ckpt.cli.main import main
from marlin_ckpt.directory.history import journal
from marlin_ckpt.directory.history.events import Event
from marlin_ckpt.directory.history.recorder import History
from marlin_ckpt.storage import paths
from tests.support import s3_servers, warm
from tests.support.faulty_proxy import Fault, at_random
from tests.support.folders import REPOSITORY, SUPPORT
from tests.support.s3_stores import read, settings, write

RACERS = 12


def test_of_twelve_processes_one_takes_the_lease_and_the_others_name_it_also_over_one_that_has_ended(
    s3, s3_endpoint, cases
):
    races = ["nothing", *cases(["expired"], ["let-go", "expired", "killed"] * 10)]
    command = [sys.executable, str(SUPPORT / "lease_races.py"), s3, str(RACERS), *races]
    environment = {**os.environ, **s3_servers.environment(s3_endpoint), "PYTHONPATH": str(REPOSITORY)}
    done = warm.run(command, env=environment, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert [one["before"] for one in found] == races
    for one in found:
        (winner,) = one["winners"]
        assert (one["named"], one["odd"], one["stored"]) == ([winner], [], winner), one


def write_history(url: str, run_id: str, batches: int) -> None:
    history = History(url)
    for number in range(batches):
        history.write(Event(run_id=run_id, at=f"2026-11-27T10:{number // 60:02d}:{number % 60:02d}.000Z"))
    for _ in range(100):
        if history._waiting:
            history.write(is_durable=True)


@pytest.mark.usefixtures("short_pauses")
def test_of_two_that_write_a_history_while_answers_are_lost_no_event_is_missing_or_told_twice(
    s3, proxy, cases
):
    batches = cases(10, 300)
    paths.use(s3, settings(proxy.endpoint, give_up_after="0.1s"))  # so that some batches fail
    proxy.rule = at_random(1, 0.6, Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.CUT_UP, Fault.CUT_DOWN)
    children = []
    for run_id in "ab":
        children.append(os.fork())
        if not children[-1]:
            code = 70
            try:
                write_history(s3, run_id, batches)
                code = 0
            finally:
                os._exit(code)
    assert [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in children] == [0, 0]
    proxy.reset()
    found = [json.loads(line) for line in journal.read(s3)]
    for run_id in "ab":
        told = [one["at"] for one in found if one["run_id"] == run_id]
        assert len(told) == batches
        assert told == sorted(set(told))


@pytest.mark.usefixtures("short_pauses")
def test_a_removal_and_an_undo_at_the_same_time_leave_one_copy_where_no_run_has_ever_saved(s3, proxy):
    """The undo comes between the copy to the trash and the removal, each of which takes the other's copy."""
    paths.use(s3, settings(proxy.endpoint))
    with paths.open_remote(s3) as store:
        write(store, data=b"data")
    waiting, begins = os.pipe()
    child = os.fork()
    if not child:
        code = 70
        try:
            os.read(waiting, 1)
            code = main(["clean", s3, "--undo"])
        finally:
            os._exit(code)
    removing, has_found_it_held = threading.Event(), threading.Event()

    def meets(request) -> None:
        if request.kind == "DeleteObject" and request.key.endswith("/model_1.pt") and not removing.is_set():
            removing.set()
            os.write(begins, b"x")
            has_found_it_held.wait(10)
        elif request.kind == "GetObject" and request.key.endswith("/lease.json") and removing.is_set():
            has_found_it_held.set()

    proxy.reset()
    proxy.rule = meets
    assert main(["clean", s3, "--to-trash", "--yes"]) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(waiting)
    os.close(begins)
    assert has_found_it_held.is_set()
    proxy.reset()
    kept = [one.name for one in store.items() if not one.name.startswith(".marlin-ckpt/events/")]
    assert kept == ["model_1.pt"]  # and no lease
    assert read(store) == b"data"
