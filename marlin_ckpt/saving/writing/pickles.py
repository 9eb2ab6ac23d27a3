"""The pickles of the last states, by which the next one is pickled where little in it has changed.

How a state is pickled is decided by its outline (the state without its tensors) and by the facts of these
(all but their data). Where both are those of an earlier state, its pickle is used again. Where the outlines
differ in plain values alone, these are cut out of the new one by a template, and put into the gaps of the
pickle by another.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats.shared import alignment_for
from marlin_ckpt.formats.torch import writer
from marlin_ckpt.formats.torch.facts import Known, storages_of
from marlin_ckpt.formats.torch.memory import identity
from marlin_ckpt.formats.torch.outline import Outline, outline
from marlin_ckpt.formats.torch.pickler import Encoded, encode
from marlin_ckpt.formats.torch.template import MARK, SCALARS, Template, cut
from marlin_ckpt.formats.zip.planning import Plan
from marlin_ckpt.formats.zip.structures import ALIGNMENT
from marlin_ckpt.saving.plain import plain
from marlin_ckpt.saving.replacing import replaced

_MOST_KEPT = 2  # a run saves its state, and that of its module alone
_LONGEST_BYTES = 16 << 20  # of a pickle that is kept
_MOST_PLAIN_BYTES = 256 << 10  # of what is no tensor, for templates, which take long to make of many values
_MOST_TRIES = 3  # to make templates for a state of which something else changes from save to save
_MOST_MISSES = 4  # in a row, of saves that kept nothing, a pickle, templates, and these once more


class About(NamedTuple):
    """What a pickle and its plan depend on beside the state.

    Attributes:
        makes_plain: whether values that `weights_only` refuses are made plain ones; see `Job`.
        has_statistics: as for `plan_image`.
        alignment: the multiple at which data may start, so that it can be shared; see `alignment_for`.
    """

    makes_plain: bool
    has_statistics: bool
    alignment: int = ALIGNMENT

    def plan(self, encoded: Encoded) -> Plan:
        """The plan of a pickle."""
        alignment = alignment_for(writer.sizes_of(encoded), self.alignment)
        return writer.plan_image(encoded, has_statistics=self.has_statistics, alignment=alignment)


class Pickles:
    """Pickles states byte for byte as `encode` does, mostly at a fifth of its price.

    In a training the data of tensors and a few plain values change between two saves, and nothing else. Of a
    state the pickle is kept, and no object.
    """

    def __init__(self) -> None:
        """Knows no state yet."""
        self._kept: deque[_Kept] = deque(maxlen=_MOST_KEPT)
        self._too_long: deque[int] = deque(maxlen=_MOST_KEPT)  # the states whose pickles were, by their keys
        self._misses: dict[int, int] = {}  # of `encoded`, by the keys of the states

    def encoded(self, state: Any, about: About) -> Encoded:
        """Pickles a state of which no plan is needed, for a save that waits for it.

        To keep a pickle takes a quarter of the time that it took to make. So none is kept of the first state
        of its keys, nor of states that always differ in more than plain values and the data of tensors.

        Raises:
            UnsavableStateError: it cannot be pickled.
            StorageError: there is not enough memory.
        """
        keys = _keys(state)
        misses = self._misses.pop(keys, 0)
        if 0 < misses <= _MOST_MISSES:
            encoded, _, is_kept_one = self._pickled(state, keys, about)
        else:
            encoded, is_kept_one = encode(plain(state) if about.makes_plain else state), False
        if len(self._misses) >= _MOST_KEPT:
            self._misses.clear()
        self._misses[keys] = 1 if is_kept_one else misses + 1
        return encoded

    def planned(self, state: Any, about: About) -> tuple[Encoded, Plan]:
        """Pickles a state, and says where its file will have its bytes.

        Raises:
            UnsavableStateError: it cannot be pickled.
            StorageError: there is not enough memory.
        """
        encoded, kept, _ = self._pickled(state, _keys(state), about)
        return encoded, about.plan(encoded) if kept is None else kept.plan(encoded)

    def _pickled(self, state: Any, keys: int, about: About) -> tuple[Encoded, "_Kept | None", bool]:
        """Pickles a state, and keeps that; returns what is kept, too, and whether it was there before."""
        is_long = keys in self._too_long  # an outline of it may take as long as its pickle
        found = None if is_long else outline(state)
        done = self._again(found, about)
        if done is None and about.makes_plain and (made := plain(state)) is not state:
            state, found = made, None if is_long else outline(made)
            done = self._again(found, about)
        if done is not None:
            return *done, True
        encoded, kept = encode(state), None
        if is_long:
            self._too_long.remove(keys)
        if len(encoded.pickle) > _LONGEST_BYTES:
            self._too_long.append(keys)
        elif found is not None:
            # Of one that raises, something could change that nothing here would show.
            with contextlib.suppress(ValueError, RuntimeError, KeyError):
                kept = _Kept(found, encoded, about)
                self._keep(kept, state)
        return encoded, kept, False

    def _again(self, found: Outline | None, about: About) -> tuple[Encoded, "_Kept"] | None:
        """Pickles a state that is like an earlier one; None where none is."""
        if found is None:
            return None
        fitting = ((kept.again(found), kept) for kept in self._kept if kept.about == about)
        return next(((one, kept) for one, kept in fitting if one is not None), None)

    def _keep(self, new: "_Kept", state: Any) -> None:
        """Keeps a pickle, in place of one of the same tensors if there is one."""
        for old in list(self._kept):
            if (old.about, old.facts) == (new.about, new.facts):
                self._kept.remove(old)
                new.tries = 1 if old.was_filled else old.tries + 1
                if new.tries <= _MOST_TRIES and new.is_mostly_tensors:
                    new.make_templates(state)
        self._kept.append(new)


class _Kept:
    """A pickle, and what it depends on.

    Attributes:
        about: see `About`.
        facts: of the tensors.
        tries: how often templates were made for a state of these tensors.
        was_filled: whether the templates have served.
    """

    def __init__(self, found: Outline, encoded: Encoded, about: About) -> None:
        """Takes a state that was pickled.

        Raises:
            ValueError, RuntimeError, KeyError: more decides how it is pickled than is looked at here.
        """
        self.about, self.tries, self.was_filled = about, 0, False
        storages = storages_of(found.tensors)
        self._known = Known(found.tensors, storages)
        self.facts = self._known.facts
        places = {identity(one): place for place, one in reversed(list(enumerate(storages)))}
        if encoded.unreadable or not self.facts.are_all:
            raise ValueError("more than the outline and the facts decides")
        self._sizes = encoded.sizes
        self._storages_of = _picker([places[identity(one)] for one in encoded.storages.values()])
        self._outline, self._pickle = found.pickle, encoded.pickle
        self._is_familiar, self._kinds = encoded.is_familiar, encoded.kinds
        self._plan: Plan | None = None
        self._templates: tuple[Template, Template] | None = None

    def again(self, found: Outline) -> Encoded | None:
        """Pickles a state; None where more has changed than plain values and the data of tensors."""
        if len(found.tensors) != len(self.facts.kinds):
            return None
        try:
            storages = storages_of(found.tensors)
            is_alike = self._known.are_of(found.tensors, storages)
        except (ValueError, RuntimeError):
            return None
        if not (is_alike and (found.pickle == self._outline or self._fill(found.pickle))):
            return None
        by_key = dict(zip(self._sizes, self._storages_of(storages), strict=True))
        return Encoded(self._pickle, by_key, self._sizes, self._is_familiar, frozenset(), self._kinds)

    def plan(self, encoded: Encoded) -> Plan:
        """The plan of the pickle that it has now."""
        if self._plan is None:
            self._plan = self.about.plan(encoded)
        return self._plan

    @property
    def is_mostly_tensors(self) -> bool:
        """Whether plain values, and names, are but a part of the pickle, or few."""
        return len(self._outline) <= max(_MOST_PLAIN_BYTES, len(self._pickle) // 2)

    def make_templates(self, state: Any) -> None:
        """Makes templates of a copy of the state with marks for plain values; keeps them if they are right.

        They are, where they cut the values out of this state's outline and make its pickle of these.
        """
        with contextlib.suppress(MarlinError):
            marked = replaced(state, _is_scalar, lambda one: MARK if _is_scalar(one) else one)
            if (found := outline(marked)) is None:
                return
            lesser, whole = cut(found.pickle), cut(encode(marked).pickle)
            values = lesser.read(self._outline)
            if (
                values is not None
                and len(whole.pieces) == len(values) + 1
                and whole.filled(values) == self._pickle
            ):
                self._templates = lesser, whole

    def _fill(self, other: bytes) -> bool:
        """Takes the plain values of another outline, if it differs in nothing else."""
        values = self._templates[0].read(other) if self._templates else None
        if self._templates is None or values is None:
            return False
        filled = self._templates[1].filled(values)
        if len(filled) != len(self._pickle):
            self._plan = None
        self._outline, self._pickle, self.was_filled = other, filled, True
        return True


def _keys(state: Any) -> int:
    """What tells states of several kinds from each other, at no price."""
    return hash(tuple(state)) if isinstance(state, dict) else 0


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What takes the values at some places out of a row."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: [values[place] for place in places]


def _is_scalar(value: Any) -> bool:
    return type(value) in SCALARS
