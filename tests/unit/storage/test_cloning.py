"""What a file system says of blocks that files share: whether it can, and where files lie."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from marlin_ckpt.storage.local import cloning
from tests.support.clones import BLOCK, FULL, REFUSALS, Clones

MEBIBYTE = 1 << 20


@pytest.mark.parametrize("block", [BLOCK << doublings for doublings in range(5)])
def test_the_block_of_a_file_system_is_found_out_once_and_no_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    clones = Clones(block).put_in(monkeypatch)
    assert [cloning.block_bytes(str(tmp_path)) for _ in range(3)] == [block] * 3
    assert len(clones.shared) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", REFUSALS + FULL, ids=errno.errorcode.get)
def test_a_file_system_that_shares_nothing_is_no_error(tmp_path: Path, clones: Clones, code: int) -> None:
    clones.code = code
    assert cloning.block_bytes(str(tmp_path)) is None
    assert os.listdir(tmp_path) == []


def test_a_disk_that_was_full_is_tried_again(tmp_path: Path, clones: Clones) -> None:
    clones.code = errno.ENOSPC
    assert cloning.block_bytes(str(tmp_path)) is None
    clones.code = 0
    assert cloning.block_bytes(str(tmp_path)) == BLOCK


def test_a_file_system_that_says_it_shares_and_does_not_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clones = Clones().put_in(monkeypatch)
    monkeypatch.setattr(clones, "ioctl", lambda *_: b"")
    assert cloning.block_bytes(str(tmp_path)) is None


def test_where_there_is_no_directory_or_no_file_can_be_made_nothing_is_shared(
    tmp_path: Path, clones: Clones, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cloning.block_bytes(str(tmp_path / "missing")) is None

    def refusing(*_: object, **__: object) -> tuple[int, str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(cloning.temporary, "create", refusing)
    assert cloning.block_bytes(str(tmp_path)) is None
    assert clones.shared == []


class Extents:
    """What a file system says of where a file lies: a system call's worth of extents at a time."""

    def __init__(self, flags: list[int]) -> None:
        self.flags = flags

    def ioctl(self, _: int, request: int, argument: bytes) -> bytes:
        assert request == 0xC020660B
        start, length, _, _, most, _ = cloning._MAP.unpack_from(argument)
        assert length > 0
        first = start // 100
        found = self.flags[first : first + most]
        extents = b"".join(
            cloning._EXTENT.pack(number * 100, 9_000 + number * 100, 100, 0, 0, flags, 0, 0, 0)
            for number, flags in enumerate(found, first)
        )
        return cloning._MAP.pack(start, length, 0, len(found), most, 0) + extents.ljust(len(argument) - 32)


@pytest.mark.parametrize("behind", [-33, 0, 5000], ids=["shorter", "as long", "sparse at its end"])
@pytest.mark.parametrize("count", [0, 1, 16, 17, 18, 34, 100])
def test_each_stretch_of_a_file_has_its_place_and_what_is_set_aside_behind_it_is_none(
    file: int, monkeypatch: pytest.MonkeyPatch, count: int, behind: int
) -> None:
    shared, packed, inline = 0x2000, 0x8 | 0x2000, 0x200
    flags = [[0, shared, packed, inline][number % 4] for number in range(count)]
    monkeypatch.setattr(cloning, "fcntl", Extents(flags))
    os.ftruncate(file, max(0, 100 * count + behind))
    found = [*cloning.extents(file)]
    assert [one.start for one in found] == [100 * number for number in range(count)]
    places = [9_000 + 100 * number for number in range(count)]
    assert [one.place for one in found] == [None if n % 4 == 3 else one for n, one in enumerate(places)]
    assert [one.is_shared for one in found] == [n % 4 in (1, 2) for n in range(count)]
    assert [one.is_packed for one in found] == [n % 4 == 2 for n in range(count)]
    cut = behind if count and behind < 0 else 0
    assert sum(one.size for one in found) == 100 * count + cut


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a tmpfs at /dev/shm")
def test_a_file_system_that_does_not_say_where_a_file_lies_says_so() -> None:
    with tempfile.TemporaryFile(dir="/dev/shm", buffering=0) as file:
        file.write(b"data")
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            [*cloning.extents(file.fileno())]
