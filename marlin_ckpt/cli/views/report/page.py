"""The page: its head, its sections in order, and the script and style that are within it."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

from marlin_ckpt.cli.views.report import (
    checkpoints,
    histograms,
    metrics,
    movement,
    retention,
    runs,
    sizes,
    summary,
    timeline,
)
from marlin_ckpt.cli.views.report.parts import plotting
from marlin_ckpt.cli.views.report.parts.markup import Html, join, tag
from marlin_ckpt.operations.report.values import Report

_SECTIONS = (
    ("metrics", "Metrics"),
    ("timeline", "Saves over time"),
    ("movement", "What moved"),
    ("values", "Values"),
    ("sizes", "Where the bytes are"),
    ("retention", "Retention"),
    ("runs", "Runs"),
    ("checkpoints", "Checkpoints"),
)


def page(report: Report) -> str:
    """The page of a report, one file that needs nothing else.

    Args:
        report: what it shows.

    Returns:
        HTML, to be stored as UTF-8.
    """
    plots: dict[str, Any] = {}
    heat: dict[str, Any] = {}
    shown = {
        "metrics": metrics.show(report, plots),
        "timeline": timeline.show(report, plots),
        "movement": movement.show(report, heat),
        "values": histograms.show(report),
        "sizes": sizes.show(report),
        "retention": retention.show(report, plots),
        "runs": runs.show(report),
        "checkpoints": checkpoints.show(report),
    }
    links = [tag("li", tag("a", title, href=f"#{ident}")) for ident, title in _SECTIONS if shown[ident]]
    body = join(
        [
            tag("a", "To the content", href="#summary", class_="skip"),
            plotting.SYMBOLS,
            summary.heading(report),
            tag("nav", tag("ul", *links), aria_label="Sections") if links else "",
            tag("main", summary.show(report), *(shown[ident] for ident, _ in _SECTIONS)),
            tag("div", id="tip", hidden=True),
            tag("div", id="said", class_="unseen", role="status"),
            tag("script", _data({"plots": plots, "heat": heat}), type="application/json", id="data"),
        ]
    )
    style, script = _packaged("report.css"), _packaged("report.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", f"{report.directory}: checkpoints"),
            tag("style", Html(style)),
        ],
        Html("\n"),
    )
    whole = f"<head>\n{head}\n</head>\n<body>\n{body}\n<script>{script}</script>\n</body>"
    return f'<!doctype html>\n<html lang="en">\n{whole}\n</html>\n'


def _packaged(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _data(values: Any) -> Html:
    """JSON that ends no element of the page, whatever names are in it."""
    plain = json.dumps(values, separators=(",", ":"), allow_nan=False)  # in ASCII, whatever the names
    return Html(plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
