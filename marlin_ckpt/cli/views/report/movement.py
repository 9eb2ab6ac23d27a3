"""The section of what moved: a heat map of the change of each tensor's norm, one byte a cell."""

from __future__ import annotations

import base64
import bisect
import math
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from marlin_ckpt.cli.text import count
from marlin_ckpt.cli.views.report.parts.blocks import block_of
from marlin_ckpt.cli.views.report.parts.figures import UNKNOWN, number, percent, where
from marlin_ckpt.cli.views.report.parts.markup import Html, details, join, name, section, table, tag
from marlin_ckpt.operations.report.values import Movement, Report

# What a byte stands for; the script has the same.
NO_VALUE, UNMOVED, LEAST, MOST, DEAD, INFINITE, NAN = 0, 1, 2, 251, 252, 253, 254
_MOST_CELLS = 4000  # whose numbers are in the page as a table; of more each tensor's are summed up
_MOST_COUNTED = 3000  # cells whose NaN and infinite values are counted
_FLOOR = 1e-8  # below it a change is rounding
SHADES = 9


def show(report: Report, heat: dict[str, Any]) -> Html:
    """The section; without statistics a sentence that says how to get them.

    Args:
        report: of which directory.
        heat: takes what the script draws.
    """
    moved = report.movement
    if not report.is_directory or not report.points:
        return Html("")
    if moved is None or not moved.columns or not moved.tensors:
        return section("movement", "What moved", _how_to_get())
    known = _known(moved)
    low, high = _range(known)
    shaded = _shaded(known)
    heat.update(
        rows=list(moved.tensors),
        blocks=[block_of(one) for one in moved.tensors],
        columns=[_column(report, place) for place in moved.columns],
        cells=base64.b64encode(cells(moved, low, high)).decode(),
        low=low,
        high=high,
        shaded=shaded,
        counts=_counts(moved),
    )
    said = [
        "The change of the norm: how far the L2 norm of each tensor is from that in the checkpoint before.",
        "A block shows the greatest change of its tensors.",
    ]
    if any(report.points[place].index is not None for place in moved.columns):
        said.append("A column is a checkpoint, named by its index.")
    if moved.missing:
        said.append(f"{count(moved.missing, 'checkpoint')} without statistics left out.")
    if moved.left_out:
        said.append(f"{count(moved.left_out, 'checkpoint')} with statistics left out, as there are so many.")
    note = tag("p", " ".join(said), class_="quiet")
    unfold = tag("button", "Unfold all", type="button", id="unfold", hidden=True)
    script = tag("p", "A script draws the map; the numbers are in the table below.", class_="quiet noscript")
    names = tag("ol", id="heat-names", class_="heat-names")
    canvas = tag("canvas", id="heat-cells", role="img", aria_label="Change of the norm of each tensor")
    foot = tag("div", id="heat-foot", class_="heat-foot", aria_hidden="true")
    drawn = tag("div", canvas, foot, id="heat-scroll", class_="heat-scroll")
    picture = tag("div", names, drawn, class_="heat", id="heat", hidden=True)
    return section(
        "movement",
        "What moved",
        note,
        tag("div", _legend(*shaded), unfold, class_="heat-head"),
        script,
        picture,
        *_tables(report, moved),
    )


def _how_to_get() -> Html:
    return tag(
        "p",
        "The checkpoints have no statistics of their tensors. With ",
        tag("code", "checkpointer.statistics: true"),
        " in the configuration each save writes them; for files that are there, run ",
        tag("code", "marlin-ckpt report DIR --stats"),
        ".",
        class_="quiet",
    )


def _column(report: Report, place: int) -> list[str]:
    point = report.points[place]
    return [point.name, where(point), "" if point.index is None else str(point.index)]


def _known(moved: Movement) -> list[float]:
    """All changes that are more than rounding, in order of size."""
    return sorted([one for row in moved.change for one in row if one is not None and _FLOOR < one < math.inf])


def _range(known: Sequence[float]) -> tuple[float, float]:
    """Of the bytes: the least and greatest change, in whole powers of ten."""
    low, high = (known[0], known[-1]) if known else (1e-4, 1.0)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return 10.0**first, 10.0 ** max(last, first + 1)


def _shaded(known: Sequence[float]) -> tuple[float, float]:
    """Of the shades: without the fiftieth at each end, so that outliers leave the others their shades."""
    low, high = (known[len(known) // 50], known[-1 - len(known) // 50]) if known else (1e-4, 1.0)
    first, last = math.floor(2 * math.log10(low)), math.ceil(2 * math.log10(high))
    return _half_decade(first), _half_decade(max(last, first + 1))


def _half_decade(number: int) -> float:
    """1, 3, 10, 30 and so on."""
    return 10.0 ** (number // 2) * (3 if number % 2 else 1)


def cells(moved: Movement, low: float, high: float) -> bytes:
    """A byte for each tensor and checkpoint, row by row."""
    step = math.log(high / low) / (MOST - LEAST)
    # Up to which change each byte is, from NO_VALUE for None on; a logarithm of each takes twice as long.
    limits = [-0.5, _FLOOR, *(low * math.exp((number + 0.5) * step) for number in range(MOST - LEAST))]
    drawn = bytearray()
    for row, changes in enumerate(moved.change):
        places = [-1.0 if one is None or math.isinf(one) else one for one in changes]
        drawn += bytes(map(bisect.bisect_left, repeat(limits), places))
        start = len(drawn) - len(changes)
        for sign, flags in (
            (DEAD, moved.dead[row]),
            (INFINITE, moved.infinities[row]),
            (NAN, moved.nans[row]),
        ):
            if any(flags):
                for column in (column for column, flag in enumerate(flags) if flag):
                    drawn[start + column] = sign
    return bytes(drawn)


def _counts(moved: Movement) -> dict[str, list[int]]:
    """How many values are NaN and infinite, by the number of the cell."""
    width = len(moved.columns)
    found: dict[str, list[int]] = {}
    for row, counts in enumerate(zip(moved.nans, moved.infinities, strict=True)):
        if not any(map(any, counts)):  # as of most tensors
            continue
        for column, pair in enumerate(zip(*counts, strict=True)):
            if any(pair) and len(found) < _MOST_COUNTED:
                found[str(row * width + column)] = [one or 0 for one in pair]
    return found


def _legend(low: float, high: float) -> Html:
    shades = "".join(f'<rect class="q{n}" x="{n * 16}" y="0" width="16" height="14"/>' for n in range(SHADES))
    ramp = tag("svg", Html(shades), width=16 * SHADES, height=14, aria_hidden="true", id="heat-ramp")
    signs = (
        ("sign-nan", "NaN or Inf inside"),
        ("sign-dead", "dead: all values equal"),
        ("sign-none", "no value before"),
    )
    items = [tag("li", f"\u2264 {percent(low)} ", ramp, f" \u2265 {percent(high)}", class_="ramp")]
    items += [
        tag("li", tag("span", class_=f"swatch {sign}", aria_hidden="true"), words) for sign, words in signs
    ]
    return tag("ul", *items, class_="legend")


def _state(moved: Movement, row: int, column: int) -> str:
    parts = [
        f"{found:,} {word}"
        for found, word in ((moved.nans[row][column], "NaN"), (moved.infinities[row][column], "Inf"))
        if found
    ]
    if moved.dead[row][column]:
        parts.append("dead")
    return ", ".join(parts)


def _cell(moved: Movement, row: int, column: int) -> str:
    change = moved.change[row][column]
    return _state(moved, row, column) or (UNKNOWN if change is None else percent(change))


def _tables(report: Report, moved: Movement) -> list[Html]:
    rows, columns = range(len(moved.tensors)), range(len(moved.columns))
    found = []
    if len(rows) * len(columns) <= _MOST_CELLS:
        titles = ["Tensor", *(join([_column(report, place)[1]]) for place in moved.columns)]
        body = [
            [name(moved.tensors[row]), *(_cell(moved, row, column) for column in columns)] for row in rows
        ]
        numbers = table(
            titles, body, caption="Change of the norm", numeric=range(1, len(titles)), id="movement-table"
        )
        found.append(details(f"Table of the changes ({count(len(body), 'tensor')})", numbers))
    else:
        chosen = tag("select", id="block-choice")
        label = tag("label", "Block ", chosen)
        room = tag("div", id="block-table")
        found.append(
            details("Table of the changes, of one block", label, room, id="block-details", hidden=True)
        )
    body = [_summed(report, moved, row) for row in rows]
    titles = [
        "Tensor",
        "Norm at first",
        "Norm at last",
        "Greatest change",
        "at",
        "Last change",
        "NaN, Inf, dead",
    ]
    summed = table(titles, body, caption="Each tensor over all checkpoints", numeric=(1, 2, 3, 5))
    return [*found, details(f"Each tensor over all checkpoints ({count(len(body), 'row')})", summed)]


def _summed(report: Report, moved: Movement, row: int) -> list[Any]:
    norms = [one for one in moved.norms[row] if one is not None]
    changes = [one for one in moved.change[row] if one is not None]
    greatest = max(changes, default=None)
    column_of = None if greatest is None else _last(moved.change[row], greatest)
    signs = moved.nans[row], moved.infinities[row], moved.dead[row]
    states = [
        f"{_state(moved, row, column)} at {_column(report, moved.columns[column])[1]}"
        for column, each in enumerate(zip(*signs, strict=True) if any(map(any, signs)) else ())
        if any(each)
    ]
    return [
        name(moved.tensors[row]),
        number(norms[0]) if norms else UNKNOWN,
        number(norms[-1]) if norms else UNKNOWN,
        UNKNOWN if greatest is None else percent(greatest),
        "" if column_of is None else _column(report, moved.columns[column_of])[1],
        percent(changes[-1]) if changes else UNKNOWN,
        states[0] + (f", and {count(len(states) - 1, 'more checkpoint')}" if states[1:] else "")
        if states
        else "",
    ]


def _last(values: Sequence[float | None], value: float) -> int:
    """The last place of a value that is there."""
    return len(values) - 1 - values[::-1].index(value)
