"""Compares two files: which tensors differ and by how much, and which other values. Without torch."""

import fnmatch
import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from marlin_ckpt.formats.content.contents import Contents, TensorInfo
from marlin_ckpt.formats.content.optimizers import parameter_names
from marlin_ckpt.formats.values.checked import Checked
from marlin_ckpt.formats.values.distance import Distance
from marlin_ckpt.naming import SHARDED
from marlin_ckpt.operations import selection
from marlin_ckpt.operations.pairs import Pairs
from marlin_ckpt.operations.values import ValueDifference, differing


class Change(StrEnum):
    """How a tensor of the second file differs from that of the first."""

    REMOVED = "removed"
    ADDED = "added"
    RESHAPED = "reshaped"
    CHANGED = "changed"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor, by its name.

    Attributes:
        name: in both files, or in the one that has it.
        change: how it differs; RESHAPED where shape or dtype differ, and the values are not compared.
        before: in the first file, None where it is not there.
        after: in the second one.
        distance: between the values, where they differ.
    """

    name: str
    change: Change
    before: TensorInfo | None
    after: TensorInfo | None
    distance: Distance | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """The changed tensors of one parent, taken together.

    Attributes:
        name: of the parent, `layers.0` for `layers.0.weight`; "" for tensors without one.
        changed: how many differ.
        tensors: how many there are in both files.
        distance: between all elements of the changed tensors; without scalars, such as an optimizer's count
            of steps, unless all of these are scalars.
    """

    name: str
    changed: int
    tensors: int
    distance: Distance


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two files.

    Attributes:
        states: which state of each file was compared, "" for all of it.
        tensors: a difference for each name, in the order of `Change`, and the greatest relative distance
            first.
        values: what else differs in its type or its complete value, in the order of the files.
        parameters: the names of the parameters whose state optimizers keep, as `parameter_names` has them, by
            names within the compared state; without those that the two files name differently.
    """

    states: tuple[str, str]
    tensors: tuple[Difference, ...]
    values: tuple[ValueDifference, ...]
    parameters: dict[str, str]

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not self.values and not self.differing

    @property
    def differing(self) -> list[Difference]:
        """The tensors that differ."""
        return [one for one in self.tensors if one.change is not Change.SAME]

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors there are of each change."""
        return {str(change): sum(one.change is change for one in self.tensors) for change in Change}

    @property
    def layers(self) -> list[Layer]:
        """The layers with changed values, the greatest relative change first."""
        members: dict[str, list[Difference]] = {}
        for one in self.tensors:
            if one.change in (Change.SAME, Change.CHANGED):
                members.setdefault(one.name.rpartition(".")[0], []).append(one)
        found = []
        for name, tensors in members.items():
            changed = [one for one in tensors if one.distance is not None]
            larger = [one for one in changed if one.before is not None and one.before.shape]
            distances = [one.distance for one in larger or changed if one.distance is not None]
            if distances:
                total = functools.reduce(operator.add, distances)
                found.append(Layer(name, len(changed), len(tensors), total))
        return sorted(found, key=lambda one: (-one.distance.relative, -one.distance.differing, one.name))


def compare(
    a: Checked,
    b: Checked,
    state: str | None = None,
    pattern: str | None = None,
    on_pair: Callable[[str, int, Distance | None], None] = lambda *_: None,
) -> Comparison:
    """Compares two files, reading all that it compares.

    Where they hold the state of the module by other names, or one is nothing but that state, or their layouts
    differ, these states alone are compared.

    Args:
        a: the first.
        b: the second.
        state: the only state to compare, by its name in each of them that has one.
        pattern: compare only tensors whose names match, as `fnmatch` reads it, and no other values.
        on_pair: called when the values of a tensor are compared, with its name, how many such pairs there
            are, and the distance if they differ.

    Raises:
        MarlinError: one of them has no such state.
        BadFileError: one of them is damaged, of an unknown format, or too large to be read.
        StorageError: one of them cannot be read.
    """
    sides = _sides(a, b, state)
    before, after = (_matching(selection.numbered(selection.tensors_of(*side)), pattern) for side in sides)
    found, alike = _matched(before, after)
    a.expect(one for one, _ in alike.values())
    b.expect(other for _, other in alike.values())
    measured = Pairs(a, b).measure(alike.values())
    for (name, (one, other)), distance in zip(alike.items(), measured, strict=True):
        on_pair(name, len(alike), distance)
        change = Change.SAME if distance is None else Change.CHANGED
        found.append(Difference(name, change, one, other, distance))
    changed = [one.name for one in found if one.change is not Change.SAME]
    values = [] if pattern else differing(sides[0], sides[1], changed)
    one_names, other_names = (_parameters(*side) for side in sides)
    names = {at: name for at, name in one_names.items() if other_names.get(at, name) == name}
    parameters = {at: name for at, name in other_names.items() if at not in one_names} | names
    states = sides[0][1], sides[1][1]
    return Comparison(states, tuple(sorted(found, key=_rank)), tuple(values), parameters)


def _parameters(contents: Contents, state: str) -> dict[str, str]:
    known = contents.manifest.optimizers if contents.manifest else {}
    named = parameter_names(contents.root, known).items()
    return {inner: name for at, name in named if (inner := selection.within(at, state)) is not None}


def _matched(
    before: dict[str, TensorInfo], after: dict[str, TensorInfo]
) -> tuple[list[Difference], dict[str, tuple[TensorInfo, TensorInfo]]]:
    """The differences in names, shapes and dtypes, and the pairs whose values must be compared."""
    found, alike = [], {}
    for name in {**before, **after}:
        one, other = before.get(name), after.get(name)
        if one and other and (one.dtype, one.shape) == (other.dtype, other.shape):
            alike[name] = one, other
        else:
            change = Change.ADDED if one is None else Change.REMOVED if other is None else Change.RESHAPED
            found.append(Difference(name, change, one, other))
    return found, alike


def _sides(a: Checked, b: Checked, state: str | None) -> list[tuple[Contents, str]]:
    """What of each file is compared, and which state of that; "" for all of it."""
    own, other = selection.module_state(a.contents), selection.module_state(b.contents)
    if state is not None:
        # A bare state dict is a single state, without a name.
        sides = (a.contents, own, b.contents, other), (b.contents, other, a.contents, own)
        return [(side[0], "" if _is_bare(state, *side) else state) for side in sides]
    each = [a.contents, b.contents]
    alone = [selection.module_alone(one) for one in each]
    is_other_layout = a.contents.format != b.contents.format and not (_is_one_state(a) and _is_one_state(b))
    is_more = [one is not whole for one, whole in zip(alone, each, strict=True)]
    if own != other or is_other_layout or is_more[0] != is_more[1]:
        return list(zip(alone, (own, other), strict=True))
    return [(one, "") for one in each]


def _is_one_state(one: Checked) -> bool:
    """Whether what it holds is laid out as in a file: of folders, our sharded ones alone."""
    return not one.files or one.contents.format == SHARDED


def _is_bare(state: str, contents: Contents, own: str, others: Contents, other: str) -> bool:
    """Whether a file is as a whole what a state of the other file is."""
    if own or state == other:
        return not own
    return not _has(contents, state) and bool(other) and _has(others, state)


def _has(contents: Contents, state: str) -> bool:
    return any(selection.within(one.name, state) is not None for one in contents.tensors)


def _matching(tensors: dict[str, TensorInfo], pattern: str | None) -> dict[str, TensorInfo]:
    if pattern is None:
        return tensors
    return {name: one for name, one in tensors.items() if fnmatch.fnmatchcase(name, pattern)}


def _rank(one: Difference) -> tuple[int, float, int, str]:
    distance = one.distance or Distance()
    return list(Change).index(one.change), -distance.relative, -distance.differing, one.name
