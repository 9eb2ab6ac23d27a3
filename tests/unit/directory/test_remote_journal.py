"""The events of a directory in an object store: none is lost or told twice, whoever writes beside."""

from __future__ import annotations

import re
import threading

import pytest

from marlin_ckpt.directory.history import journal as history
from marlin_ckpt.directory.history.events import Event
from marlin_ckpt.directory.history.lines import to_line
from marlin_ckpt.directory.remote import journal
from marlin_ckpt.errors import StorageError
from marlin_ckpt.storage import paths
from marlin_ckpt.storage.s3 import retrying
from marlin_ckpt.storage.s3.uploading.parts import Upload
from tests.support.s3_stores import settings


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_FIRST_S", 0.01)


def line(at: int, run_id: str = "a") -> bytes:
    return to_line(Event(run_id=run_id, at=f"2026-11-27T10:00:00.{at:03d}Z"))


def append(url: str, lines: bytes) -> None:
    history.append(url, lines, is_durable=True)


def another_process() -> None:
    journal._open.clear()


def read(url: str) -> list[tuple[str, int]]:
    """The runs and milliseconds of the events."""
    found = (re.search(rb'\.(\d+)Z".*"run_id":"(.*?)"', one) for one in history.read(url))
    return [(one[2].decode(), int(one[1])) for one in found]


def objects(url: str) -> tuple[str, ...]:
    with paths.open_remote(url) as store:
        return tuple(one.name for one in store.items(".marlin-ckpt/events"))


def test_events_of_writers_at_the_same_time_are_read_in_the_order_of_their_times(s3: str):
    assert not history.exists(s3)
    append(s3, line(1))
    first = dict(journal._open)
    another_process()
    append(s3, line(2, "b"))
    second = dict(journal._open)
    journal._open.update(first)
    append(s3, line(3))
    journal._open.update(second)
    append(s3, line(4, "b"))
    assert len(objects(s3)) == 2
    assert history.exists(s3)
    assert read(s3) == [("a", 1), ("b", 2), ("a", 3), ("b", 4)]


def test_a_writer_whose_clock_is_wrong_is_read_after_one_that_had_ended_before(s3: str, monkeypatch):
    append(s3, line(500))
    another_process()
    with paths.open_remote(s3) as store:
        later = store.now_s() + 10
    monkeypatch.setattr(journal.S3Store, "now_s", lambda _: later)
    append(s3, line(1, "b") + line(2, "b"))
    assert read(s3) == [("a", 500), ("b", 1), ("b", 2)]


def test_a_batch_that_arrived_though_its_answer_was_lost_is_not_told_twice(s3: str, monkeypatch):
    commit = Upload.commit

    def lost(upload: Upload, condition: dict[str, str]) -> str:
        commit(upload, condition)
        raise StorageError("the answer was lost", s3)

    for at in (1, 3):  # the first batch of an object, and a later one
        with monkeypatch.context() as patch:
            patch.setattr(Upload, "commit", lost)
            with pytest.raises(StorageError, match="was lost"):
                append(s3, line(at))
        append(s3, line(at) + line(at + 1))  # as `History` tries it again
    assert read(s3) == [("a", 1), ("a", 2), ("a", 3), ("a", 4)]
    assert len(objects(s3)) == 1


def test_what_this_process_has_written_is_written_again_where_somebody_has_removed_it(s3: str):
    append(s3, line(1))
    with paths.open_remote(s3) as store:
        name = objects(s3)[0]
        store.remove(name, store.head(name).identity)
    append(s3, line(2))
    assert read(s3) == [("a", 1), ("a", 2)]


def test_an_object_that_goes_while_events_are_read_is_no_error(s3: str, monkeypatch):
    for run_id in "abc":
        another_process()
        append(s3, line(1, run_id))
    gone = objects(s3)[1]
    open_ = journal.S3Store.open

    def opened(store, name):
        if name == gone:
            store.remove(name, store.head(name).identity)
        return open_(store, name)

    monkeypatch.setattr(journal.S3Store, "open", opened)
    assert len(read(s3)) == 2


def test_many_events_take_few_objects_and_three_requests_a_batch(s3: str, proxy):
    paths.use(s3, settings(proxy.endpoint))
    append(s3, line(0))
    proxy.seen.clear()
    for number in range(10):
        append(s3, b"".join(line(number) for _ in range(1000)))
    assert 10 <= len(proxy.seen) <= 30
    proxy.seen.clear()
    assert len(read(s3)) == 10_001
    assert 1 <= len(proxy.seen) <= 6
    assert len(objects(s3)) <= 5


def test_threads_of_one_process_lose_no_event_of_each_other(s3: str):
    threads = [threading.Thread(target=append, args=(s3, line(number))) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(read(s3)) == [("a", number) for number in range(8)]


@pytest.fixture
def loses(s3: str, monkeypatch: pytest.MonkeyPatch):
    """Adds lines that arrive, of which the answer is lost for so long that their writer gives up."""
    commit = Upload.commit

    def lost(upload: Upload, condition: dict[str, str]) -> str:
        commit(upload, condition)
        raise StorageError("the answer was lost", s3)

    def add(lines: bytes) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Upload, "commit", lost)
            with pytest.raises(StorageError, match="was lost"):
                append(s3, lines)

    return add


@pytest.mark.parametrize("known", [b"", line(0)], ids=["the first batch", "a later one"])
def test_a_batch_that_arrived_unheard_is_not_told_twice_where_another_writer_of_the_process_comes_first(
    s3: str, loses, known: bytes
):
    if known:
        append(s3, known)
    loses(line(1))
    loses(line(2, "b"))
    append(s3, line(3, "c"))
    append(s3, line(1) + line(4))  # as each `History` tries it again, with what came since
    append(s3, line(2, "b"))
    assert read(s3) == [("a", 0)] * bool(known) + [("a", 1), ("b", 2), ("c", 3), ("a", 4)]
    assert len(objects(s3)) == 1


def test_a_batch_that_arrived_unheard_in_an_object_that_is_full_is_not_told_twice(
    s3: str, loses, monkeypatch
):
    monkeypatch.setattr(journal, "_MOST_BYTES", 2 * len(line(1)))
    append(s3, line(1))
    loses(line(2))
    append(s3, line(2) + line(3))
    assert read(s3) == [("a", 1), ("a", 2), ("a", 3)]
    assert len(objects(s3)) == 2
