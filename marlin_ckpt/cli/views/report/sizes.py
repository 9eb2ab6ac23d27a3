"""The section of sizes: which blocks and parameters take how many bytes of the newest checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from marlin_ckpt.cli.text import count, shape, size
from marlin_ckpt.cli.views.report.parts import plotting
from marlin_ckpt.cli.views.report.parts.blocks import block_of
from marlin_ckpt.cli.views.report.parts.figures import percent
from marlin_ckpt.cli.views.report.parts.markup import Html, details, name, section, short, table, tag
from marlin_ckpt.operations.report.values import Report, Size

_GROUPS = ("module", "optimizer", "other")
_SAID = {"module": "module", "optimizer": "optimizer", "other": "other state"}
_MOST_BARS = 12


def show(report: Report) -> Html:
    """The section; empty where no checkpoint could be read."""
    if not report.sizes:
        return Html("")
    total = sum(one.size_bytes for one in report.sizes) or 1
    groups = [group for group in _GROUPS if any(one.group == group for one in report.sizes)]
    by_group = {group: sum(one.size_bytes for one in report.sizes if one.group == group) for group in groups}
    of: list[object] = (
        [" of ", short(report.points[report.newest].name)]
        if report.newest is not None and report.is_directory
        else []
    )
    legend = [
        tag(
            "li",
            _sample(group),
            f"{_SAID[group]} ",
            tag("b", size(by_group[group])),
            f" {_part(by_group[group] / total)}",
        )
        for group in groups
    ]
    blocks = _blocks(report.sizes)
    ordered = sorted(blocks, key=lambda block: -sum(blocks[block].values()))
    shown, rest = ordered[:_MOST_BARS], ordered[_MOST_BARS:]
    bars = [_bar(short(block, 40), blocks[block], _most(blocks, shown), total) for block in shown]
    if rest:
        left = sum(sum(blocks[block].values()) for block in rest)
        words = f"{count(len(rest), 'other block')}: {size(left)}, {_part(left / total)}"
        bars.append(tag("li", tag("span", words, class_="quiet"), class_="rest"))
    return section(
        "sizes",
        "Where the bytes are",
        tag("p", f"{size(total)} in {count(len(report.sizes), 'tensor')}", *of, ".", class_="quiet"),
        tag("ul", *legend, class_="legend"),
        tag("ol", *bars, class_="bars"),
        details(
            f"Table of the tensors by layer ({count(len(_layers(report.sizes)), 'row')})",
            _table(report.sizes, total),
        ),
    )


def _most(blocks: Mapping[str, Mapping[str, int]], shown: Sequence[str]) -> int:
    return max(sum(blocks[block].values()) for block in shown) or 1


def _sample(group: str) -> Html:
    square = Html(f'<rect class="g-{group}" x="1" y="1" width="12" height="12" rx="2"/>')
    return tag("svg", square, width=14, height=14, aria_hidden="true")


def _parameter(one: Size) -> str:
    """The parameter that a tensor belongs to: its name, without what it is of that in an optimizer."""
    return one.name.partition(": ")[0] if one.group == "optimizer" else one.name


def _blocks(sizes: Sequence[Size]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for one in sizes:
        block = found.setdefault(block_of(_parameter(one)), dict.fromkeys(_GROUPS, 0))
        block[one.group] += one.size_bytes
    return found


def _bar(label: Html, parts: Mapping[str, int], most: int, total: int) -> Html:
    drawn, x = [], 0.0
    for group in _GROUPS:
        if parts[group]:
            width = parts[group] / most
            at, wide = plotting.percent(x), plotting.percent(width)
            drawn.append(f'<rect class="g-{group}" x="{at}" y="0" height="12" width="{wide}"/>')
            x += width
    whole = sum(parts.values())
    return tag(
        "li",
        tag("span", label, class_="label"),
        tag("svg", Html("".join(drawn)), height=12, width="100%", aria_hidden="true"),
        tag("span", size(whole), class_="n"),
        tag("span", _part(whole / total), class_="n quiet"),
    )


def _layers(sizes: Sequence[Size]) -> dict[str, list[Size]]:
    found: dict[str, list[Size]] = {}
    for one in sizes:
        found.setdefault(_parameter(one), []).append(one)
    return found


def _table(sizes: Sequence[Size], total: int) -> Html:
    rows: list[list[Any]] = []
    for layer, tensors in _layers(sizes).items():
        first = next((one for one in tensors if one.group == "module"), tensors[0])
        whole = sum(one.size_bytes for one in tensors)
        by_group = [sum(one.size_bytes for one in tensors if one.group == group) for group in _GROUPS]
        inside = ", ".join(
            one.name.partition(": ")[2] for one in tensors if one.group == "optimizer" and ": " in one.name
        )
        rows.append(
            [
                name(layer),
                first.dtype,
                f"{shape(first.shape)}",
                f"{math.prod(first.shape):,}",
                *(size(one) if one else "" for one in by_group),
                inside,
                size(whole),
                _part(whole / total),
            ]
        )
    titles = [
        "Tensor",
        "Type",
        "Shape",
        "Elements",
        "Module",
        "Optimizer",
        "Other",
        "Optimizer's",
        "Together",
        "Part",
    ]
    return table(titles, rows, caption="Sizes by layer", numeric=(3, 4, 5, 6, 8, 9), id="sizes-table")


def _part(fraction: float) -> str:
    return percent(fraction) if fraction >= 0.001 or not fraction else "< 0.1 %"  # noqa: PLR2004
