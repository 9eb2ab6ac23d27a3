"""A file's tree as a person wants to see it: names split at their dots, what repeats itself told once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sized
from typing import Any

from marlin_ckpt.formats.content.node import Node, NodeKind
from marlin_ckpt.formats.values.tensor import TensorInfo

_MOST_PARTS = 10  # of a dotted name; what follows is not split
_MOST_SPLIT = 10  # levels of the tree, below which no name is split
_FREE_PLACES = 50_000  # beside one for each tensor, made for the parts of names; further ones are not split
_MOST_DTYPES = 64  # of a branch, more than torch has; further ones are not told
_LONGEST_COMPARED = 1_000  # characters of a text, or parts of a container
_NUMBERED = r"(\[?)(\d{1,9})\]?"
_MOST_TOLD = 8  # numbered siblings that differ in their shapes alone and are told one by one


class Branch:
    """One line of the summary, and what lies below it.

    Attributes:
        key: the last part of its name; a range, `0-11`, where it stands for several siblings.
        node: what stands there, or the first of what it stands for; None where only names begin alike.
        times: how many siblings it stands for.
        shape: of a tensor; None of others, and where those that it stands for differ.
        is_value_common: whether the values are one where it stands for several.
        dtypes: of all its tensors.
        tensors: how many there are, below it too.
        numel: how many elements these have; what is another name of one told before does not count.
        size_bytes: of these elements.
        same_as: the name of the tensor whose other name this is, or "".
        children: below it.
    """

    # No dataclass, as `Node` is none.
    __slots__ = (
        "alike", "children", "dtypes", "is_value_common", "key", "node", "numel", "same_as", "shape",
        "size_bytes", "tensors", "times",
    )  # fmt: skip

    def __init__(self, key: str, node: Node | None = None) -> None:
        """Takes what is known at first."""
        self.key, self.node = key, node
        self.times, self.is_value_common = 1, True
        self.shape: tuple[int, ...] | None = None
        self.dtypes: set[str] = set()
        self.tensors = self.numel = self.size_bytes = 0
        self.same_as = ""
        self.children: list[Branch] = []
        self.alike = (0, 0)

    def add(self, other: Branch) -> None:
        """Adds the tensors of another branch to those of this one."""
        if len(self.dtypes) < _MOST_DTYPES:
            self.dtypes |= other.dtypes
        self.tensors += other.tensors
        self.numel += other.numel
        self.size_bytes += other.size_bytes


def summarise(root: Node) -> Branch:
    """Makes the summary of a file's tree."""
    return _Summary().branch(root, 0)


class _Summary:
    def __init__(self) -> None:
        self._first: dict[tuple[Any, ...], str] = {}  # names of the tensors told so far, by their memory
        self._places_left = _FREE_PLACES
        self._numbers: dict[Any, int] = {}  # of structures, so that comparing two takes no walk

    def branch(self, node: Node, depth: int) -> Branch:
        """One node with all below it; the tree is 200 deep at most."""
        made = Branch(node.key, node) if node.tensor is None else self._tensor(node, node.tensor)
        places: dict[tuple[str, ...], Branch] = {(): made}
        for child in node.children:
            below = self.branch(child, depth + 1)
            parts: tuple[str, ...] = (child.key,)
            if child.kind is NodeKind.TENSOR and depth < _MOST_SPLIT and self._places_left > 0:
                parts = tuple(child.key.split(".", _MOST_PARTS))
            below.key = parts[-1]
            self._place(places, parts[:-1]).children.append(below)
        for parts in sorted(places, key=len, reverse=True):
            self._finish(places[parts])
        return made

    def _place(self, places: dict[tuple[str, ...], Branch], parts: tuple[str, ...]) -> Branch:
        """The branch of a name's beginning, made where it is missing."""
        if parts not in places:
            self._places_left -= 1
            places[parts] = Branch(parts[-1])
            self._place(places, parts[:-1]).children.append(places[parts])
        return places[parts]

    def _tensor(self, node: Node, tensor: TensorInfo) -> Branch:
        self._places_left += 1
        memory = (tensor.storage, tensor.offset, tensor.shape, tensor.stride, tensor.dtype)
        first = self._first.setdefault(memory, tensor.name)
        made = Branch(node.key, node)
        made.shape, made.dtypes, made.tensors = tensor.shape, {tensor.dtype}, 1
        if first == tensor.name:
            made.numel, made.size_bytes = tensor.numel, tensor.size_bytes
        else:
            made.same_as = first
        return made

    def _finish(self, branch: Branch) -> None:
        """Tells alike children once, and adds up."""
        branch.children = _merged(branch.children)
        for child in branch.children:
            branch.add(child)
        branch.alike = self._number(branch, strict=True), self._number(branch, strict=False)

    def _number(self, branch: Branch, *, strict: bool) -> int:
        node = branch.node
        kind = None if node is None else (node.kind, node.label, type(node.value))
        own = (kind, frozenset(branch.dtypes), bool(branch.same_as), branch.shape if strict else None)
        below = tuple((child.key, child.alike[0 if strict else 1]) for child in branch.children)
        return self._numbers.setdefault((strict, own, below), len(self._numbers))


def _merged(children: list[Branch]) -> list[Branch]:
    """Makes one of numbered neighbours of one structure; where many are left, of one structure but shapes."""
    if len(children) < 2:  # noqa: PLR2004 - nothing to merge
        return children
    merged = [_merge(group) for group in _groups(children, 0)]
    if sum(re.fullmatch(_NUMBERED, child.key) is not None for child in merged) > _MOST_TOLD:
        merged = [_merge(group) for group in _groups(children, 1)]
    return merged


def _groups(children: list[Branch], which: int) -> Iterator[list[Branch]]:
    def run(numbered: tuple[int, Branch]) -> tuple[int, int]:
        place, child = numbered
        match = re.fullmatch(_NUMBERED, child.key)
        # The same for neighbours whose numbers go up by one; of its own where there is no number.
        return (child.alike[which], int(match[2]) - place) if match else (-1, place)

    for _, group in itertools.groupby(enumerate(children), run):
        yield [child for _, child in group]


def _merge(group: list[Branch]) -> Branch:
    first = group[0]
    if len(group) == 1:
        return first
    match = re.fullmatch(_NUMBERED, first.key)
    last = re.fullmatch(_NUMBERED, group[-1].key)
    key = f"{match[1]}{match[2]}-{last[2]}" + "]" * bool(match[1]) if match and last else first.key
    made = _united(group, key)
    made.times = len(group)
    return made


def _united(group: list[Branch], key: str) -> Branch:
    """One branch for several of one structure; their children are of one structure too."""
    first = group[0]
    made = Branch(key, first.node)
    made.times, made.shape, made.alike = first.times, first.shape, first.alike
    for one in group:
        if one.shape != made.shape:
            made.shape = None
        made.is_value_common &= one.is_value_common and _is_same_value(one.node, first.node)
        made.add(one)
    below = zip(*(one.children for one in group), strict=True)
    made.children = [_united(list(parts), parts[0].key) for parts in below]
    return made


def _is_same_value(one: Node | None, other: Node | None) -> bool:
    if one is None or other is None or one.value is other.value:
        return True
    # A text or a container may be long, and stand in very many places.
    is_long = isinstance(one.value, Sized) and len(one.value) > _LONGEST_COMPARED
    return not is_long and bool(one.value == other.value)
