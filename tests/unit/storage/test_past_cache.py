"""Long stretches of files that are in no memory, read past the page cache: the same bytes as through it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from marlin_ckpt.errors import StorageError
from marlin_ckpt.storage.local.files import FileSource, open_source
from marlin_ckpt.storage.reading import past_cache
from marlin_ckpt.storage.source import read_each, stretch

MEBIBYTE = 1 << 20
DATA = os.urandom(9 * MEBIBYTE + 12_345)
PIECE = 300_001


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is taken for cold, on whatever file system there is."""
    monkeypatch.setattr(past_cache, "is_cold", lambda *_: True)
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "cold"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def is_direct(cold: Path) -> None:
    if not _is_past_cache(cold):
        pytest.skip("this file system has no O_DIRECT")


def _is_past_cache(path: Path) -> bool:
    with open(path, "rb") as file, contextlib.closing(past_cache.Reader(file.fileno())) as reader:
        return reader.past_cache(0, len(DATA)) is not None


def _pieces(source: FileSource, start: int, size: int) -> Iterator[bytes]:
    with stretch(source, start, size) as near:
        for at in range(start, start + size, PIECE):
            yield near.read(at, min(PIECE, start + size - at))


@pytest.mark.parametrize("start", [0, 1, 4095, 5 * MEBIBYTE - 7])
def test_a_cold_stretch_has_the_bytes_that_the_page_cache_has(cold: Path, start: int) -> None:
    with open_source(str(cold)) as source:
        assert b"".join(_pieces(source, start, len(DATA) - start)) == DATA[start:]


@pytest.mark.parametrize("start", [0, 4097])
def test_a_cold_stretch_is_not_read_into_the_page_cache(
    start: int, is_direct: None, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    fd = os.open(cold, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if not past_cache.is_cold(fd, 0, len(DATA)):
        pytest.skip("this file system keeps the file in memory")
    with open_source(str(cold)) as source:
        assert b"".join(_pieces(source, start, len(DATA) - start)) == DATA[start:]
    assert past_cache.is_cold(fd, 0, len(DATA))
    assert len(os.pread(fd, len(DATA), 0)) == len(DATA)
    assert not past_cache.is_cold(fd, 0, len(DATA))
    os.close(fd)


def test_the_small_stretches_of_a_cold_file_are_asked_for_before_the_first_is_read(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, done = [(0, 3), (5000, 100), (MEBIBYTE, 0), (len(DATA) - 4, 9)], []
    real_advise, real_read = os.posix_fadvise, os.preadv

    def advise(fd: int, offset: int, size: int, advice: int) -> None:
        done.append((offset, size))
        real_advise(fd, offset, size, advice)

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        done.append("a read")
        return real_read(fd, buffers, offset)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(os, "preadv", preadv)
    with open_source(str(cold)) as source:
        found = [*read_each(source, places, lambda place: place)]
    assert found == [(place, DATA[place[0] :][: place[1]]) for place in places]
    assert done[: len(places) + 1] == [(0, 3), (5000, 100), (MEBIBYTE, 1), (len(DATA) - 4, 9), "a read"]


def test_reading_back_and_forth_in_a_cold_stretch_gives_what_is_there(cold: Path) -> None:
    with open_source(str(cold)) as source, stretch(source, 0, len(DATA)) as near:
        for at in (8 * MEBIBYTE, 3, 4 * MEBIBYTE - 1, 8 * MEBIBYTE + 1, 0):
            assert near.read(at, PIECE) == DATA[at : at + PIECE]
        assert near.read(len(DATA) - 5, 100) == DATA[-5:]
        assert near.read_into(len(DATA), memoryview(bytearray(10))) == 0


def test_stretches_read_at_once_and_one_after_the_other_have_their_own_bytes_and_leave_nothing_open(
    cold: Path,
) -> None:
    before, opened = len(os.listdir("/proc/self/fd")), set()
    with open_source(str(cold)) as source:
        for start in (0, 4097):
            with (
                stretch(source, start, 4 * MEBIBYTE) as one,
                stretch(source, start + MEBIBYTE, 4 * MEBIBYTE) as other,
            ):
                opened.add(len(os.listdir("/proc/self/fd")))
                for at in range(0, 3 * MEBIBYTE, MEBIBYTE):
                    assert one.read(start + at, PIECE) == DATA[start + at : start + at + PIECE]
                    assert other.read(start + MEBIBYTE + at, PIECE) == DATA[start + MEBIBYTE + at :][:PIECE]
        assert opened == {len(os.listdir("/proc/self/fd"))}
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_stretch_that_outlives_its_file_leaves_nothing_open_when_it_ends(cold: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        with open_source(str(cold)) as source:
            near = stack.enter_context(stretch(source, 0, len(DATA)))
        assert near.read(5, PIECE) == DATA[5 : 5 + PIECE]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_cut_while_it_is_read_ends_there(cold: Path) -> None:
    with open_source(str(cold)) as source, stretch(source, 0, len(DATA)) as near:
        os.truncate(cold, 6 * MEBIBYTE + 5)
        buffer = memoryview(bytearray(MEBIBYTE))
        assert near.read_into(6 * MEBIBYTE, buffer) == 5
        assert bytes(buffer[:5]) == DATA[6 * MEBIBYTE : 6 * MEBIBYTE + 5]


def test_a_bad_block_in_a_cold_stretch_is_an_error_and_the_rest_is_read(
    is_direct: None, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset <= 6 * MEBIBYTE < offset + len(buffers[0]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, offset)

    with open_source(str(cold)) as source, stretch(source, 0, len(DATA)) as near:
        monkeypatch.setattr(os, "preadv", preadv)
        assert near.read(5 * MEBIBYTE, PIECE) == DATA[5 * MEBIBYTE : 5 * MEBIBYTE + PIECE]
        with pytest.raises(StorageError, match="Input/output error"):
            near.read(6 * MEBIBYTE, 10)
        assert near.read(MEBIBYTE, PIECE) == DATA[MEBIBYTE : MEBIBYTE + PIECE]
        with pytest.raises(StorageError, match="Input/output error"):
            near.read(6 * MEBIBYTE, 10)


@pytest.mark.parametrize("given", [3 * 4096, 1023])  # of a network file system
def test_reads_that_give_less_than_was_asked_for_are_put_together(
    cold: Path, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    few = 3 * 4096
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: min(real(fd, [buffers[0][:few]], at), given))
    with open_source(str(cold)) as source, stretch(source, 4097, 5 * MEBIBYTE) as near:
        assert near.read(4097, PIECE) == DATA[4097 : 4097 + PIECE]


def test_of_a_cold_stretch_nothing_beside_it_is_read_but_the_rest_of_its_blocks(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = os.preadv, []

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        read.append(real(fd, buffers, offset))
        return read[-1]

    monkeypatch.setattr(os, "preadv", preadv)
    with open_source(str(cold)) as source:
        assert b"".join(_pieces(source, 4097, 4 * MEBIBYTE)) == DATA[4097 : 4097 + 4 * MEBIBYTE]
    assert sum(read) <= 4 * MEBIBYTE + 2 * 4096


def test_a_file_system_that_refuses_a_direct_read_is_read_through_the_page_cache_from_there(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset % 65536 and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, buffers, offset)

    with open_source(str(cold)) as source, stretch(source, 0, len(DATA)) as near:
        monkeypatch.setattr(os, "preadv", preadv)
        for at in (0, 5 * MEBIBYTE + 4096, MEBIBYTE, 0):
            assert near.read(at, PIECE) == DATA[at : at + PIECE]


def test_the_alarm_of_a_program_ends_a_direct_read_and_what_reads(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, rings = os.preadv, [True]

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if rings:
            rings.clear()
            raise TimeoutError("it takes too long")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with open_source(str(cold)) as source, pytest.raises(StorageError, match="it takes too long"):
        list(_pieces(source, 0, len(DATA)))


@pytest.mark.parametrize(
    "ranks", [{"LOCAL_WORLD_SIZE": "2"}, {"LOCAL_WORLD_SIZE": "many"}, {"WORLD_SIZE": "8"}]
)
def test_ranks_of_one_machine_share_the_page_cache(
    cold: Path, ranks: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, **ranks})
    assert not _is_past_cache(cold)


def test_what_one_of_several_ranks_reads_alone_is_read_past_the_page_cache(
    is_direct: None, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "LOCAL_WORLD_SIZE": "2"})
    opened: list[int] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: opened.append(flags) or real(path, flags))
    with open(cold, "rb") as file, contextlib.closing(FileSource(file.fileno(), str(cold))) as source:
        for is_own in (False, True):
            with stretch(source, 0, len(DATA), is_own=is_own) as near:
                assert near.read(4097, PIECE) == DATA[4097 : 4097 + PIECE]
            assert any(flags & os.O_DIRECT for flags in opened) == is_own


def test_a_rank_that_is_alone_on_its_machine_does_not(
    is_direct: None, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "8"})
    assert _is_past_cache(cold)


def test_a_file_system_that_refuses_direct_reads_is_read_through_the_page_cache(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    with open_source(str(cold)) as source:
        assert b"".join(_pieces(source, 0, len(DATA))) == DATA
