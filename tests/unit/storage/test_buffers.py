"""The buffers that files are written from past the page cache: kept, and shared with no other file."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import re
import tempfile
from pathlib import Path

import pytest

from marlin_ckpt.saving.copying.arena import Arena
from marlin_ckpt.storage.local import threads
from marlin_ckpt.storage.local.writer import Writer, open_writer
from marlin_ckpt.storage.pages import private_memory

MEBIBYTE = 1 << 20


def test_the_buffers_of_a_file_are_those_of_the_next_and_no_file_has_them_of_one_that_is_written(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_kept", [])

    def fill(filling: Writer) -> set[int]:
        used = set()
        for _ in range(8):
            filling.put(bytes(threads.PIECE_BYTES - 1))
            used.add(ctypes.addressof(ctypes.c_char.from_buffer(filling._piece)))
            filling.put(bytes(1))
        return used

    with open_writer(file, 64 * MEBIBYTE) as filling:
        first = fill(filling)
        with (
            tempfile.TemporaryFile(buffering=0) as other,
            open_writer(other.fileno(), 64 * MEBIBYTE) as beside,
        ):
            assert not (second := fill(beside)) & first
        filling.finish()
    os.ftruncate(file, 0)
    with open_writer(file, 64 * MEBIBYTE) as filling:
        assert fill(filling) <= first | second
    assert len(threads._kept) == threads.MOST_KEPT


def test_a_process_that_is_forked_does_not_write_into_the_buffers_of_its_parent(file: int) -> None:
    with open_writer(file, 64 * MEBIBYTE) as filling:
        filling.put(b"parent")
        if (child := os.fork()) == 0:
            filling._piece[:6] = b"child "
            os._exit(0)
        os.waitpid(child, 0)
        filling.finish()
    assert os.pread(file, 100, 0) == b"parent"


def test_a_process_that_is_forked_has_no_buffer_of_its_parent_which_the_next_write_would_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "_kept", [])
    buffer = threads.take_buffer(threads.PIECE_BYTES)
    buffer[-1] = 7
    if (child := os.fork()) == 0:
        os._exit(buffer[-1])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert buffer[-1] == 7


@pytest.mark.parametrize("size", [1, 4096, (2 << 20) - 1, 2 << 20, (4 << 20) + 4097])
def test_memory_has_the_length_that_was_asked_for_and_is_kept_by_each_view_of_it(size: int) -> None:
    view = private_memory(size)[size // 2 :]
    address = ctypes.addressof(ctypes.c_char.from_buffer(view)) - size // 2
    assert address % ((2 << 20) if size >= 2 << 20 else 4096) == 0
    gc.collect()
    view[:] = bytes([7]) * len(view)
    assert bytes(view) == bytes([7]) * (size - size // 2)


def huge_kib(address: int) -> int:
    """How much of the mapping that holds an address is in huge pages."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    begins = [at for at, line in enumerate(lines) if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line)]
    for at, end in itertools.pairwise([*begins, len(lines)]):
        start, stop = (int(one, 16) for one in lines[at].split()[0].split("-"))
        if start <= address < stop:
            return sum(int(line.split()[1]) for line in lines[at:end] if line.startswith("AnonHugePages:"))
    raise AssertionError("no mapping holds it")


def test_memory_for_copies_comes_into_huge_pages_quarter_by_quarter_and_keeps_what_it_holds() -> None:
    probe = private_memory(4 << 20)
    probe[:] = bytes(len(probe))
    if not huge_kib(ctypes.addressof(ctypes.c_char.from_buffer(probe))):
        pytest.skip("this system has no huge pages, or none that are free")
    arena = Arena()
    room = arena.room((32 << 20) + 4097)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    room[:] = pattern = bytes(range(251)) * (len(room) // 251) + bytes(len(room) % 251)
    before, after = huge_kib(address), []
    for _ in range(5):
        arena.settle()
        after.append(huge_kib(address))
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 1):
        pytest.skip("MADV_COLLAPSE is of Linux 6.1")
    assert before == 0
    assert after == sorted(after)
    assert after[-1] >= 16 << 10  # of 32 MiB: under memory pressure some are refused
    assert room == pattern


def test_memory_too_short_for_a_huge_page_and_none_settle_without_effect() -> None:
    arena = Arena()
    arena.settle()
    room = arena.room(5000)
    room[:] = bytes(5000 // 100) * 100
    arena.settle()
    arena.free()
    arena.settle()
    assert bytes(room) == bytes(5000)
