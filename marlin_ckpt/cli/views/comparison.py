"""The differences that `diff` found between two files."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from marlin_ckpt.cli import output, stopping, table
from marlin_ckpt.cli.table import Column, figure
from marlin_ckpt.cli.text import count, cut
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats.values.distance import Distance
from marlin_ckpt.formats.values.tensor import TensorInfo
from marlin_ckpt.operations.diff import Comparison, Difference, Layer
from marlin_ckpt.operations.values import ValueDifference

_LONGEST_VALUE = 60


class Done:
    """What of a comparison is done."""

    def __init__(self) -> None:
        self._pairs = self._total = 0
        self._differing: list[str] = []

    def pair(self, name: str, total: int, distance: Distance | None) -> None:
        """Counts a tensor, of so many, whose values differ or not."""
        self._pairs, self._total = self._pairs + 1, total
        if distance is not None:
            self._differing.append(name)

    def words(self) -> str:
        """What a comparison that is stopped says."""
        if not self._pairs:
            return "no tensors were compared"
        return stopping.progress(self._pairs, self._total, "tensor", "compared", self._differing, "different")


def show(paths: tuple[str, str], found: Comparison, *, with_same: bool, each: bool) -> None:
    """Prints what differs between two files.

    Args:
        paths: of the files.
        found: what differs.
        with_same: print the tensors that are the same too.
        each: print the distance of each changed tensor, and not only of their layers.
    """
    for path, state in zip(paths, found.states, strict=True):
        if state and found.states[0] != found.states[1]:
            output.talk(f"compared: {escape(state)} of {escape(path)}")
    for value in found.values:
        before, after = (cut(text, _LONGEST_VALUE) or "(none)" for text in _from_difference(value))
        output.data(f"value  {escape(value.name)}  {before} -> {after}")
    for one in found.tensors if with_same else found.differing:
        if one.distance is None:
            output.data(f"{one.change}  {escape(_named(one.name, found.parameters))}  {_change(one)}")
    if each:
        changed = [one for one in found.tensors if one.distance]
        tensors = [(_kind(one.after), _named(one.name, found.parameters), one.distance) for one in changed]
        _table("type", "tensor", tensors)
    layers = [
        (f"{one.changed} of {one.tensors}", _named(one.name, found.parameters) or "-", one.distance)
        for one in found.layers
    ]
    _table("tensors", "layer", layers)
    counts = ", ".join(f"{number} {kind}" for kind, number in found.counts.items() if number)
    summary = f"{count(len(found.tensors), 'tensor')}: {counts or 'none to compare'}"
    if found.values:
        summary += f"; {count(len(found.values), 'other value')} differ{'s' * (len(found.values) == 1)}"
    output.talk(summary)


def _named(name: str, parameters: Mapping[str, str]) -> str:
    """A name, with that of the parameter beside it if it is of an optimizer that numbers its parameters."""
    parameter = parameters.get(name) or parameters.get(name.rpartition(".")[0])
    return f"{name} ({parameter})" if parameter else name


def _from_difference(value: ValueDifference) -> tuple[str, str]:
    """Two texts that differ, from shortly before the place where they do if they are long."""
    both = enumerate(zip(value.before, value.after, strict=False))
    start = next((at for at, (one, other) in both if one != other), 0) - _LONGEST_VALUE // 2
    if start <= _LONGEST_VALUE // 2:
        return value.before, value.after
    return f"...{value.before[start:]}", f"...{value.after[start:]}"


def _table(kind: str, noun: str, rows: Iterable[tuple[str, str, Distance | None]]) -> None:
    cells = []
    for text, name, distance in rows:
        if distance is not None:
            cosine = "-" if distance.cosine is None else f"{distance.cosine:.6f}"
            differing = f"{distance.differing:,}"
            if distance.not_finite:
                differing += f" ({distance.not_finite:,} not finite)"
            bounds = f"{distance.relative:.3g}", f"{distance.maximum:.3g}"
            cells.append([*bounds, cosine, differing, text, escape(name)])
    if cells:
        figures = figure("relative"), figure("maximum", 5), figure("cosine", 6), figure("differing", 4)
        named = Column(noun, least=table.TENSOR_LETTERS)
        table.show(cells, [*figures, Column(kind, rank=7), named])


def _change(one: Difference) -> str:
    if one.change == "reshaped":
        return f"{_kind(one.before)} -> {_kind(one.after)}"
    return _kind(one.after or one.before)


def _kind(tensor: TensorInfo | None) -> str:
    return "" if tensor is None else escape(f"{tensor.dtype} {list(tensor.shape)}")


def document(paths: tuple[str, str], found: Comparison, *, with_same: bool) -> dict[str, Any]:
    """The document of `diff --json`; its arguments are those of `show`."""
    return {
        "paths": paths,
        "states": [state or None for state in found.states],
        "same": found.is_same,
        "counts": found.counts,
        "tensors": [_difference(one) for one in (found.tensors if with_same else found.differing)],
        "layers": [{**facts(one, "name", "tensors", "changed"), **_distance(one)} for one in found.layers],
        "values": [{"name": one.name, **_both(one, lambda text: text or None)} for one in found.values],
    }


def _difference(one: Difference) -> dict[str, Any]:
    both = _both(one, lambda tensor: tensor and facts(tensor, "dtype", "shape"))
    return facts(one, "name", "change") | both | (_distance(one) if one.distance else {})


def _both(one: Any, describe: Callable[[Any], Any]) -> dict[str, Any]:
    return {"before": describe(one.before), "after": describe(one.after)}


def _distance(one: Difference | Layer) -> dict[str, Any]:
    return facts(one.distance, "relative", "maximum", "cosine", "differing", "not_finite")
