"""The tree of a file's contents that `show` prints, with as many levels as fit on a screen."""

import heapq
import itertools
from collections.abc import Callable, Iterator

from marlin_ckpt.cli.table import FILE_LETTERS, Column, figure
from marlin_ckpt.cli.text import count, cut, shape, size, value
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats.content.contents import NodeKind
from marlin_ckpt.formats.content.summary import Branch
from marlin_ckpt.formats.pickle.labels import join
from marlin_ckpt.operations.selection import Order, arranged

COLUMNS = (
    Column("name", least=FILE_LETTERS),
    Column("holds", least=16, cut="end"),
    Column("dtype", rank=7),
    figure("elements", 6),
    figure("size", 5),
)
_MOST_ROWS = 40  # of a tree without --depth
_MOST_DTYPES = 3
_LONGEST_LABEL = 60  # characters of a part of a name, or of the name of a class


def rows(whole: Branch, depth: int | None, order: Order) -> tuple[list[list[str]], bool]:
    """Lays out the tree.

    Args:
        whole: the root.
        depth: how many levels; None: as many as fit on a screen.
        order: of siblings.

    Returns:
        the rows, with a cell for each of COLUMNS, and whether no level was left out for want of room.
    """
    if depth is not None:
        return list(_rows(whole, order, lambda _, level: level < depth)), True
    opened, is_whole = _opened(whole)
    found = list(itertools.islice(_rows(whole, order, lambda one, _: id(one) in opened), _MOST_ROWS))
    if len(whole.children) > _MOST_ROWS:
        found.append([f"... {len(whole.children) - _MOST_ROWS} more", "", "", "", ""])
    return found, is_whole


def _opened(whole: Branch) -> tuple[set[int], bool]:
    """Chooses the branches whose children are shown, so that all fits on a screen.

    Returns:
        their ids, and whether these are all branches. The upper level comes first, then the largest branch.
    """
    opened: set[int] = set()
    room = _MOST_ROWS - len(whole.children)
    is_whole = room >= 0
    numbers = itertools.count()
    pending = [(1, -child.size_bytes, next(numbers), child) for child in whole.children[:_MOST_ROWS]]
    heapq.heapify(pending)
    while pending:
        level, _, _, branch = heapq.heappop(pending)
        branch = _end(branch) if level > 1 else branch
        # The parts of an array or a number of NumPy's would not help a reader.
        if branch.node is not None and branch.node.label.startswith("numpy."):
            continue
        if len(branch.children) > room:
            is_whole = False
            continue
        opened.add(id(branch))
        room -= len(branch.children)
        for child in branch.children:
            heapq.heappush(pending, (2, -child.size_bytes, next(numbers), child))
    return opened, is_whole


def _rows(whole: Branch, order: Order, is_open: Callable[[Branch, int], bool]) -> Iterator[list[str]]:
    pending = [(child, 1) for child in _siblings(whole, order)] or [(whole, 1)]
    pending.reverse()
    while pending:
        branch, level = pending.pop()
        end = _end(branch) if level > 1 else branch
        name = "  " * (level - 1) + cut(_path(branch, end) or "(the whole)", _LONGEST_LABEL)
        numbers = [f"{end.numel:,}", size(end.size_bytes)] if end.tensors else ["", ""]
        yield [name, _holds(end), _dtypes(end), *numbers]
        if is_open(end, level):
            pending.extend((child, level + 1) for child in reversed(_siblings(end, order)))


def _end(branch: Branch) -> Branch:
    """Follows a chain of only children, which is shown as one row, to its end."""
    while len(branch.children) == 1 and branch.times == 1:
        (only,) = branch.children
        is_plain = branch.node is not None and branch.node.kind in (
            NodeKind.MAPPING,
            NodeKind.LIST,
            NodeKind.TUPLE,
        )
        if branch.node is not None and not (is_plain and only.children):
            break
        branch = only
    return branch


def _path(branch: Branch, end: Branch) -> str:
    key = branch.key
    while branch is not end:
        (branch,) = branch.children
        key = join(key, branch.key)
    return key


def _siblings(branch: Branch, order: Order) -> list[Branch]:
    named = [child for child in branch.children if child.key or child.tensors]
    return arranged(named, order, lambda one: one.key, lambda one: one.size_bytes)


def _holds(branch: Branch) -> str:
    node = branch.node
    if node is not None and node.tensor is not None:
        sizes = "shapes vary" if branch.shape is None else shape(branch.shape)
        about = f", {cut(node.label, _LONGEST_LABEL)}" if node.label and branch.times == 1 else ""
        return sizes + about + (f", same as {cut(branch.same_as)}" if branch.same_as else "")
    if node is not None and node.kind is NodeKind.VALUE:
        return value(node.value) if branch.is_value_common else "values vary"
    parts = [f"{branch.times} alike"] if branch.times > 1 else []
    if node is not None and node.label:
        parts.append(cut(node.label, _LONGEST_LABEL))
    if branch.tensors:
        parts.append(count(branch.tensors, "tensor"))
    elif node is not None and node.kind in (NodeKind.MAPPING, NodeKind.LIST, NodeKind.TUPLE):
        parts.append(f"{len(branch.children):,} inside" if branch.children else "empty")
    return ", ".join(parts)


def _dtypes(branch: Branch) -> str:
    dtypes = sorted(branch.dtypes)
    return f"{len(dtypes)} dtypes" if len(dtypes) > _MOST_DTYPES else escape(", ".join(dtypes))
