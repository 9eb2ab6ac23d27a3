"""What files take on the disk: what they have alone, and what they have together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.directory import catalog
from marlin_ckpt.entries import Entry
from marlin_ckpt.storage import space
from marlin_ckpt.storage.extents import Extent
from marlin_ckpt.storage.local import cloning
from marlin_ckpt.storage.space import Range, Taken, Together
from tests.support.clones import BLOCK, Clones

DISK = (1, False)


def entry_of(path: Path) -> Entry:
    found = catalog.entry(path)
    assert found is not None
    return found


def taken(path: Path) -> Taken:
    found = space.taken(entry_of(path))
    assert found is not None
    return found


def at(path: Path) -> Taken:
    found = space.taken_at(str(path))
    assert found is not None
    return found


def remove(path: Path) -> None:
    os.truncate(path, 0)  # XFS frees what a removed file had only later
    path.unlink()


def clone(path: Path, source: Path, start: int, size: int) -> None:
    """Makes a file that shares a stretch of another one, and has a byte of its own behind it."""
    with open(path, "wb", buffering=0) as file, open(source, "rb") as other:
        assert cloning.clone(file.fileno(), 0, other.fileno(), start, size)
        os.pwrite(file.fileno(), b"!", size)
        os.fsync(file.fileno())


def written(path: Path, blocks: int) -> Path:
    """Makes a file that has an extent for every four blocks: btrfs shares and frees extents alone."""
    with open(path, "wb", buffering=0) as file:
        for start in range(0, blocks, 4):
            file.write(os.urandom(min(4, blocks - start) * BLOCK))
            os.fsync(file.fileno())
    return path


@pytest.fixture(params=["as if", "really"])
def directory(request: pytest.FixtureRequest) -> Path:
    if request.param == "really":
        return request.getfixturevalue("reflinks")
    request.getfixturevalue("clones")
    return request.getfixturevalue("tmp_path")


def test_what_a_file_shares_is_not_its_own_until_the_others_have_gone(directory: Path) -> None:
    first, second, third = directory / "a.pt", directory / "b.pt", directory / "c.pt"
    written(first, 40)
    clone(second, first, 8 * BLOCK, 16 * BLOCK)
    clone(third, first, 20 * BLOCK, 20 * BLOCK)
    sizes = [one.stat().st_size for one in (first, second, third)]
    found = [taken(one) for one in (first, second, third)]
    assert [one.size_bytes for one in found] == sizes
    assert [one.own_bytes for one in found] == [8 * BLOCK, 1, 1]
    assert all(one.shares for one in found)
    assert space.together_bytes(found) == 40 * BLOCK + 2
    assert [space.freed_bytes([one], []) for one in found] == [8 * BLOCK, 1, 1]
    assert space.freed_bytes(found, []) == 40 * BLOCK + 2
    assert space.freed_bytes(found[:2], found[2:]) == 20 * BLOCK + 1
    assert space.freed_bytes(found[1:], found[:1]) == 2
    remove(first)
    assert at(second).own_bytes == 12 * BLOCK + 1
    assert space.together_bytes(map(taken, (second, third))) == 32 * BLOCK + 2
    remove(third)
    assert at(second).own_bytes == sizes[1]
    assert not taken(second).shares
    second.unlink()


def test_a_folder_takes_what_its_files_take(directory: Path) -> None:
    folder = directory / "folder"
    (folder / "deeper").mkdir(parents=True)
    written(folder / "one", 8)
    written(folder / "deeper" / "two", 3)
    clone(directory / "other", folder / "one", 0, 4 * BLOCK)
    assert at(folder).own_bytes == 7 * BLOCK
    item = entry_of(directory / "other").item
    members = tuple(entry_of(one).item for one in (folder / "one", folder / "deeper" / "two"))
    names = ("folder/one", "folder/deeper/two")
    members = tuple(one._replace(name=name) for one, name in zip(members, names, strict=True))
    found = space.taken(Entry(str(directory), item, None, "folder", members))
    assert found is not None
    assert (found.own_bytes, found.size_bytes) == (7 * BLOCK, 11 * BLOCK)
    for one in (directory / "other", folder / "one", folder / "deeper" / "two"):
        one.unlink()


def test_a_stretch_of_a_file_lies_where_the_file_that_it_shares_it_with_has_it(directory: Path) -> None:
    first, second = written(directory / "a", 8), directory / "b"
    clone(second, first, 2 * BLOCK, 4 * BLOCK)
    (of_second,) = space.ranges_of(str(second), [(BLOCK + 5, BLOCK)]) or [()]
    assert sum(one.stop - one.start for one in of_second) == BLOCK
    spans = [
        (0, BLOCK),
        (3 * BLOCK + 5, BLOCK),
        (4 * BLOCK + 5, BLOCK),
        (4 * BLOCK + 5, BLOCK),
        (9 * BLOCK, 7),
    ]
    found = space.ranges_of(str(first), spans) or []
    assert [one == of_second for one in found] == [False, True, False, False, False]
    assert sum(one.stop - one.start for one in found[2]) == BLOCK
    assert found[-1] == ()
    remove(first)
    second.unlink()


def test_where_the_file_system_does_not_say_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path / "a", 2)
    monkeypatch.setattr(space, "_TELLING", set())
    monkeypatch.setattr(space, "_known", {})
    monkeypatch.setattr(space, "extents", None)  # is not asked
    assert space.taken(entry_of(path)) is None
    assert space.taken_at(str(path)) is None
    assert space.ranges_of(str(path), [(0, 1)]) is None
    assert space.taken_at(str(tmp_path / "missing")) is None
    assert space.taken(Entry("s3://bucket", entry_of(path).item._replace(inode=()), None)) is None


def test_what_is_packed_has_places_that_no_other_has(file: int, clones: Clones, monkeypatch):
    def packed(_: int):
        for start in range(3):  # each of 128 KiB, which have become a block
            place = start * BLOCK
            yield Extent(start << 17, 1 << 17, place, is_shared=start == 1, is_packed=True)

    monkeypatch.setattr(space, "extents", packed)
    path = os.readlink(f"/proc/self/fd/{file}")
    found = taken(Path(path))
    assert (found.own_bytes, found.size_bytes) == (2 << 17, 3 << 17)
    assert space.together_bytes([found, found]) == 3 << 17
    assert [len(one) for one in space.ranges_of(path, [(5, 1 << 17)])] == [2]


STRETCHES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=4)


@given(st.lists(st.tuples(STRETCHES, st.integers(0, 5)), max_size=5), st.data())
def test_together_they_take_each_byte_once_whichever_of_them_have_gone(files, data) -> None:
    found = [
        Taken(0, tuple(Range(DISK, start, start + size) for start, size in stretches), elsewhere)
        for stretches, elsewhere in files
    ]
    together = Together(found)
    for one in [None, *data.draw(st.permutations(found))]:
        if one is not None:
            together.remove(one)
            found.remove(one)
        there = {byte for each in found for where in each.ranges for byte in range(where.start, where.stop)}
        assert together.size_bytes == len(there) + sum(each.elsewhere_bytes for each in found)


@given(st.lists(st.tuples(STRETCHES, st.booleans()), max_size=6))
def test_removal_gives_back_what_none_has_that_stays(files) -> None:
    going, staying = [], []
    bytes_of = [{b for start, size in found for b in range(start, start + size)} for found, _ in files]
    for number, (_, goes) in enumerate(files):
        others = set().union(*(held for other, held in enumerate(bytes_of) if other != number))
        held = sorted(bytes_of[number])
        one = Taken(len({*held} - others), tuple(Range(DISK, at, at + 1) for at in held))
        (going if goes else staying).append(one)
    left = set().union(*(held for held, (_, goes) in zip(bytes_of, files, strict=True) if not goes))
    assert space.freed_bytes(going, staying) == len(set().union(*bytes_of)) - len(left)
