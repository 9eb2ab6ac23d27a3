"""The file of a directory's events when several write at once: threads, processes, forks, handlers."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from marlin_ckpt.directory.history import journal, reading
from marlin_ckpt.directory.history.events import Measured, Saved
from marlin_ckpt.directory.history.recorder import History


def own_file(directory: Path) -> Path:
    return directory / ".marlin-ckpt" / "events.jsonl"


def lines(directory: Path) -> list[bytes]:
    return list(journal.read(str(directory)))


def append(directory: Path, data: bytes) -> None:
    journal.append(str(directory), data, is_durable=False)


def test_nobody_waits_for_long_for_a_process_that_keeps_the_lock(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "PATIENCE_S", 0.0)
    history = History(str(tmp_path))
    history.write(Saved(name="a"))
    with own_file(tmp_path).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        history.write(Saved(name="b"))
    assert "another process keeps it locked" in caplog.text
    history.write(Saved(name="c"))
    assert [one.name for one in reading.read(str(tmp_path)).events] == ["a", "b", "c"]


def test_only_the_first_write_waits_for_a_process_that_keeps_the_lock(tmp_path, monkeypatch):
    history, clock, slept = History(str(tmp_path)), [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    history.write(Saved(name="a"))
    for names in (["b", "c"], ["d", "e"]):
        with own_file(tmp_path).open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            slept.clear()
            history.write(Saved(name=names[0]))
            assert sum(slept) == pytest.approx(journal.PATIENCE_S, abs=0.01)
            slept.clear()
            history.write(Saved(name=names[1]))
            assert slept == []
        history.write(Saved(name="free again"))
    names = [one.name for one in reading.read(str(tmp_path)).events]
    assert names == ["a", "b", "c", "free again", "d", "e", "free again"]


def test_a_process_that_is_forked_during_a_write_does_not_keep_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PATIENCE_S", 0.0)
    lasts, end = os.pipe()
    children = []
    real = journal.write_all

    def write_all(fd: int, data: memoryview) -> None:
        child = os.fork()
        if not child:
            os.close(end)
            os.read(lasts, 1)
            os._exit(0)
        children.append(child)
        real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", write_all)
        append(tmp_path, b"one\n")
    try:
        append(tmp_path, b"two\n")
    finally:
        os.close(end)
        os.close(lasts)
        os.waitpid(children[0], 0)
    assert lines(tmp_path) == [b"one", b"two"]


@pytest.mark.parametrize("theirs", [b"theirs\n", b"theirs\nhal"])
def test_a_file_that_another_process_begins_in_the_middle_of_a_rotation_keeps_its_lines(
    tmp_path, monkeypatch, theirs
):
    monkeypatch.setattr(journal, "MOST_BYTES", 8)
    append(tmp_path, b"earlier\n")
    real = journal._rotate

    def rotate(folder: int) -> None:
        real(folder)
        own_file(tmp_path).write_bytes(theirs)

    monkeypatch.setattr(journal, "_rotate", rotate)
    append(tmp_path, b"ours\n")
    assert lines(tmp_path) == [b"earlier", b"theirs", b"ours"]


def test_a_handler_that_interrupts_a_write_waits_for_nothing_and_its_event_comes_with_the_next(
    tmp_path, monkeypatch
):
    history = History(str(tmp_path))
    real = journal.append
    monkeypatch.setattr(journal, "PATIENCE_S", 0.0)

    def interrupted(*args, **kwargs) -> None:
        if not history.__dict__.setdefault("has_been", False):
            history.__dict__["has_been"] = True
            history.write(Saved(name="of the handler"))
        real(*args, **kwargs)

    monkeypatch.setattr(journal, "append", interrupted)
    history.write(Saved(name="a"))
    history.write(Saved(name="b"))
    assert [one.name for one in reading.read(str(tmp_path)).events] == ["a", "of the handler", "b"]


def test_threads_and_processes_that_write_at_once_lose_no_line_even_where_files_rotate(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MOST_BYTES", 20_000)
    each = 60

    def write(who: int) -> None:
        history = History(str(tmp_path))
        for index in range(each):
            history.write(Saved(name=f"{who}", index=index), is_durable=index % 20 == 0)

    children = []
    for who in (0, 1):
        child = os.fork()
        if not child:
            write(who)
            os._exit(0)
        children.append(child)
    threads = [threading.Thread(target=write, args=(who,)) for who in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    past = reading.read(str(tmp_path))
    assert (past.unread, past.newer) == (0, 0)
    assert len(os.listdir(own_file(tmp_path).parent)) > 2
    for who in range(4):
        assert [one.index for one in past.events if one.name == str(who)] == list(range(each))


def test_a_forked_child_leaves_what_its_parent_has_noted_to_the_parent(tmp_path):
    history = History(str(tmp_path))
    history.note(Measured(epoch=1))
    child = os.fork()
    if not child:
        history.write(Saved(name="of the child"))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    history.write(Saved(name="of the parent"))
    kinds = [getattr(one, "name", "measured") for one in reading.read(str(tmp_path)).events]
    assert kinds == ["of the child", "measured", "of the parent"]
