"""The space of a large file that is replaced is given back while the program goes on."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from marlin_ckpt.storage.local import mounts
from marlin_ckpt.storage.local.publishing import publish
from marlin_ckpt.storage.target import Target


def write(path: Path, content: bytes, on_filled: list[str]) -> None:
    def fill(target: Target) -> None:
        on_filled.append("filled")
        target.put(content)

    publish(path, fill, len(content))


def deleted(directory: Path) -> list[str]:
    """The files without a name, of a directory, that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return [one for one in found if one.endswith("(deleted)") and one.startswith(f"{directory}/")]


@pytest.fixture
def any_size(monkeypatch) -> None:
    monkeypatch.setattr(mounts, "_LARGE_BYTES", 1)


@pytest.mark.usefixtures("any_size")
def test_a_save_ends_before_the_space_of_the_old_file_is_free_and_the_next_begins_after(
    tmp_path, monkeypatch
) -> None:
    events: list[str] = []
    may_free = threading.Event()
    real = mounts.close_quietly

    def close(fd: int) -> None:
        assert may_free.wait(60)
        events.append("freed")
        real(fd)

    path = tmp_path / "model_0.pt"
    write(path, b"old", [])
    monkeypatch.setattr(mounts, "close_quietly", close)
    write(path, b"new", events)
    assert (path.read_bytes(), events, len(deleted(tmp_path))) == (b"new", ["filled"], 1)
    next_one = threading.Thread(target=write, args=(path, b"newer", events))
    next_one.start()
    may_free.set()
    next_one.join()
    mounts.wait_until_given_back()
    assert (path.read_bytes(), events) == (b"newer", ["filled", "freed", "filled", "freed"])
    assert (deleted(tmp_path), os.listdir(tmp_path)) == ([], ["model_0.pt"])


@pytest.mark.usefixtures("any_size")
def test_where_no_thread_can_be_started_the_space_is_free_when_the_save_ends(tmp_path, monkeypatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    path = tmp_path / "model_0.pt"
    write(path, b"old", [])
    monkeypatch.setattr(threading.Thread, "start", refuse)
    write(path, b"new", [])
    assert (path.read_bytes(), deleted(tmp_path)) == (b"new", [])


def test_a_small_file_and_one_that_has_another_name_start_no_thread(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", pytest.fail)
    path = tmp_path / "model_0.pt"
    write(path, b"old", [])
    write(path, b"new", [])
    assert deleted(tmp_path) == []
    monkeypatch.setattr(mounts, "_LARGE_BYTES", 1)
    os.link(path, tmp_path / "kept.pt")
    write(path, b"newer", [])
    assert ((tmp_path / "kept.pt").read_bytes(), path.read_bytes(), deleted(tmp_path)) == (
        b"new",
        b"newer",
        [],
    )
