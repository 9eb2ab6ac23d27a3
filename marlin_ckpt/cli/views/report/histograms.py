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
_LONGEST = 24  # characters of a name below a picture


def show(report: Report) -> Html:
    """The section; empty where no values were read."""
    if not report.histograms:
        return Html("")
    by_size = sorted(enumerate(report.histograms), key=lambda pair: -sum(pair[1].counts))
    finite = [pair for pair in by_size if math.isfinite(pair[1].low)]
    drawn = [one for _, one in sorted(finite[:_MOST_DRAWN], key=lambda pair: pair[0])]
    of = report.points[report.newest].name if report.newest is not None else ""
    said: list[object] = ["How the values of each tensor of ", short(of), " spread."]
    if len(drawn) < len(finite):
        said.append(f" Drawn are the {len(drawn)} largest tensors; the table has all.")
    if len(finite) < len(by_size):
        said.append(f" Without any finite value: {count(len(by_size) - len(finite), 'tensor')}.")
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
        tag("div", *map(_picture, drawn), class_="spreads") if drawn else "",
        details(f"Table of the values ({count(len(rows), 'row')})", made),
    )


def _picture(one: Histogram) -> Html:
    words = f"{number(one.low, 3)} to {number(one.high, 3)}"
    drawn = tag(
        "svg", tag("path", d=_path(one.counts)), viewBox=f"0 0 {max(1, len(one.counts))} {_HEIGHT}",
        preserveAspectRatio="none", height=_HEIGHT, width="100%", aria_hidden="true",
    )  # fmt: skip
    caption = tag("figcaption", _end_of(one.tensor), tag("span", words, class_="quiet"))
    return tag("figure", drawn, caption)


def _end_of(tensor: str) -> Html:
    """A name without its start where it is long: its end says which layer it is of, and what in it."""
    if len(tensor) <= _LONGEST:
        return name(tensor)
    return tag("bdi", "…" + tensor[1 - _LONGEST :], title=tensor)


def _path(counts: Sequence[int]) -> str:
    """The outline of bars; whatever is not empty can be seen."""
    most = max(counts, default=0) or 1
    parts, before = [], 0
    for part in counts:
        tall = max(round(part / most * (_HEIGHT - 2)), 1 if part else 0)
        parts.append(f"v{before - tall}h1")
        before = tall
    return f"M0 {_HEIGHT}{''.join(parts)}v{before}z"
