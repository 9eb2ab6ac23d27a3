"""What is free on a disk, which all who ask have from one place."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from marlin_ckpt.storage.local import abilities, direct, system_calls
from marlin_ckpt.storage.local.direct import DirectPieces
from marlin_ckpt.storage.local.mounts import free_bytes
from marlin_ckpt.storage.local.store import open_store
from marlin_ckpt.storage.writer import Writer
from tests.support.clones import BLOCK
from tests.support.folders import REPOSITORY


def test_what_is_set_aside_for_root_is_not_free_to_any_who_asks(tmp_path, monkeypatch):
    found = SimpleNamespace(
        f_bavail=3, f_bfree=5, f_frsize=4096, f_bsize=1 << 20, f_blocks=9, f_favail=1, f_files=2
    )
    monkeypatch.setattr(os, "statvfs", lambda where: found)
    with open_store(tmp_path) as store:
        asked = free_bytes(tmp_path), store.free_space(), abilities.look_at(tmp_path).free_bytes
    assert asked == (3 * 4096,) * 3


@pytest.mark.parametrize("call", ["statvfs(", "f_bavail"])
def test_one_module_alone_asks_the_system_how_much_is_free(call):
    users = {file.name for file in (REPOSITORY / "marlin_ckpt").rglob("*.py") if call in file.read_text()}
    assert users - {"abilities.py"} == {"mounts.py"}


class Disk:
    """What a disk says it has free, and what it sets aside all the same."""

    def __init__(self, patch: pytest.MonkeyPatch, free: int, has: int) -> None:
        self.asked: list[int] = []
        self._has = has
        patch.setattr(direct, "free_bytes", lambda _: free)
        patch.setattr(system_calls, "allocate", self._allocate)

    def _allocate(self, fd: int, size_bytes: int) -> None:
        self.asked.append(size_bytes)
        if size_bytes > self._has:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(fd, size_bytes)


LONG, SHARED = 80 * BLOCK, 60 * BLOCK


@pytest.mark.parametrize(("free", "asked"), [(20 * BLOCK, []), (20 * BLOCK - 1, [20 * BLOCK])])
def test_a_file_that_shares_needs_room_for_what_is_written_and_asks_for_it_only_where_there_seems_to_be_none(
    file: int, monkeypatch: pytest.MonkeyPatch, free: int, asked: list[int]
) -> None:
    disk = Disk(monkeypatch, free, has=20 * BLOCK)
    data = os.urandom(LONG)
    filling = Writer(DirectPieces(file, LONG, None, shared_bytes=SHARED))
    try:
        filling.put(data)
        assert filling.finish() == LONG
    finally:
        filling.stop()
    assert disk.asked == asked
    assert os.pread(file, LONG + 1, 0) == data


@pytest.mark.parametrize("shared_bytes", [None, SHARED])
def test_a_disk_without_room_is_found_before_anything_is_written_and_it_is_said_how_much_there_is(
    file: int, monkeypatch: pytest.MonkeyPatch, shared_bytes: int | None
) -> None:
    Disk(monkeypatch, 19 * BLOCK, has=19 * BLOCK)
    with pytest.raises(OSError, match="No space left on device") as caught:
        DirectPieces(file, LONG, None, shared_bytes=shared_bytes)
    needed = LONG - (shared_bytes or 0)
    assert f"{needed:,} bytes are to be written, {19 * BLOCK:,} are free" in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert os.fstat(file).st_blocks == 0
