"""Where files lie, as a file system says it."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest

from marlin_ckpt.storage import extents


class Extents:
    """What a file system says of where a file lies: a system call's worth of extents at a time."""

    def __init__(self, flags: list[int]) -> None:
        self.flags = flags

    def ioctl(self, _: int, request: int, argument: bytes) -> bytes:
        assert request == 0xC020660B
        start, length, _, _, most, _ = extents._MAP.unpack_from(argument)
        assert length > 0
        first = start // 100
        found = self.flags[first : first + most]
        told = b"".join(
            extents._EXTENT.pack(number * 100, 9_000 + number * 100, 100, 0, 0, flags, 0, 0, 0)
            for number, flags in enumerate(found, first)
        )
        return extents._MAP.pack(start, length, 0, len(found), most, 0) + told.ljust(len(argument) - 32)


@pytest.mark.parametrize("behind", [-33, 0, 5000], ids=["shorter", "as long", "sparse at its end"])
@pytest.mark.parametrize("count", [0, 1, 16, 17, 18, 34, 100])
def test_each_stretch_of_a_file_has_its_place_and_what_is_set_aside_behind_it_is_none(
    file: int, monkeypatch: pytest.MonkeyPatch, count: int, behind: int
) -> None:
    shared, packed, inline = 0x2000, 0x8 | 0x2000, 0x200
    flags = [[0, shared, packed, inline][number % 4] for number in range(count)]
    monkeypatch.setattr(extents, "fcntl", Extents(flags))
    os.ftruncate(file, max(0, 100 * count + behind))
    found = [*extents.extents(file)]
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
            [*extents.extents(file.fileno())]
