"""Filling a file, through the page cache or past it, gives the same bytes and the first error."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin_ckpt.storage.local import direct, sink, writers
from marlin_ckpt.storage.local.direct import DirectSink
from marlin_ckpt.storage.local.sink import PIECE_BYTES, BufferedSink, open_sink

Opener = Callable[[int], BufferedSink | DirectSink]
SIZES = st.lists(st.one_of(st.integers(0, 300), st.integers(0, PIECE_BYTES)), max_size=24)


def pieces(sizes: list[int]) -> list[bytearray]:
    return [bytearray(os.urandom(size)) for size in sizes]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)


@pytest.mark.parametrize("open_it", [BufferedSink, lambda fd: DirectSink(fd, 1)], ids=["buffered", "direct"])
@settings(max_examples=25)
@given(sizes=SIZES)
def test_a_file_holds_just_the_bytes_that_were_put_in_their_order(open_it: Opener, sizes: list[int]) -> None:
    with tempfile.TemporaryFile(buffering=0) as file:
        filling = open_it(file.fileno())
        data = pieces(sizes)
        for number, piece in enumerate(data):
            filling.put(memoryview(piece) if number % 2 else bytes(piece))
        filling.finish()
        assert content(file.fileno()) == b"".join(data)


def test_a_piece_may_be_changed_once_put_returns(file: int) -> None:
    filling = DirectSink(file, 64 << 20)
    piece = bytearray(PIECE_BYTES)
    for value in range(40):
        piece[:] = bytes([value]) * PIECE_BYTES
        filling.put(memoryview(piece))
    filling.finish()
    assert content(file) == b"".join(bytes([value]) * PIECE_BYTES for value in range(40))


def test_the_page_cache_is_switched_off_while_a_direct_sink_fills_and_on_again_after(file: int) -> None:
    filling = DirectSink(file, 1)
    assert fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT
    filling.put(b"data")
    filling.finish()
    assert not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_the_first_error_of_the_writing_thread_reaches_the_caller(
    file: int, monkeypatch: pytest.MonkeyPatch, number: int, fails_at: int
) -> None:
    calls = iter(range(1000))
    write = os.pwrite

    def failing(fd: int, data: memoryview, offset: int) -> int:
        call = next(calls)
        if call >= fails_at:
            raise OSError(number if call == fails_at else errno.EBADF, "injected")
        return write(fd, data, offset)

    monkeypatch.setattr(direct.os, "pwrite", failing)
    with pytest.raises(OSError, match="injected") as caught, open_sink_directly(file, 48) as filling:
        for _ in range(48):
            filling.put(memoryview(bytearray(PIECE_BYTES)))
    assert caught.value.errno == number
    assert [thread.name for thread in threading.enumerate() if "writer" in thread.name] == []


def open_sink_directly(fd: int, mebibytes: int):
    return open_sink(fd, max(mebibytes << 20, 64 << 20))


def test_a_short_write_is_gone_on_with_through_the_page_cache_where_the_offset_is_crooked(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(direct.os, "pwrite", lambda fd, data, offset: write(fd, data[:1536000], offset))
    data = pieces([PIECE_BYTES] * 20 + [77])
    filling = DirectSink(file, 1)
    for piece in data:
        filling.put(memoryview(piece))
    filling.finish()
    assert content(file) == b"".join(data)


def test_a_file_system_that_refuses_direct_writes_gets_buffered_ones(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.fcntl

    def refusing(fd: int, command: int, *arguments: int) -> int:
        if command == fcntl.F_SETFL and arguments[0] & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT here")
        return real(fd, command, *arguments)

    monkeypatch.setattr(writers.fcntl, "fcntl", refusing)
    with open_sink(file, 64 << 20) as filling:
        assert isinstance(filling, BufferedSink)
        filling.put(b"data")
    assert content(file) == b"data"


def test_no_room_for_the_whole_file_is_known_before_the_first_byte_is_written(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(direct.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught, open_sink(file, 64 << 20):
        pytest.fail("the sink was opened")
    assert caught.value.errno == errno.ENOSPC
    assert os.fstat(file).st_size == 0


@pytest.mark.parametrize(("expected_bytes", "kind"), [(1 << 20, BufferedSink), (64 << 20, DirectSink)])
def test_large_files_go_past_the_page_cache_and_small_ones_through_it(
    file: int, expected_bytes: int, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_is_in_memory", lambda fd: False)
    with open_sink(file, expected_bytes) as filling:
        assert isinstance(filling, kind)


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a tmpfs at /dev/shm")
def test_a_file_in_memory_is_filled_without_a_detour() -> None:
    with (
        tempfile.TemporaryFile(dir="/dev/shm", buffering=0) as file,
        open_sink(file.fileno(), 1 << 30) as filling,
    ):
        assert isinstance(filling, BufferedSink)


def test_a_caller_that_gives_up_leaves_no_thread_behind(file: int) -> None:
    with pytest.raises(KeyError), open_sink(file, 64 << 20) as filling:
        filling.put(b"data")
        raise KeyError("given up")
    assert [thread.name for thread in threading.enumerate() if "writer" in thread.name] == []
