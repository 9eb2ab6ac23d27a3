"""Compares what two files hold beside the elements of tensors: types and complete values, by digests."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.content import digests
from marlin_ckpt.formats.content.contents import Contents, Node, NodeKind
from marlin_ckpt.formats.content.digests import Digests
from marlin_ckpt.formats.format import Format
from marlin_ckpt.formats.pickle import labels
from marlin_ckpt.formats.pickle.stubs import Stub
from marlin_ckpt.operations import selection

_SHOWN_DIGITS = 12  # of a digest
_MOST_KEYS = 8
_MOST_ITEMS = 8  # that a list has more than another, and that are printed one by one
_PICKLED = {Format.ZIP, Format.LEGACY}


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """A value that is no tensor, such as an epoch, that differs in its type or in any part of it.

    Attributes:
        name: its place, dotted as a tensor's name.
        before: as Python writes it, "" where the first file has none there.
        after: the same of the second.
    """

    name: str
    before: str
    after: str


class _Side:
    """What one file holds.

    Attributes:
        values: by their names, in the file's order: what stands for something of its own.
        wholes: what has parts, and tensors, which are more than their elements.
    """

    def __init__(self, contents: Contents, state: str) -> None:
        self._budget = Budget(lambda: contents.size_bytes, contents.path)
        self._digests = Digests(self._budget, contents.path)
        self._deep = Digests(self._budget, contents.path, with_tensors=False)
        self._texts: dict[tuple[int, NodeKind], str] = {}
        self.values: dict[str, Node]
        self.wholes: dict[str, Node]
        listed = list(_compared(contents, state))
        self.values = selection.numbered((name, node) for name, node, is_whole in listed if not is_whole)
        self.wholes = selection.numbered((name, node) for name, node, is_whole in listed if is_whole)

    def digest(self, node: Node) -> bytes:
        """The digest of what stands in a place."""
        if node.kind is NodeKind.ELSEWHERE and node.is_too_deep:
            return self._deep.of(node.origin)
        return self._digests.of(node.origin)

    def text(self, node: Node) -> str:
        """What stands in a place, as Python writes it; of what is long, what it is."""
        key = id(node.origin), node.kind  # a value may stand in very many places
        text = self._texts.get(key) or self._texts.setdefault(key, _text(node))
        self._budget.charge(len(text))
        return text


def _compared(contents: Contents, state: str) -> Iterator[tuple[str, Node, bool]]:
    """The nodes of a state that are compared, each with its name, and whether it has parts.

    What lies in a set has no name, since a set has no order; it is compared with the set.
    """
    inside = 0
    for name, node, depth in selection.walk_deep(contents, state):
        if inside and depth > inside:
            continue
        inside = depth if digests.is_set(node.origin) else 0
        if inside or selection.is_value(node) or node.kind is NodeKind.ELSEWHERE:
            yield name, node, False
        if not inside and (node.children or node.kind is NodeKind.TENSOR):
            yield name, node, True


def differing(
    before: tuple[Contents, str], after: tuple[Contents, str], told: Iterable[str]
) -> list[ValueDifference]:
    """Finds the values that differ between a state of one file and one of another.

    Args:
        before: the first file, and the name of its state.
        after: the second.
        told: the names of the tensors that differ: what holds them differs for that alone.

    Raises:
        UnsafeCheckpointError: a file would take too long, or cannot be compared.
    """
    one, other = _Side(*before), _Side(*after)
    names = dict.fromkeys([*one.values, *other.values])
    formats = before[0].formats | after[0].formats
    is_mixed = before[0].formats != after[0].formats
    if Format.SAFETENSORS in formats and (is_mixed or before[0].parts or after[0].parts):
        # Only safetensors files have texts beside tensors, and of those of a folder each has its own.
        names = {name: None for name in names if not selection.is_text(name)}
    longer = _longer(one, other)
    found = [
        each
        for name in longer
        for each in _difference(name, one, one.wholes[name], other, other.wholes[name])
    ]
    extra = {f"{name}[{at}]" for name, added in longer.items() for at in added}
    for name in (each for each in names if not extra or extra.isdisjoint(_above(each))):
        mine, yours = one.values.get(name), other.values.get(name)
        if mine is None or yours is None:
            found.append(ValueDifference(name, _text_of(one, mine), _text_of(other, yours)))
        elif not mine.children and not yours.children:
            found.extend(_difference(name, one, mine, other, yours))
    if is_mixed and not formats <= _PICKLED:
        return found
    covered = {above for name in [*told, *(each.name for each in found)] for above in _above(name)}
    if before[0].parts or after[0].parts:
        covered.add("")  # how many files a folder has is no difference
    for name in reversed(one.wholes):
        mine, yours = one.wholes[name], other.wholes.get(name)
        if yours is not None and name not in covered and not (mine.origin is None or yours.origin is None):
            more = list(_difference(name, one, mine, other, yours))
            found.extend(more)
            covered.update(above for each in more for above in _above(each.name))
    return found


def _longer(one: _Side, other: _Side) -> dict[str, range]:
    """Lists that are much longer on one side, such as a log, each with the places that it has more."""
    found = {}
    for name, mine in one.wholes.items():
        yours = other.wholes.get(name)
        if yours is not None and mine.kind is yours.kind is NodeKind.LIST:
            least, most = sorted((len(mine.children), len(yours.children)))
            if most - least > _MOST_ITEMS:
                found[name] = range(least, most)
    return found


def _text_of(side: _Side, node: Node | None) -> str:
    return "" if node is None else side.text(node)


def _difference(name: str, one: _Side, mine: Node, other: _Side, yours: Node) -> Iterator[ValueDifference]:
    digests_ = one.digest(mine), other.digest(yours)
    if digests_[0] == digests_[1]:
        return
    texts = one.text(mine), other.text(yours)
    if texts[0] == texts[1]:
        # What is shown is the same: the types tell, or the digests.
        notes = [_type(node) for node in (mine, yours)]
        if notes[0] == notes[1]:
            notes = [f"SHA-256 {digest.hex()[:_SHOWN_DIGITS]}" for digest in digests_]
        texts = f"{texts[0]} ({notes[0]})", f"{texts[1]} ({notes[1]})"
    yield ValueDifference(name, *texts)


def _above(name: str) -> Iterator[str]:
    """The names of all that a name may lie in, and itself."""
    yield name
    yield ""
    for at, character in enumerate(name):
        if character in ".[":
            yield name[:at]


def _type(node: Node) -> str:
    if node.kind is NodeKind.VALUE and node.label:
        return node.label
    return labels.name_text(node.origin) if type(node.origin) is Stub else type(node.origin).__name__


def _text(node: Node) -> str:
    if node.kind is NodeKind.VALUE:
        is_long = type(node.origin) is int and node.value is not node.origin
        return str(node.value) if is_long else repr(node.value)
    if node.kind is NodeKind.TENSOR:
        return "what it is beside its elements"
    is_labelled = node.kind in (NodeKind.OBJECT, NodeKind.MODULE, NodeKind.COMPOSITE, NodeKind.ELSEWHERE)
    return node.label if is_labelled else _container_text(node)


def _container_text(node: Node) -> str:
    if not node.children:
        return f"an empty {node.kind}"
    if node.kind is not NodeKind.MAPPING:
        return f"a {_type(node)} of {len(node.children)}"
    keys = [*node.origin] if isinstance(node.origin, dict) else [key for key, _ in node.origin.pairs]
    shown = [repr(key) if type(key) is str else labels.value_text(key) for key in keys[:_MOST_KEYS]]
    return f"a {_type(node)} with the keys {', '.join(shown)}" + ", ..." * (len(keys) > _MOST_KEYS)
