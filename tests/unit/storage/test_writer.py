"""Filling a file, through the page cache or past it: the same bytes, their checksum, and the first error."""

from __future__ import annotations

import errno
import fcntl
import gc
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from marlin_ckpt.storage import writer as one_writer
from marlin_ckpt.storage.local import direct, system_calls, threads, writer
from marlin_ckpt.storage.local.direct import DirectPieces
from marlin_ckpt.storage.local.writer import CachedPieces, PassedOnPieces, open_writer
from marlin_ckpt.storage.writer import Writer
from tests.support.leftovers import threads_that_write

Pieces = DirectPieces | CachedPieces | PassedOnPieces
MEBIBYTE = 1 << 20
SIZES = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 2 * MEBIBYTE)), max_size=24)


def cached(fd: int) -> CachedPieces:
    return CachedPieces(fd, 2 * MEBIBYTE)


def buffers(fd: int) -> DirectPieces:
    return DirectPieces(fd, 1, None)


def of_an_image(fd: int) -> DirectPieces:
    return DirectPieces(fd, 1, memoryview(mmap.mmap(-1, 64 * MEBIBYTE)))


def pieces(sizes: list[int]) -> list[bytearray]:
    return [bytearray(os.urandom(size)) for size in sizes]


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)


@pytest.mark.parametrize("make", [cached, PassedOnPieces, buffers, of_an_image])
@settings(max_examples=25, deadline=None)
@given(sizes=SIZES)
def test_a_file_holds_just_the_bytes_that_were_put_in_their_order(
    make: Callable[[int], Pieces], sizes: list[int]
) -> None:
    with tempfile.TemporaryFile(buffering=0) as file:
        filling = Writer(make(file.fileno()))
        data = pieces(sizes)
        for number, piece in enumerate(data):
            crc32 = filling.put(memoryview(piece) if number % 2 else bytes(piece))
            assert crc32 == isal_zlib.crc32(piece)
        assert filling.finish() == sum(sizes)
        filling.stop()
        assert content(file.fileno()) == b"".join(data)


@pytest.mark.parametrize("make", [cached, PassedOnPieces, buffers, of_an_image])
def test_a_piece_may_be_changed_once_put_returns(file: int, make: Callable[[int], Pieces]) -> None:
    filling = Writer(make(file))
    piece = bytearray(MEBIBYTE)
    for value in range(40):
        piece[:] = bytes([value]) * MEBIBYTE
        filling.put(memoryview(piece))
    filling.finish()
    filling.stop()
    assert content(file) == b"".join(bytes([value]) * MEBIBYTE for value in range(40))


@pytest.mark.parametrize("expected_bytes", [1, 64 * MEBIBYTE], ids=["cached", "direct"])
def test_the_checksum_is_that_of_the_file_though_a_tensor_changes_while_it_is_copied(
    file: int, monkeypatch: pytest.MonkeyPatch, expected_bytes: int
) -> None:
    source = bytearray(8 * MEBIBYTE)
    memmove = one_writer.ctypes.memmove

    def changed_at_once(*args: int) -> None:
        memmove(*args)
        source[:] = bytes([source[0] + 1]) * len(source)

    monkeypatch.setattr(one_writer.ctypes, "memmove", changed_at_once)
    with open_writer(file, expected_bytes) as filling:
        crc32 = filling.put(memoryview(source))
        filling.finish()
    assert len(set(content(file))) > 1
    assert isal_zlib.crc32(content(file)) == crc32


def test_what_lies_at_its_place_in_an_image_is_not_copied(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = memoryview(mmap.mmap(-1, 10 * MEBIBYTE + direct.BLOCK_BYTES))
    image[: 10 * MEBIBYTE] = data = os.urandom(10 * MEBIBYTE)
    filling = Writer(DirectPieces(file, len(data), image))
    monkeypatch.setattr(one_writer.ctypes, "memmove", lambda *_: pytest.fail("copied"))
    assert filling.put(image[: len(data)]) == isal_zlib.crc32(data)
    filling.finish()
    filling.stop()
    assert content(file) == data


def test_the_page_cache_is_switched_off_while_a_file_is_filled_past_it_and_on_again_after(file: int) -> None:
    filling = Writer(buffers(file))
    assert fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT
    filling.put(b"data")
    filling.finish()
    assert not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_the_first_error_of_a_thread_that_writes_reaches_the_caller(
    file: int, monkeypatch: pytest.MonkeyPatch, number: int, fails_at: int
) -> None:
    calls = iter(range(1000))
    write = os.pwrite

    def failing(fd: int, data: memoryview, offset: int) -> int:
        call = next(calls)
        if call >= fails_at:
            raise OSError(number if call == fails_at else errno.EBADF, "injected")
        return write(fd, data, offset)

    monkeypatch.setattr(threads.os, "pwrite", failing)
    with pytest.raises(OSError, match="injected") as caught, open_writer(file, 64 * MEBIBYTE) as filling:
        for _ in range(48):
            filling.put(memoryview(bytearray(MEBIBYTE)))
        filling.finish()
    assert caught.value.errno == number
    assert threads_that_write() == []


def test_a_short_write_is_gone_on_with_through_the_page_cache_where_the_offset_is_crooked(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(threads.os, "pwrite", lambda fd, data, offset: write(fd, data[:1536000], offset))
    data = pieces([MEBIBYTE] * 20 + [77])
    filling = Writer(buffers(file))
    for piece in data:
        filling.put(memoryview(piece))
    filling.finish()
    assert content(file) == b"".join(data)


def test_a_file_system_that_refuses_direct_writes_gets_cached_ones(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.fcntl

    def refusing(fd: int, command: int, *arguments: int) -> int:
        if command == fcntl.F_SETFL and arguments[0] & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT here")
        return real(fd, command, *arguments)

    write = os.pwrite

    def through_the_cache(fd: int, data: memoryview, offset: int) -> int:
        assert not real(fd, fcntl.F_GETFL) & os.O_DIRECT
        return write(fd, data, offset)

    monkeypatch.setattr(system_calls.fcntl, "fcntl", refusing)
    with open_writer(file, 64 * MEBIBYTE) as filling:
        monkeypatch.setattr(threads.os, "pwrite", through_the_cache)
        filling.put(b"data")
        filling.finish()
    assert content(file) == b"data"


@pytest.mark.parametrize("refusal", system_calls.REFUSALS, ids=errno.errorcode.get)
def test_where_no_space_can_be_set_aside_no_byte_is_written_to_emulate_it(
    file: int, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    class Libc:
        @staticmethod
        def fallocate(*_: object) -> int:
            system_calls.ctypes.set_errno(refusal)
            return -1

    monkeypatch.setattr(system_calls, "_LIBC", Libc)
    with open_writer(file, 64 * MEBIBYTE) as filling:
        assert os.fstat(file).st_size == os.fstat(file).st_blocks == 0
        filling.put(b"data")
        filling.finish()
    assert content(file) == b"data"


def test_setting_space_aside_is_tried_again_when_a_signal_interrupts_it(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [errno.EINTR, errno.EINTR, 0]

    class Libc:
        @staticmethod
        def fallocate(*_: object) -> int:
            system_calls.ctypes.set_errno(codes[0])
            return -1 if codes.pop(0) else 0

    monkeypatch.setattr(system_calls, "_LIBC", Libc)
    system_calls.allocate(file, MEBIBYTE)
    assert codes == []


def test_the_space_that_is_set_aside_is_the_files_own(file: int) -> None:
    try:
        system_calls.allocate(file, MEBIBYTE)
    except OSError as error:
        if error.errno not in system_calls.REFUSALS:
            raise
        pytest.skip("the file system of the temporary directory sets no space aside")
    assert os.fstat(file).st_size == MEBIBYTE
    assert os.fstat(file).st_blocks * 512 >= MEBIBYTE


def test_no_room_for_the_whole_file_is_known_before_the_first_byte_is_written(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, size_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(system_calls, "allocate", full)
    with pytest.raises(OSError, match="No space left") as caught, open_writer(file, 64 * MEBIBYTE):
        pytest.fail("the file was opened")
    assert caught.value.errno == errno.ENOSPC
    assert os.fstat(file).st_size == 0


@pytest.mark.parametrize(("expected_bytes", "is_direct"), [(MEBIBYTE, False), (64 * MEBIBYTE, True)])
def test_large_files_go_past_the_page_cache_and_small_ones_through_it(
    file: int, expected_bytes: int, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_is_in_memory", lambda fd: False)
    with open_writer(file, expected_bytes):
        assert bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT) == is_direct


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a tmpfs at /dev/shm")
def test_a_file_in_memory_is_filled_without_a_detour() -> None:
    with (
        tempfile.TemporaryFile(dir="/dev/shm", buffering=0) as file,
        open_writer(file.fileno(), 1 << 30),
    ):
        assert not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_DIRECT


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("expected_bytes", [0, 1], ids=["cached", "direct"])
def test_what_was_written_is_freed_without_the_cyclic_collector(
    file: int, monkeypatch: pytest.MonkeyPatch, expected_bytes: int, fails: bool
) -> None:
    class Image(mmap.mmap):
        """One that can be watched."""

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "injected")

    image = Image(-1, 8 * MEBIBYTE)
    alive = weakref.ref(image)
    monkeypatch.setattr(writer, "_LARGE_BYTES", 1)
    if fails:
        monkeypatch.setattr(system_calls.os, "write", failing)
        monkeypatch.setattr(threads.os, "pwrite", failing)
    gc.disable()
    try:
        try:
            with open_writer(file, expected_bytes, memoryview(image)) as filling:
                filling.put(memoryview(image)[: 5 * MEBIBYTE])
                filling.finish()
        except OSError:
            assert fails
        del image, filling
        assert alive() is None
    finally:
        gc.enable()
