"""The file of a directory's events: torn ends, rotation, planted files, full disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from marlin_ckpt import StorageError
from marlin_ckpt.directory.history import journal, reading
from marlin_ckpt.directory.history.events import Measured, Saved
from marlin_ckpt.directory.history.recorder import History

OWN = ".marlin-ckpt"


def own_file(directory: Path, name: str = "events.jsonl") -> Path:
    return directory / OWN / name


def lines(directory: Path) -> list[bytes]:
    return list(journal.read(str(directory)))


def append(directory: Path, data: bytes, *, is_durable: bool = False) -> None:
    journal.append(str(directory), data, is_durable=is_durable)


def test_lines_come_back_in_order_and_a_directory_without_a_history_has_none(tmp_path):
    assert lines(tmp_path) == []
    assert not journal.exists(str(tmp_path))
    append(tmp_path, b"one\ntwo\n")
    append(tmp_path, b"three\n", is_durable=True)
    assert lines(tmp_path) == [b"one", b"two", b"three"]
    assert journal.exists(str(tmp_path))


def test_a_line_without_its_end_is_left_out_and_cut_off_before_the_next(tmp_path):
    append(tmp_path, b"one\n")
    with own_file(tmp_path).open("ab") as file:
        file.write(b"ha")
    assert lines(tmp_path) == [b"one"]
    append(tmp_path, b"two\n")
    assert own_file(tmp_path).read_bytes() == b"one\ntwo\n"


def test_what_is_longer_than_any_line_of_ours_swallows_none(tmp_path):
    append(tmp_path, b"one\n")
    with own_file(tmp_path).open("ab") as file:
        file.write(b"x" * (journal.LONGEST_LINE + 3))
    append(tmp_path, b"two\n")
    first, others, last = lines(tmp_path)
    assert (first, last) == (b"one", b"two")
    assert len(others) == journal.LONGEST_LINE + 1


def test_a_full_file_becomes_the_newest_of_four_older_ones_and_the_oldest_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MOST_BYTES", 4)
    for number in range(7):
        append(tmp_path, b"%03d\n" % number)
    assert sorted(os.listdir(tmp_path / OWN)) == [
        "events.1.jsonl", "events.2.jsonl", "events.3.jsonl", "events.4.jsonl", "events.jsonl",
    ]  # fmt: skip
    assert lines(tmp_path) == [b"%03d" % number for number in range(2, 7)]


@pytest.mark.parametrize("plant", ["link", "fifo", "folder", "socket of a link"])
def test_what_is_planted_in_the_place_of_the_file_is_refused_at_once_and_no_save_is_stopped(
    tmp_path, plant, caplog
):
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs\n")
    here = tmp_path / "here"
    (here / OWN).mkdir(parents=True)
    if plant == "link":
        own_file(here).symlink_to(outside)
    elif plant == "fifo":
        os.mkfifo(own_file(here))
    elif plant == "folder":
        own_file(here).mkdir()
    else:
        (here / OWN).rmdir()
        (here / OWN).symlink_to(tmp_path)
    history = History(str(here))
    history.write(Saved(name="a"), is_durable=True)
    history.write(Saved(name="b"), is_durable=True)
    assert outside.read_bytes() == b"theirs\n"
    assert len([one for one in caplog.records if "is not written" in one.getMessage()]) == 1
    if plant == "folder":
        return
    with pytest.raises(StorageError):
        reading.read(str(here))


def test_a_directory_that_was_removed_is_not_made_again(tmp_path, caplog):
    history = History(str(tmp_path / "gone"))
    history.write(Saved(name="a"))
    assert not (tmp_path / "gone").exists()
    assert "is not written" in caplog.text


def refused(number: int):
    def refuse(*_, **__) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("what", "number"), [("write_all", errno.ENOSPC), ("fsync", errno.EIO), ("write_all", errno.EIO)]
)
def test_what_a_full_or_broken_disk_refuses_is_written_with_the_next_event_and_once(
    tmp_path, monkeypatch, caplog, what, number
):
    history = History(str(tmp_path))
    history.write(Saved(name="a"), is_durable=True)
    with monkeypatch.context() as patch:
        place = os if what == "fsync" else journal
        patch.setattr(place, what, refused(number))
        history.write(Saved(name="b"), is_durable=True)
        history.write(Saved(name="c"), is_durable=True)
    history.write(Saved(name="d"), is_durable=True)
    assert [one.name for one in reading.read(str(tmp_path)).events] == ["a", "b", "c", "d"]
    assert len([one for one in caplog.records if "is not written" in one.getMessage()]) == 1


def test_half_a_write_that_fails_leaves_no_half_line(tmp_path, monkeypatch):
    append(tmp_path, b"one\n")

    def half(fd, data) -> None:
        os.write(fd, bytes(data)[:3])
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", half)
        with pytest.raises(OSError, match="no space"):
            append(tmp_path, b"two two\n")
    assert own_file(tmp_path).read_bytes() == b"one\n"


@pytest.mark.parametrize(("rank", "is_written"), [("0", True), ("", True), ("1", False), ("7", False)])
def test_only_the_first_rank_writes(tmp_path, monkeypatch, rank, is_written):
    monkeypatch.setenv("RANK", rank)
    History(str(tmp_path)).write(Saved(name="a"), is_durable=True)
    assert journal.exists(str(tmp_path)) is is_written


def test_what_is_noted_touches_no_disk_and_the_first_durable_line_makes_the_names_durable(
    tmp_path, monkeypatch
):
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    history = History(str(tmp_path))
    history.note(Measured(epoch=1))
    assert (os.listdir(tmp_path), synced) == ([], [])
    history.write(Measured(epoch=2))
    assert synced == [tmp_path.name]  # that our own folder is there
    synced.clear()
    history.write(Measured(epoch=3))
    assert synced == []
    history.write(Saved(name="a"), is_durable=True)
    assert synced == ["events.jsonl", OWN]
    synced.clear()
    history.write(Saved(name="b"), is_durable=True)
    assert synced == ["events.jsonl"]
