"""The section of values: how those of each tensor spread, where `--stats` read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from marlin_ckpt.cli.text import count
from marlin_ckpt.cli.views.report.parts.figures import number
from marlin_ckpt.cli.views.report.parts.markup import Html, details, name, section, short, table, tag
from marlin_ckpt.operations.report.values import Histogram, Report

_MOST_DRAWN = 36  # tensors; of more the table has all
_HEIGHT = 44


def show(report: Report) -> Html:
    """The section; empty where no values were read."""
    if not report.histograms:
        return Html("")
    by_size = sorted(enumerate(report.histograms), key=lambda pair: -sum(pair[1].counts))
    drawn = [one for _, one in sorted(by_size[:_MOST_DRAWN], key=lambda pair: pair[0])]
    of = report.points[report.newest].name if report.newest is not None else ""
    said: list[object] = ["How the values of each tensor of ", name(of), " spread."]
    if len(drawn) < len(report.histograms):
        said.append(f" Drawn are the {len(drawn)} largest tensors; the table has all.")
    rows = [
        [
            name(one.tensor),
            number(one.low),
            number(one.high),
            " ".join(map(str, one.counts)),
        ]
        for one in report.histograms
    ]
    titles = ["Tensor", "Least", "Greatest", "Values in each interval"]
    made = table(titles, rows, caption="Values of each tensor", numeric=(1, 2), id="spread-table")
    return section(
        "values",
        "Values",
        tag("p", *said, class_="quiet"),
        tag("div", *map(_picture, drawn), class_="spreads"),
        details(f"Table of the values ({count(len(rows), 'row')})", made),
    )


def _picture(one: Histogram) -> Html:
    words = f"{number(one.low)} to {number(one.high)}" if math.isfinite(one.low) else "no finite value"
    drawn = tag(
        "svg", tag("path", d=_path(one.counts)), viewBox=f"0 0 {max(1, len(one.counts))} {_HEIGHT}",
        preserveAspectRatio="none", height=_HEIGHT, width="100%", aria_hidden="true",
    )  # fmt: skip
    return tag("figure", drawn, tag("figcaption", short(one.tensor, 24), tag("span", words, class_="quiet")))


def _path(counts: Sequence[int]) -> str:
    """The outline of bars; whatever is not empty can be seen."""
    most = max(counts, default=0) or 1
    parts, before = [], 0
    for part in counts:
        tall = max(round(part / most * (_HEIGHT - 2)), 1 if part else 0)
        parts.append(f"v{before - tall}h1")
        before = tall
    return f"M0 {_HEIGHT}{''.join(parts)}v{before}z"
