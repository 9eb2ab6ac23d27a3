"""What is said by `diff`, and of the files that `export` and `average` write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marlin_ckpt.cli import output
from marlin_ckpt.cli.views.text import count, escape, size

if TYPE_CHECKING:
    from marlin_ckpt.formats.values.distance import Distance
    from marlin_ckpt.formats.values.tensor import Tensor
    from marlin_ckpt.operations.diff import Comparison, Difference
    from marlin_ckpt.operations.export import Exported

_LONGEST_VALUE = 60
_MOST_NAMES = 3


def differences(paths: tuple[str, str], found: Comparison, *, with_same: bool, each: bool) -> None:
    """Prints what differs between two files.

    Args:
        paths: of the files.
        found: what differs.
        with_same: whether tensors that do not are told of too.
        each: whether changed tensors are told of one by one, and not only their layers.
    """
    for path, state in zip(paths, found.states, strict=True):
        if state and found.states[0] != found.states[1]:
            output.talk(f"compared: {escape(state)} of {escape(path)}")
    for value in found.values:
        before, after = (_shortened(text) or "(none)" for text in (value.before, value.after))
        output.data(f"value  {escape(value.name)}  {before} -> {after}")
    for one in found.tensors:
        if one.distance is None and (with_same or one.change != "same"):
            output.data(f"{one.change}  {escape(one.name)}  {_change(one)}")
    if each:
        _table(
            "tensor",
            [([escape(one.name), _kind(one.after)], one.distance) for one in found.tensors if one.distance],
        )
    layers = [
        ([escape(one.name) or "-", f"{one.changed} of {one.tensors}"], one.distance) for one in found.layers
    ]
    _table("layer", layers)
    told = ", ".join(f"{number} {kind}" for kind, number in found.counts.items() if number)
    values = f"; {count(len(found.values), 'other value')} differ{'s' * (len(found.values) == 1)}" * bool(
        found.values
    )
    output.talk(f"{count(len(found.tensors), 'tensor')}: {told or 'none to compare'}{values}")


def _table(noun: str, rows: list[tuple[list[str], Distance]]) -> None:
    if not rows:
        return
    second = "tensors" if noun == "layer" else "type"
    headers = ["relative", "maximum", "cosine", "differing", second, noun]
    cells = []
    for (name, kind), distance in rows:
        cosine = "-" if distance.cosine is None else f"{distance.cosine:.6f}"
        differing = f"{distance.differing:,}" + f" ({distance.not_finite:,} not finite)" * bool(
            distance.not_finite
        )
        cells.append([f"{distance.relative:.3g}", f"{distance.maximum:.3g}", cosine, differing, kind, name])
    output.table(headers, cells, {0, 1, 2, 3})


def _change(one: Difference) -> str:
    if one.change == "reshaped":
        return f"{_kind(one.before)} -> {_kind(one.after)}"
    return _kind(one.after or one.before)


def _kind(tensor: Tensor | None) -> str:
    return "" if tensor is None else escape(f"{tensor.dtype} {list(tensor.shape)}")


def _shortened(text: str) -> str:
    return escape(text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "...")


def exported(done: Exported) -> None:
    """Says what a file of weights holds, and what it does not."""
    for name, number in sorted(done.became_infinite.items()):
        output.talk(
            f"warning: {count(number, 'value')} of {escape(name)} became infinite: too large for the dtype"
        )
    if done.left_out:
        names = ", ".join(map(escape, done.left_out[:_MOST_NAMES])) + ", ..." * (
            len(done.left_out) > _MOST_NAMES
        )
        output.talk(f"left out, without the prefix: {count(len(done.left_out), 'tensor')} ({names})")
    if done.values_left_out:
        output.talk(f"left out: {count(done.values_left_out, 'value')} besides the tensors")
    shared = f", {len(done.shared)} of them other names of another" * bool(done.shared)
    state = escape(done.state) or "the whole state"
    tensors = count(done.tensors, "tensor") + shared
    output.talk(f"wrote {escape(done.path)}: {state}, {tensors}, {size(done.size_bytes)}")
