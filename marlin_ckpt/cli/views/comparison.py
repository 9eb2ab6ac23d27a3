"""The differences that `diff` found between two files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import count, cut, escape
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.formats.values.distance import Distance
from marlin_ckpt.formats.values.tensor import Tensor
from marlin_ckpt.operations.diff import Comparison, Difference

_LONGEST_VALUE = 60


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
        before, after = (cut(text, _LONGEST_VALUE) or "(none)" for text in (value.before, value.after))
        output.data(f"value  {escape(value.name)}  {before} -> {after}")
    for one in found.tensors if with_same else found.differing:
        if one.distance is None:
            output.data(f"{one.change}  {escape(one.name)}  {_change(one)}")
    if each:
        changed = [one for one in found.tensors if one.distance]
        _table("type", "tensor", [(_kind(one.after), one.name, one.distance) for one in changed])
    layers = [(f"{one.changed} of {one.tensors}", one.name or "-", one.distance) for one in found.layers]
    _table("tensors", "layer", layers)
    counts = ", ".join(f"{number} {kind}" for kind, number in found.counts.items() if number)
    summary = f"{count(len(found.tensors), 'tensor')}: {counts or 'none to compare'}"
    if found.values:
        summary += f"; {count(len(found.values), 'other value')} differ{'s' * (len(found.values) == 1)}"
    output.talk(summary)


def _table(kind: str, noun: str, rows: Iterable[tuple[str, str, Distance | None]]) -> None:
    cells = []
    for text, name, distance in rows:
        if distance is not None:
            cosine = "-" if distance.cosine is None else f"{distance.cosine:.6f}"
            differing = f"{distance.differing:,}"
            if distance.not_finite:
                differing += f" ({distance.not_finite:,} not finite)"
            figures = [f"{distance.relative:.3g}", f"{distance.maximum:.3g}", cosine, differing]
            cells.append([*figures, text, escape(name)])
    if cells:
        output.table(["relative", "maximum", "cosine", "differing", kind, noun], cells, {0, 1, 2, 3})


def _change(one: Difference) -> str:
    if one.change == "reshaped":
        return f"{_kind(one.before)} -> {_kind(one.after)}"
    return _kind(one.after or one.before)


def _kind(tensor: Tensor | None) -> str:
    return "" if tensor is None else escape(f"{tensor.dtype} {list(tensor.shape)}")


def document(paths: tuple[str, str], found: Comparison, *, with_same: bool) -> dict[str, Any]:
    """The document of `diff --json`; its arguments are those of `show`."""
    return {
        "paths": list(paths),
        "states": [state or None for state in found.states],
        "same": found.is_same,
        "counts": found.counts,
        "tensors": [_difference(one) for one in (found.tensors if with_same else found.differing)],
        "layers": [
            {**facts(one, "name", "tensors", "changed"), **_distance(one.distance)} for one in found.layers
        ],
        "values": [
            {"name": one.name, "before": one.before or None, "after": one.after or None}
            for one in found.values
        ],
    }


def _difference(one: Difference) -> dict[str, Any]:
    found = {
        "name": one.name,
        "change": str(one.change),
        "before": _tensor(one.before),
        "after": _tensor(one.after),
    }
    return found if one.distance is None else {**found, **_distance(one.distance)}


def _tensor(one: Tensor | None) -> dict[str, Any] | None:
    return None if one is None else {"dtype": one.dtype, "shape": list(one.shape)}


def _distance(one: Distance) -> dict[str, Any]:
    return facts(one, "relative", "maximum", "cosine", "differing", "not_finite")
