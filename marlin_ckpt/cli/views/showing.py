"""What is said by `show`."""

from __future__ import annotations

import fnmatch
import heapq
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from marlin_ckpt.cli import output
from marlin_ckpt.cli.views.text import count, escape, metrics, size, value
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats.content.optimizers import Optimizer, find_optimizers, join
from marlin_ckpt.formats.content.outline import Kind, Outline, Tensor
from marlin_ckpt.formats.content.summary import Branch, summarise
from marlin_ckpt.formats.pickle import permissions
from marlin_ckpt.formats.pickle.permissions import Permission
from marlin_ckpt.storage.source import Source

if TYPE_CHECKING:
    from marlin_ckpt.formats.values.statistics import Statistics

_MOST_ROWS = 40  # of a tree whose depth nobody asked for
_MOST_GROUPS = 16  # of an optimizer's hyper-parameters
_MOST_DTYPES = 3
_DIGITS = re.compile(r"(\d+)")
_BARS = " ▁▂▃▄▅▆▇█"
_LONGEST_LABEL = 60  # characters of a part of a name, or of what an object is, in the tree
_LONGEST_KEY = 200  # characters; no name that anybody gave is longer


def chosen(found: Outline, pattern: str | None, order: str) -> list[Tensor]:
    """The tensors whose names fit a pattern, sorted.

    Args:
        found: the file.
        pattern: as a shell's, in which `*` is any text; None: all.
        order: `order`, `name` or `size`.

    Raises:
        MarlinError: none fits, of those that there are.
    """
    tensors = [one for one in found.tensors if pattern is None or fnmatch.fnmatchcase(one.name, pattern)]
    if found.tensors and not tensors:
        hint = f"its first tensor is {found.tensors[0].name}"
        raise MarlinError(f"no tensor has a name like {pattern}", found.path, hint)
    return _sorted(tensors, order, lambda one: one.name, lambda one: one.size_bytes)


_Item = TypeVar("_Item")


def _sorted(
    items: Iterable[_Item], order: str, name: Callable[[_Item], str], size_of: Callable[[_Item], int]
) -> list[_Item]:
    if order == "size":
        return sorted(items, key=size_of, reverse=True)
    return sorted(items, key=lambda one: _natural(name(one))) if order == "name" else list(items)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts `h.2` in front of `h.10`."""
    parts = _DIGITS.split(name[:_LONGEST_KEY])
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def read(source: Source, found: Outline, listed: Sequence[Tensor]) -> list[Statistics]:
    """Reads some tensors of a file, and checks their records where they have checksums."""
    from marlin_ckpt.formats.values import statistics
    from marlin_ckpt.formats.values.checking import check_tensors

    check_tensors(source, found, listed)
    return [statistics.statistics(source, one) for one in listed]


def outline(found: Outline, depth: int | None, order: str) -> None:
    """Prints what a file is and holds.

    Args:
        found: the file.
        depth: how many levels of the tree; None: as many as fit a screen.
        order: of the siblings in the tree: `order`, `name` or `size`.
    """
    whole = summarise(found.root)
    for title, text in _facts(found, whole):
        output.data(f"{title:<10} {text}")
    rows, is_whole = _tree(whole, depth, order)
    if rows:
        output.data("")
        output.table(["name", "holds", "dtype", "elements", "size"], rows, {3, 4})
    if not is_whole:
        output.talk("hint: --depth N shows more levels, --tensors '*' lists every tensor")


def _facts(found: Outline, whole: Branch) -> Iterator[tuple[str, str]]:
    yield "file", f"{escape(found.path)}  {size(found.size_bytes)}, {_FORMATS[found.format]}"
    manifest = found.manifest
    if manifest is not None:
        yield "kind", f"{manifest.kind}, index {manifest.index}, {escape(manifest.created)}"
        yield "run", f"{escape(manifest.run_id)}, save {manifest.save_number}"
        if manifest.metrics:
            yield "metrics", metrics(manifest.metrics)
        if manifest.versions:
            versions = sorted(manifest.versions.items())
            yield "versions", ", ".join(f"{escape(name)} {escape(one)}" for name, one in versions)
        if manifest.lost:
            yield "lost", f"{count(len(manifest.lost), 'tensor')}: {escape(', '.join(manifest.lost[:3]))}"
    if found.root.kind is Kind.OBJECT:
        yield "object", _short(found.root.label)
    tensors = count(whole.tensors, "tensor")
    yield "tensors", f"{tensors}, {whole.numel:,} elements, {size(whole.size_bytes)}"
    for one in find_optimizers(found.root):
        yield from _optimizer(one)
    yield from _imports(found)


_FORMATS = {
    "zip": "a torch.save file",
    "legacy": "a legacy torch.save file, which has no checksums",
    "safetensors": "a safetensors file, which has no checksums",
}


def _optimizer(one: Optimizer) -> Iterator[tuple[str, str]]:
    where = escape(one.name) or "the file"
    yield "optimizer", f"{where}: {one.kind or 'of a kind that is not known'}"
    for number, group in enumerate(one.groups[:_MOST_GROUPS]):
        params = "" if group["params"] is None else f"{count(group['params'], 'parameter')}, "
        shown = [f"{escape(key)} {value(one)}" for key, one in group.items() if _is_told(key, one)]
        yield "", f"group {number}: {params}{', '.join(shown)}"
    if len(one.groups) > _MOST_GROUPS:
        yield "", f"... {len(one.groups) - _MOST_GROUPS} more"


def _is_told(key: str, setting: Any) -> bool:
    """Whether a hyper-parameter is worth a word; most are switches that are off."""
    return key != "params" and setting is not None and setting is not False


def _imports(found: Outline) -> Iterator[tuple[str, str]]:
    allowed = [name for name in found.imports if name in permissions.ALLOWED]
    others = [name for name in found.imports if name not in permissions.ALLOWED]
    if allowed:
        yield "imports", ", ".join(map(_short, allowed))
    for name in others:
        is_dangerous = permissions.permission(name) is Permission.DANGEROUS
        yield "UNSAFE", _short(name) + (", which runs code: never allow it" if is_dangerous else "")
    code = permissions.loading_code(found.path, found.imports, found.numpy_types)
    for number, line in enumerate(code):
        yield "" if number else "to load", escape(line)
    if code:
        yield "", "but only if you trust whoever wrote the file"


def _short(name: str, longest: int = _LONGEST_KEY) -> str:
    return escape(name if len(name) <= longest else name[:longest] + "...")


def _tree(whole: Branch, depth: int | None, order: str) -> tuple[list[list[str]], bool]:
    """The rows of the tree, and whether they are all that there is."""
    if depth is not None:
        return list(_rows(whole, order, lambda _, level: level < depth)), True
    opened, is_whole = _opened(whole)
    rows = list(itertools.islice(_rows(whole, order, lambda one, _: id(one) in opened), _MOST_ROWS))
    if len(whole.children) > _MOST_ROWS:
        rows.append([f"... {len(whole.children) - _MOST_ROWS} more", "", "", "", ""])
    return rows, is_whole


def _opened(whole: Branch) -> tuple[set[int], bool]:
    """Which branches to show with what lies in them, so that all fits on a screen.

    Returns:
        their ids, and whether that is all of them. The upper level comes first, then what takes most space.
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
        if _is_numpys(branch):
            continue
        if len(branch.children) > room:
            is_whole = False
            continue
        opened.add(id(branch))
        room -= len(branch.children)
        for child in branch.children:
            heapq.heappush(pending, (2, -child.size_bytes, next(numbers), child))
    return opened, is_whole


def _is_numpys(branch: Branch) -> bool:
    """Whether what lies in an object is how numpy writes an array or a number."""
    return branch.node is not None and branch.node.label.startswith("numpy.")


def _rows(whole: Branch, order: str, is_open: Callable[[Branch, int], bool]) -> Iterator[list[str]]:
    """The rows of a tree."""
    pending = [(child, 1) for child in _siblings(whole, order)] or [(whole, 1)]
    pending.reverse()
    while pending:
        branch, level = pending.pop()
        end = _end(branch) if level > 1 else branch
        name = "  " * (level - 1) + _short(_path(branch, end) or "(the whole)", _LONGEST_LABEL)
        numbers = [f"{end.numel:,}", size(end.size_bytes)] if end.tensors else ["", ""]
        yield [name, _holds(end), _dtypes(end), *numbers]
        if is_open(end, level):
            pending.extend((child, level + 1) for child in reversed(_siblings(end, order)))


def _end(branch: Branch) -> Branch:
    """Where a chain of branches ends of which each is all that lies in the one before."""
    while len(branch.children) == 1 and branch.times == 1:
        (only,) = branch.children
        is_plain = branch.node is not None and branch.node.kind in (Kind.MAPPING, Kind.LIST, Kind.TUPLE)
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


def _siblings(branch: Branch, order: str) -> list[Branch]:
    named = [child for child in branch.children if child.key or child.tensors]
    return _sorted(named, order, lambda one: one.key, lambda one: one.size_bytes)


def _holds(branch: Branch) -> str:
    node = branch.node
    if node is not None and node.tensor is not None:
        shape = "shapes vary" if branch.shape is None else _shape(branch.shape)
        return shape + (f", same as {_short(branch.same_as)}" if branch.same_as else "")
    if node is not None and node.kind is Kind.VALUE:
        return value(node.value) if branch.is_value_common else "values vary"
    parts = [f"{branch.times} alike"] if branch.times > 1 else []
    if node is not None and node.label:
        parts.append(_short(node.label, _LONGEST_LABEL))
    if branch.tensors:
        parts.append(count(branch.tensors, "tensor"))
    elif node is not None and node.kind in (Kind.MAPPING, Kind.LIST, Kind.TUPLE):
        parts.append(f"{len(branch.children):,} inside" if branch.children else "empty")
    return ", ".join(parts)


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _dtypes(branch: Branch) -> str:
    dtypes = sorted(branch.dtypes)
    return f"{len(dtypes)} dtypes" if len(dtypes) > _MOST_DTYPES else escape(", ".join(dtypes))


def tensors(listed: Sequence[Tensor]) -> None:
    """Prints a line for each tensor."""
    rows = [
        [_short(one.name), _shape(one.shape), escape(one.dtype), f"{one.numel:,}", size(one.size_bytes)]
        for one in listed
    ]
    output.table(["name", "shape", "dtype", "elements", "size"], rows, {3, 4})


def figures(found: Sequence[Statistics]) -> None:
    """Prints a line of figures for each tensor that was read."""
    rows = [
        [
            _short(one.tensor.name), _shape(one.tensor.shape), _figure(one.minimum), _figure(one.maximum),
            _figure(one.mean), _figure(one.std), str(one.nans), str(one.infinities), _bars(one.histogram),
        ]
        for one in found
    ]  # fmt: skip
    titles = ["name", "shape", "min", "max", "mean", "std", "NaN", "Inf", "histogram"]
    output.table(titles, rows, set(range(2, 8)))


def _figure(number: float) -> str:
    return "-" if number != number else f"{number:.4g}"  # noqa: PLR0124 - NaN alone differs from itself


def _bars(histogram: Sequence[int]) -> str:
    """A histogram in one line; what is not empty can be seen."""
    most = max(histogram, default=0)
    return "".join(_BARS[-(-part * (len(_BARS) - 1) // most)] if part else " " for part in histogram)
