"""Writers whose callers give up or are interrupted leave no thread, no descriptor and no later write."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from marlin_ckpt.storage.local import direct, threads
from marlin_ckpt.storage.local.threads import WritingThreads
from marlin_ckpt.storage.local.writer import open_writer
from tests.support.leftovers import descriptors, threads_that_write

MEBIBYTE = 1 << 20
PATIENCE_S = 60


def test_a_caller_that_gives_up_leaves_neither_a_thread_nor_a_descriptor(file: int, tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_writer(file, 64 * MEBIBYTE) as filling:
        filling.put(memoryview(bytearray(9 * MEBIBYTE)))
        raise KeyError("given up")
    assert threads_that_write() == []
    assert descriptors(str(tmp_path / "file")) == [file]


class SlowDisk:
    """Takes no write before it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[int] = []
        self.under_way, self.go_on = threading.Event(), threading.Event()
        write = os.pwrite

        def slow(fd: int, data: memoryview, offset: int) -> int:
            self.under_way.set()
            assert self.go_on.wait(PATIENCE_S)
            self.written.append(offset)
            return write(fd, data[: direct.BLOCK_BYTES], offset)

        monkeypatch.setattr(threads.os, "pwrite", slow)


def interrupting(monkeypatch: pytest.MonkeyPatch, disk: SlowDisk, times: int) -> None:
    """Raises KeyboardInterrupt when the caller waits for his threads, and then lets the disk go on."""
    wait, left = threading.Condition.wait, [None] * times

    def interrupted(condition: threading.Condition, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            if left:
                left.pop()
                raise KeyboardInterrupt
            disk.go_on.set()
        return wait(condition, timeout)

    monkeypatch.setattr(threading.Condition, "wait", interrupted)


@pytest.mark.parametrize("interrupts", [1, 2, 5])
def test_however_often_a_caller_is_interrupted_nothing_is_written_once_he_is_let_go(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupts: int
) -> None:
    disk = SlowDisk(monkeypatch)
    with pytest.raises(KeyboardInterrupt), open_writer(file, 64 * MEBIBYTE) as filling:
        filling.put(memoryview(bytearray(3 * direct._PIECE_BYTES + direct.BLOCK_BYTES)))
        assert disk.under_way.wait(PATIENCE_S)
        interrupting(monkeypatch, disk, interrupts)
        filling.finish()
    # One write of each thread at most was under way, and none of them was gone on with.
    assert len(disk.written) <= threads._THREADS
    assert threads_that_write() == []
    assert descriptors(str(tmp_path / "file")) == [file]


def test_a_thread_that_is_never_let_go_can_write_to_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    fd = os.open(tmp_path / "first", os.O_RDWR | os.O_CREAT)
    writing = WritingThreads(fd, lambda _: None)
    writing.write(memoryview(b"old" * direct.BLOCK_BYTES), 0)
    assert disk.under_way.wait(PATIENCE_S)
    os.close(fd)
    other = os.open(tmp_path / "second", os.O_RDWR | os.O_CREAT)
    assert other == fd
    disk.go_on.set()
    writing.finish()
    assert os.fstat(other).st_size == 0
    assert (tmp_path / "first").stat().st_size == 3 * direct.BLOCK_BYTES
    writing.stop()
    os.close(other)
