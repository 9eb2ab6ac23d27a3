"""The head of the page: what it is about, the numbers to know first, and what is wrong."""

from __future__ import annotations

import math

from marlin_ckpt.cli.text import size
from marlin_ckpt.cli.views.report.parts.figures import at, held, number, where
from marlin_ckpt.cli.views.report.parts.markup import Html, icon, join, name, short, tag
from marlin_ckpt.operations.report.values import Banner, Best, Report

_SEVERITIES = {"bad": ("cross", "Fault"), "warn": ("triangle", "Warning"), "note": ("circle", "Note")}
_MOST_BEST = 3
_LONGEST_PATH = 120  # characters of the title


def heading(report: Report) -> Html:
    """The title, and what the page was made of."""
    about: list[object] = [f"marlin-ckpt {report.version}", "made ", at(report.made), " UTC"]
    if report.other:
        about += [" · compared with ", name(report.other.directory)]
    switch = tag("button", "Dark", type="button", id="theme", hidden=True)
    what = "Checkpoints" if report.is_directory else "Checkpoint"
    title = tag("h1", tag("span", what, class_="what"), " ", short(report.directory, _LONGEST_PATH))
    about.insert(1, " · ")
    return tag("header", tag("div", title, switch, class_="top"), tag("p", *about, class_="quiet"))


def show(report: Report) -> Html:
    """The numbers to know first, then the banners."""
    banners = [_banner(one) for one in report.banners]
    return tag(
        "section",
        tag("h2", "Summary", id="summary-title", class_="unseen"),
        tag("dl", *_facts(report), class_="facts"),
        tag("ul", *banners, class_="banners") if banners else "",
        id="summary",
        aria_labelledby="summary-title",
    )


def _facts(report: Report) -> list[Html]:
    totals = report.totals
    if not report.is_directory:
        point = report.points[0] if report.points else None
        parameters = sum(1 for one in report.sizes if one.group == "module")
        return [
            *([_fact("Size", size(point.size_bytes))] if point else []),
            *([_fact("Index", f"{point.index:,}")] if point and point.index is not None else []),
            *([_fact("Step", f"{point.step:,}")] if point and point.step is not None else []),
            *([_fact("Written", *f"{at(point.at)} UTC".split(" ", 1))] if point else []),
            *([_fact("Tensors of the module", f"{parameters:,}")] if parameters else []),
        ]
    states = sum(one.is_there and one.is_state for one in report.points)
    beside = ", ".join(one for one in held(report.points) if "file" in one)
    disk_bytes, shared = totals.size_bytes, ""
    if totals.disk_bytes is not None and totals.disk_bytes < totals.size_bytes:
        disk_bytes, shared = totals.disk_bytes, f"{size(totals.size_bytes)} in files"
    facts = [_fact("Checkpoints", f"{states:,}", beside), _fact("On disk", size(disk_bytes), shared)]
    if report.newest is not None:
        newest = report.points[report.newest]
        facts.append(_fact("Newest", short(where(newest)), short(newest.name)))
    for metric in list(dict.fromkeys(one.metric for one in report.best))[:_MOST_BEST]:
        mine = [
            one for one in report.best if one.metric == metric and one.is_there and not math.isnan(one.value)
        ]
        if mine:
            facts.append(_best((min if mine[0].mode == "min" else max)(mine, key=lambda one: one.value)))
    if totals.removed:
        facts.append(_fact("Removed", f"{totals.removed:,}", f"{size(totals.freed_bytes)} freed"))
    if len(report.runs) > 1:
        facts.append(_fact("Runs", f"{len(report.runs):,}"))
    if totals.incomplete:
        facts.append(_fact("Damaged", f"{totals.incomplete:,}", bad=True))
    if totals.failed_saves:
        facts.append(_fact("Failed saves", f"{totals.failed_saves:,}", bad=True))
    return facts


def _best(one: Best) -> Html:
    return _fact(join(["Best ", short(one.metric, 24)]), number(one.value), short(one.name))


def _fact(title: object, value: object, about: object = "", *, bad: bool = False) -> Html:
    shown = join([icon("cross"), " ", value]) if bad else value
    small = tag("dd", about, class_="about") if about else ""
    return tag("div", tag("dt", title), tag("dd", shown, class_="bad" if bad else None), small)


def _banner(one: Banner) -> Html:
    symbol, word = _SEVERITIES[one.severity]
    hint = tag("p", tag("code", one.hint)) if one.hint else ""
    return tag(
        "li",
        icon(symbol),
        tag("div", tag("p", tag("strong", f"{word}: "), one.what), hint),
        class_=one.severity,
    )
