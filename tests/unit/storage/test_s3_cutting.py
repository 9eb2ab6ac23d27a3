"""How an object is cut into parts that are sent and parts that are copied, whatever is the same in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.storage.s3.uploading import cutting
from marlin_ckpt.storage.s3.uploading.cutting import LEAST_PART, Cut, Cutter

MIB = 1 << 20
PART = 16 * MIB
MOST = 5 << 30  # of a part that is copied

lengths = st.one_of(st.integers(1, MIB), st.just(MIB))
# Stretches of blocks that lie so much further on in the other object, or that it does not have.
stretches = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 3)), st.lists(lengths, min_size=1, max_size=40)),
    max_size=12,
)


def cut(blocks: list[tuple[int, int | None]], cutter: Cutter) -> list[Cut]:
    """Cuts blocks as an upload does, whose memory is as long as a part, and is full again and again."""
    cuts, at, memory = [], 0, PART
    for size, source in blocks:
        while at + size > memory:  # it does not fit: so much of it comes first
            cuts += cutter.full(memory)
            assert memory < cutter.needed_from + PART, "there is no more memory"
            memory = cutter.needed_from + PART
        at += size
        cuts += cutter.add(at, source)
    return cuts + cutter.finish()


def blocks_of(found) -> list[tuple[int, int | None]]:
    blocks, at = [], 0
    for moved, sizes in found:
        for size in sizes:
            blocks.append((size, None if moved is None else at + moved * MIB))
            at += size
    return blocks


@given(stretches)
def test_the_parts_are_all_of_the_object_and_each_as_long_as_a_store_takes_it(found):
    blocks = blocks_of(found)
    size = sum(one for one, _ in blocks)
    cuts = cut(blocks, Cutter(PART, size))
    assert [one.start for one in cuts] == [0, *(one.end for one in cuts)][: len(cuts)]
    assert (cuts[-1].end if cuts else 0) == size
    assert all(one.end - one.start >= LEAST_PART for one in cuts[:-1])
    assert all(one.end - one.start <= (PART if one.source is None else MOST) for one in cuts)


@given(stretches)
def test_what_is_copied_is_the_same_in_the_other_object(found):
    blocks = blocks_of(found)
    same, at = {}, 0
    for size, source in blocks:
        same[at] = (at + size, source)
        at += size
    for start, end, source in cut(blocks, Cutter(PART, at)):
        covered = [one for one in same.items() if one[0] < end and one[1][0] > start]
        if source is not None:
            assert {None if there is None else there - here for here, (_, there) in covered} == {
                source - start
            }


def test_a_long_stretch_is_copied_but_for_what_the_part_in_front_of_it_lacks():
    blocks = [(MIB, None), *((MIB, at * MIB) for at in range(7, 300)), (MIB, None)]
    cuts = cut(blocks, Cutter(PART, 295 * MIB))
    assert cuts == [
        Cut(0, 5 * MIB, None),
        Cut(5 * MIB, 133 * MIB, 11 * MIB),
        Cut(133 * MIB, 261 * MIB, 139 * MIB),
        Cut(261 * MIB, 294 * MIB, 267 * MIB),
        Cut(294 * MIB, 295 * MIB, None),
    ]


def test_without_anything_that_is_the_same_the_parts_have_one_length_as_there_are_stores_that_want_it():
    sizes = [MIB, 100, 5000, MIB, 70 * 1000] * 20
    cuts = cut([(size, None) for size in sizes], Cutter(PART, sum(sizes)))
    assert {one.end - one.start for one in cuts[:-1]} == {PART}


def test_an_object_never_has_more_parts_than_a_store_takes(monkeypatch):
    monkeypatch.setattr(cutting, "_MOST_PARTS", 12)
    blocks = [(MIB, at * MIB if at % 20 < 13 else None) for at in range(160)]  # each stretch could be copied
    cuts = cut(blocks, Cutter(PART, 160 * MIB))
    assert len(cuts) <= 12
    assert any(one.source is not None for one in cuts)
