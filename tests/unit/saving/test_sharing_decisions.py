"""What a checkpoint may share with earlier ones: two copies of all stay, whatever retention removes."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin_ckpt.formats.digests import Digest, Digested, Origin
from marlin_ckpt.saving.sharing.decide import copies, is_full, oldest_shared

NAMES = ("data/0", "data/1", "data/2")
KEEPS = (None, 1, 2, 3, 5, 20)


def digest(content: int) -> Digest:
    return Digest(b"the same in all", bytes([content]))


class Saved(NamedTuple):
    number: int
    index: int
    records: dict[str, Digested]


class Run:
    """A run whose checkpoints `keep.last` governs; the process can share with what it wrote itself."""

    def __init__(self, keep: int | None, full_every: int) -> None:
        self.keep, self.full_every = keep, full_every
        self.there: list[Saved] = []
        self.own: list[int] = []  # the numbers of the saves of this process
        self.saves = self.shared = 0

    def stop(self) -> None:
        self.own = []

    def save(self, contents: dict[str, int], index: int, failing: frozenset[str] = frozenset()) -> None:
        self.saves += 1
        origin = Origin("run", self.saves)
        others = [one for one in self.there if one.index != index]  # one of this index is replaced
        kept = self._kept([*others, Saved(self.saves, index, {})])
        staying = [one for one in others if one in kept]
        sources = [(one.number, one.records) for one in self.there if one.number in self.own[-2:]]
        before = [one.records for one in reversed(staying) if one.index < index]
        after = [one.records for one in staying if one.index > index]
        full = is_full(self.saves, self.full_every)
        may = {} if full else copies(sources[::-1], before, after, oldest_shared(self.saves, self.full_every))
        records = {}
        for name, content in contents.items():
            found = [one for one in may.get(name, ()) if one.held.digest == digest(content)]
            records[name] = (
                found[0].held if found and name not in failing else Digested(digest(content), origin)
            )
            self.shared += records[name].origin != origin
            assert self.saves - records[name].origin.save_number < 2 * self.full_every
        self.there = self._kept([*others, Saved(self.saves, index, records)])
        self.own = [*self.own, self.saves]

    def _kept(self, found: list[Saved]) -> list[Saved]:
        ordered = sorted(found, key=lambda one: one.index)
        return ordered if self.keep is None else ordered[-self.keep :]

    def check(self) -> None:
        held: dict[tuple, list[Origin]] = {}
        for one in self.there:
            for name, record in one.records.items():
                held.setdefault((name, record.digest), []).append(record.origin)
        for key, origins in held.items():
            assert len(set(origins)) >= min(2, len(origins)), (key, self.there)


contents = st.fixed_dictionaries({name: st.integers(0, 2) for name in NAMES})
# Now and then the process ends, an index is saved again or one before it, or the system shares nothing.
events = st.tuples(
    contents,
    st.sampled_from(["", "", "", "", "", "stop", "again", "between"]),
    st.frozensets(st.sampled_from(NAMES), max_size=1),
)


@given(
    st.sampled_from(KEEPS), st.sampled_from([1, 2, 10]), st.lists(events, min_size=40, max_size=40),
    st.booleans(),
)  # fmt: skip
def test_after_each_save_and_its_retention_two_of_those_that_hold_the_same_have_copies_of_their_own(
    keep, full_every, saves, is_reliable
):
    run, index = Run(keep, full_every), 0
    for number, (state, event, failing) in enumerate(saves):
        if event == "stop":
            run.stop()
        index += 100 * (event != "again")
        own = index if event != "between" else index - 150 + number
        run.save(state, own, frozenset() if is_reliable else failing)
        run.check()


@pytest.mark.parametrize(
    ("full_every", "written"),
    [(1, range(1, 41)), (2, [1, *range(2, 41, 2), *range(5, 41, 4)]), (10, [1, 2, 10, 20, 21, 30, 40])],
)
@pytest.mark.parametrize("keep", KEEPS)
def test_what_never_changes_is_written_twice_and_again_when_that_was_long_ago(keep, full_every, written):
    run = Run(keep, full_every)
    for index in range(40):
        run.save(dict.fromkeys(NAMES, 1), index)
        run.check()
    assert run.shared == (0 if keep == 1 else len(NAMES) * (40 - len(written)))


def test_a_record_that_changed_once_is_shared_again_from_the_third_save_that_holds_it():
    run = Run(2, 10)
    for index, content in enumerate([1, 1, 1, 2, 2, 2, 2]):
        run.save({"data/0": content}, index)
        run.check()
    assert run.shared == 1 + 2


@given(st.lists(contents, min_size=1, max_size=6), st.lists(contents, max_size=3))
def test_no_more_checkpoints_are_looked_at_than_it_takes(staying, sources):
    def records(number: int, state: dict[str, int]) -> dict[str, Digested]:
        return {name: Digested(digest(one), Origin("run", number)) for name, one in state.items()}

    looked_at = []

    def before():
        for number, state in enumerate(staying):
            looked_at.append(number)
            yield records(number, state)

    copies([(number, records(100 + number, one)) for number, one in enumerate(sources)], before(), [])
    wanted = {item for one in sources for item in one.items()}
    needed = 0
    for number, state in enumerate(staying):
        if not wanted:
            break
        needed = number + 1
        wanted -= set(state.items())
    assert len(looked_at) == needed
