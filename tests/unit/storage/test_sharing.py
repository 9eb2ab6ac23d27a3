"""Blocks on the disk that a file shares with another: it is the same as if it had been written."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from marlin_ckpt.storage import space
from marlin_ckpt.storage.local import cloning, direct, system_calls, writer
from marlin_ckpt.storage.local.direct import DirectPieces
from marlin_ckpt.storage.local.writer import CachedPieces, open_writer
from marlin_ckpt.storage.memory import MemoryTarget
from marlin_ckpt.storage.target import Span
from marlin_ckpt.storage.writer import Writer
from tests.support.clones import BLOCK, FULL, REFUSALS, Clones
from tests.support.leftovers import threads_that_write
from tests.support.sharing import SHARED, WAYS, Make, Put, case_of, content, fill

MEBIBYTE = 1 << 20
SIZES = st.one_of(st.integers(0, 300), st.integers(0, 40_000), st.integers(0, 8).map(lambda n: n * BLOCK))
PUTS = st.lists(st.builds(Put, SIZES, st.booleans(), st.booleans(), st.booleans()), max_size=16)
in_each_way = pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)
in_small_pieces = pytest.mark.parametrize("piece_bytes", [BLOCK, 2 * BLOCK])


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


@in_each_way
@in_small_pieces
@settings(max_examples=20, deadline=None)
@given(puts=PUTS)
def test_whatever_is_shared_the_file_is_the_one_that_would_be_written(
    make: Make, piece_bytes: int, puts: list[Put]
) -> None:
    case = case_of(puts)
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryFile(buffering=0) as file,
        tempfile.TemporaryFile(buffering=0) as source,
    ):
        clones = Clones(1).put_in(patch)  # a file system with smaller blocks than a disk
        source.write(case.source)
        told = fill(file.fileno(), case, source.fileno(), make, piece_bytes)
        assert content(file.fileno()) == case.content == told
        assert clones.shared == case.shared


@in_each_way
def test_of_what_is_shared_nothing_is_written_and_the_checksum_is_that_of_the_memory(
    file: int, source: int, make: Make, clones: Clones
) -> None:
    case = case_of(SHARED)
    os.pwrite(source, bytes(len(case.source)), 0)  # as it would be if the disk had lost it
    fill(file, case, source, make)
    wanted = bytearray(case.content)
    for start, size in case.shared:
        wanted[start : start + size] = bytes(size)
    assert content(file) == wanted
    assert len(clones.shared) == 4


@pytest.mark.parametrize("number", range(len(REFUSALS)))
@in_each_way
def test_where_the_system_refuses_to_share_the_bytes_are_written(
    file: int, source: int, make: Make, clones: Clones, number: int
) -> None:
    clones.code, clones.spoils = REFUSALS[number], number % 2 == 0
    case = case_of(SHARED)
    os.pwrite(source, case.source, 0)
    fill(file, case, source, make)
    assert content(file) == case.content


@pytest.mark.parametrize("code", FULL, ids=errno.errorcode.get)
@in_each_way
def test_a_full_disk_is_an_error_and_nobody_writes_any_more(
    file: int, source: int, make: Make, clones: Clones, code: int
) -> None:
    clones.code = code
    case = case_of(SHARED)
    os.pwrite(source, case.source, 0)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        fill(file, case, source, make)
    assert caught.value.errno == code
    assert threads_that_write() == []


@in_each_way
def test_a_source_that_has_become_shorter_is_not_shared(
    file: int, source: int, make: Make, clones: Clones
) -> None:
    case = case_of(SHARED)
    os.pwrite(source, case.source[: len(case.source) // 2], 0)
    fill(file, case, source, make)
    assert content(file) == case.content
    assert 0 < len(clones.shared) < len(case.shared)


def test_without_a_checksum_of_what_is_in_memory_nothing_is_shared(
    file: int, source: int, clones: Clones
) -> None:
    data = os.urandom(4 * BLOCK)
    os.pwrite(source, bytes(len(data)), 0)
    with open_writer(file, len(data), shared_bytes=0) as filling:
        assert filling.put(data, same=Span(source, 0, len(data))) == isal_zlib.crc32(data)
        filling.finish()
    assert content(file) == data
    assert clones.shared == []


@pytest.mark.parametrize("way", ["passed on", "direct"])
def test_buffers_of_which_parts_were_written_are_whole_again(
    file: int, source: int, clones: Clones, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_PIECE_BYTES", 4 * BLOCK)
    monkeypatch.setattr(writer, "_CACHED_PIECE_BYTES", 4 * BLOCK)
    data = os.urandom(BLOCK)
    os.pwrite(source, data, 0)
    filling = Writer(WAYS[way](file, memoryview(b"")))
    for _ in range(10):
        filling.put(data)
        assert len(filling._piece) == 4 * BLOCK
        filling.put(data, None, isal_zlib.crc32(data), Span(source, 0, BLOCK))
    filling.finish()
    filling.stop()
    assert content(file) == 20 * data
    assert len(clones.shared) == 10


@pytest.mark.parametrize(("length", "span"), [(BLOCK + 5, 4 * BLOCK), (4 * BLOCK, 2 * BLOCK + 5)])
def test_of_a_span_that_is_not_as_long_as_the_data_what_both_have_is_shared(
    file: int, source: int, clones: Clones, length: int, span: int
) -> None:
    data = os.urandom(4 * BLOCK)
    os.pwrite(source, data, 0)
    with open_writer(file, len(data), shared_bytes=0) as filling:
        filling.put(data[:length], None, isal_zlib.crc32(data[:length]), Span(source, 0, span))
        assert filling.finish() == length
    assert content(file) == data[:length]
    assert clones.shared == [(0, min(length, span) // BLOCK * BLOCK)]


def test_a_file_in_memory_shares_nothing_and_holds_what_it_is_given() -> None:
    target = MemoryTarget()
    assert target.put(b"data", None, 7, Span(-1, 0, 4)) == 7
    assert target.content() == b"data"


def test_for_a_file_that_will_share_no_space_is_set_aside_and_few_bytes_to_write_go_through_the_page_cache(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_is_in_memory", lambda _: False)
    monkeypatch.setattr(system_calls, "allocate", lambda *_: pytest.fail("space was set aside"))
    with open_writer(file, 80 * MEBIBYTE, shared_bytes=0) as filling:
        assert isinstance(filling._pieces, DirectPieces)
        assert os.fstat(file).st_blocks == 0
    with open_writer(file, 80 * MEBIBYTE, shared_bytes=79 * MEBIBYTE) as filling:
        assert isinstance(filling._pieces, CachedPieces)


def test_blocks_that_are_larger_than_a_disks_are_shared_as_a_whole(
    tmp_path: Path, file: int, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clones = Clones(4 * BLOCK).put_in(monkeypatch)
    cloning.block_bytes(str(tmp_path))
    clones.shared.clear()
    data = os.urandom(11 * BLOCK)
    os.pwrite(source, data, 0)
    with open_writer(file, len(data), shared_bytes=0) as filling:
        filling.put(data, None, isal_zlib.crc32(data), Span(source, 0, len(data)))
        filling.put(data, None, isal_zlib.crc32(data), Span(source, 0, len(data)))  # not at such a border
        filling.finish()
    assert content(file) == 2 * data
    assert clones.shared == [(0, 8 * BLOCK)]


# What follows needs a file system that shares blocks: `pytest --reflinks /mnt/xfs`.


def alone(path: Path) -> int:
    found = space.taken_at(str(path))
    assert found is not None
    return found.own_bytes


@in_each_way
@in_small_pieces
def test_a_file_outlives_the_one_that_it_shares_with(reflinks: Path, make: Make, piece_bytes: int) -> None:
    assert cloning.block_bytes(str(reflinks)) == BLOCK
    case = case_of([*SHARED, Put(40 * BLOCK), Put(200, is_same=False), Put(300 * BLOCK + 9)] * 4)
    source = os.open(reflinks / "source", os.O_RDWR | os.O_CREAT)
    os.pwrite(source, case.source, 0)
    new = os.open(reflinks / "new", os.O_RDWR | os.O_CREAT)
    fill(new, case, source, make, piece_bytes)
    os.fsync(new)
    shared = sum(size for _, size in case.shared)
    assert alone(reflinks / "new") == len(case.content) - shared
    os.pwrite(source, bytes(len(case.source)), 0)
    os.ftruncate(source, 0)
    os.close(source)
    os.unlink(reflinks / "source")
    os.posix_fadvise(new, 0, 0, os.POSIX_FADV_DONTNEED)
    assert content(new) == case.content
    assert alone(reflinks / "new") == len(case.content)
    os.close(new)
    os.unlink(reflinks / "new")


@in_each_way
@in_small_pieces
@settings(max_examples=20, deadline=None)
@given(puts=PUTS)
def test_a_file_that_really_shares_is_the_one_that_would_be_written(
    reflinks: Path, make: Make, piece_bytes: int, puts: list[Put]
) -> None:
    case = case_of(puts)
    with (
        tempfile.TemporaryFile(dir=reflinks, buffering=0) as file,
        tempfile.TemporaryFile(dir=reflinks, buffering=0) as source,
    ):
        source.write(case.source)
        fill(file.fileno(), case, source.fileno(), make, piece_bytes)
        assert content(file.fileno()) == case.content
