"""Which earlier copies of a record a new checkpoint may share: a pure function of what others hold.

A record that is shared has no bytes of its own on the disk: a bad block there damages all checkpoints that
share it. So a record shares the bytes of one checkpoint only where the next one before or after it that stays
holds the same with other bytes. Of the checkpoints that stay, neighbours that hold the same then never share
it: whatever `keep.last` lets go of later, two that are left have two copies.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from marlin_ckpt.formats.digests import Digest, Digested, Origin

# One of so many saves shares nothing, and what twice as many have shared is written anew: blocks grow old.
FULL_EVERY = 10

Place = TypeVar("Place")
Records = Mapping[str, Digested]  # what a checkpoint holds, by the names of the records
_Content = tuple[str, Digest]


class Copy(NamedTuple, Generic[Place]):
    """A copy of a record that may be shared.

    Attributes:
        place: the checkpoint that has it.
        held: what it is.
    """

    place: Place
    held: Digested


def is_full(save_number: int, full_every: int = FULL_EVERY) -> bool:
    """Whether a save shares nothing."""
    return save_number % full_every == 0


def most_copies(checkpoints: int, full_every: int = FULL_EVERY) -> int:
    """How many copies there are at most of what never changes, of so many checkpoints one after the other.

    Two take turns, and each save that shares nothing writes one more.
    """
    return 2 + -(-checkpoints // full_every)


def oldest_shared(save_number: int, full_every: int = FULL_EVERY) -> int:
    """The number of the first save whose bytes a save still shares."""
    return save_number - 2 * full_every + 1


def copies(
    sources: Sequence[tuple[Place, Records]],
    before: Iterable[Records],
    after: Iterable[Records],
    oldest: int = 0,
) -> dict[str, list[Copy[Place]]]:
    """Decides which copies a new checkpoint may share, of the records that turn out to be the same.

    Args:
        sources: the checkpoints whose bytes can be shared, and what they hold; the best to share with first.
        before: what the checkpoints hold that stay once the new one is there and have a lesser index, the
            greatest index first. As few are looked at as it takes.
        after: likewise of those of a greater index, the least index first.
        oldest: the number of the first save whose bytes may be shared; see `oldest_shared`.

    Returns:
        by the name of the record the copies, of each content one at most, in the order of the sources.
    """
    wanted = {(name, held.digest) for _, records in sources for name, held in records.items()}
    neighbours = _nearest(wanted, before), _nearest(wanted, after)
    found: dict[str, list[Copy[Place]]] = {}
    taken: set[_Content] = set()
    for place, records in sources:
        for name, held in records.items():
            key = name, held.digest
            origins = [there[key] for there in neighbours if key in there]
            is_apart = bool(origins) and held.origin not in origins
            if key not in taken and is_apart and held.origin.save_number >= oldest:
                taken.add(key)
                found.setdefault(name, []).append(Copy(place, held))
    return found


def _nearest(wanted: set[_Content], checkpoints: Iterable[Records]) -> dict[_Content, Origin]:
    """The origin of each of some contents in the first checkpoint that holds it."""
    found: dict[_Content, Origin] = {}
    rest, looked_at = set(wanted), iter(checkpoints)
    while rest and (records := next(looked_at, None)) is not None:
        for name, digest in [*rest]:
            held = records.get(name)
            if held is not None and held.digest == digest:
                found[name, digest] = held.origin
                rest.remove((name, digest))
    return found
