"""Draws what flipped bits and kills do to checkpoints; needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

_LOST, _MEANT, _NEUTRAL = "#c93c37", "#1f6feb", "#d0d7de"
_TEXT, _FAINT, _EDGE = "#1f2328", "#57606a", "#d0d7de"
_WIDTH_INCHES, _LINE_INCHES = 8.4, 0.27
_LEFT, _BARS = 0.345, 0.35  # where the bars begin, and how long they are, in the figure's width
_MARGIN = 0.025
_FOOTNOTE_CHARACTERS = 142
_LOADERS = {  # by what has written
    "torch.save": "torch.load",
    "safetensors save_file": "safetensors load_file",
    "torch.distributed.checkpoint save": "torch.distributed.checkpoint",
}


class Bar(NamedTuple):
    """One bar: its name, the shares of its parts by colour, what is said of it, and whether it is ours."""

    name: str
    shares: dict[str, float]
    label: str
    ours: bool


class Section(NamedTuple):
    """Bars under a title, and what their colours mean."""

    title: str
    legend: dict[str, str]
    bars: list[Bar]


def sections(document: dict[str, Any]) -> list[Section]:
    """What is drawn of the document that `measuring` made."""
    found = []
    if document["flips"]:
        title = "Each bit of a small checkpoint flipped in turn, and the file loaded"
        legend = {_LOST: "wrong values, no error", _NEUTRAL: "right values", _MEANT: "an error"}
        found.append(Section(title, legend, [_flips(row) for row in document["flips"]]))
    if document["kills"]:
        title = "Trainings killed while they save, and started again"
        legend = {_LOST: "cannot go on", _MEANT: "end with the weights of a training that was not killed"}
        found.append(Section(title, legend, [_kills(row) for row in document["kills"]]))
    return found


def draw(document: dict[str, Any], path: Path) -> bool:
    """Writes the picture on a white card, which is legible on a dark page too.

    Returns:
        whether it could: not without matplotlib.
    """
    if find_spec("matplotlib") is None:
        return False
    matplotlib = import_module("matplotlib")
    matplotlib.use("agg")
    pyplot = import_module("matplotlib.pyplot")
    patches = import_module("matplotlib.patches")
    drawn = sections(document)
    note = textwrap.wrap(_footnote(document), _FOOTNOTE_CHARACTERS)
    lines = sum(len(section.bars) + 3.0 for section in drawn) + 0.6 + 0.6 * len(note)
    # A salt of its own and no date: the same figures make the same file.
    style = {
        "svg.hashsalt": "marlin-ckpt",
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
        "font.size": 9.5,
        "savefig.pad_inches": 0,
    }
    with matplotlib.rc_context(style):
        figure = pyplot.figure(figsize=(_WIDTH_INCHES, lines * _LINE_INCHES))
        card = patches.FancyBboxPatch(
            (0.004, 0.006), 0.992, 0.988, boxstyle="round,pad=0,rounding_size=0.012", facecolor="white",
            edgecolor=_EDGE, transform=figure.transFigure, zorder=-1,
            mutation_aspect=_WIDTH_INCHES / (lines * _LINE_INCHES),
        )  # fmt: skip
        figure.add_artist(card)
        axes = figure.add_axes((_LEFT, 0.0, _BARS, 1.0))
        axes.set(xlim=(0, 1), ylim=(lines, 0))
        axes.axis("off")
        top = 1.0
        for section in drawn:
            top = _draw_section(axes, section, top)
        figure.text(_MARGIN, 0.45 / lines, "\n".join(note), fontsize=7.5, color=_FAINT, va="bottom")
        extra: dict[str, Any] = {"metadata": _metadata(drawn)} if path.suffix == ".svg" else {"dpi": 150}
        figure.savefig(path, facecolor="none", **extra)
        pyplot.close(figure)
    return True


def _draw_section(axes: Any, section: Section, top: float) -> float:
    edge = (_MARGIN - _LEFT) / _BARS
    axes.text(edge, top, section.title, weight="bold", color=_TEXT, va="center", fontsize=11)
    at = 0.0
    for colour, meaning in section.legend.items():
        axes.barh(top + 1.05, 0.03, left=at, height=0.42, color=colour)
        axes.text(at + 0.045, top + 1.05, meaning, color=_TEXT, va="center", fontsize=8.5)
        at += 0.09 + 0.0195 * len(meaning)
    for number, bar in enumerate(section.bars):
        place, left = top + 2.1 + number, 0.0
        for colour, share in bar.shares.items():
            axes.barh(place, share, left=left, height=0.68, color=colour)
            left += share
        weight = "bold" if bar.ours else "normal"
        axes.text(-0.02, place, bar.name, ha="right", va="center", color=_TEXT, weight=weight)
        axes.text(1.02, place, bar.label, va="center", color=_TEXT, weight=weight)
    return top + len(section.bars) + 3.0


def _flips(row: dict[str, Any]) -> Bar:
    wrong, refused, whole = row["wrong"], row["refused"] + row["ended"], row["flipped"]
    shares = {_LOST: wrong / whole, _NEUTRAL: row["right"] / whole, _MEANT: refused / whole}
    label = f"{wrong:,} of {whole:,} wrong" + (f" ({wrong / whole:.0%})" if wrong else "")
    ours = row["loaded_by"] == "marlin_ckpt.load"
    whose = "its own" if row["written_by"].startswith("marlin") else "torch.save's"
    name = f"marlin_ckpt.load, {whose} file" if ours else _LOADERS[row["written_by"]]
    return Bar(name, shares, label, ours)


def _kills(row: dict[str, Any]) -> Bar:
    bad, whole = row["unresumable"] + row["different"], row["killed"]
    name = f"{row['tool']} with marlin-ckpt" if row["ours"] else row["tool"]
    label = f"{bad} of {whole} cannot go on"
    return Bar(name, {_LOST: bad / whole, _MEANT: 1 - bad / whole}, label, row["ours"])


def _footnote(document: dict[str, Any]) -> str:
    others = [row for row in document["flips"] if not _flips(row).ours]
    said = []
    if all(row["data_wrong"] == row["data_flipped"] for row in others):
        said.append(
            "The other loaders load each flipped bit of tensor data without an error; none promises one."
        )
    said += [f"Of {_flips(row).name} every {row['every']}th bit." for row in others if row["every"] > 1]
    if document["kills"]:
        settings = ", ".join(f"{row['tool']} {row['setting']}" for row in document["kills"] if row["ours"])
        said.append(f"Kills: half before a system call of a save, half at any time; {settings}.")
    versions = ", ".join(f"{name} {number}" for name, number in document["machine"]["versions"].items())
    said.append(f"{document['date']}, python -m benchmarks faults: {versions}.")
    return " ".join(said)


def _metadata(drawn: Iterable[Section]) -> dict[str, str | None]:
    description = "; ".join(
        f"{section.title}: " + ", ".join(f"{bar.name} {bar.label}" for bar in section.bars)
        for section in drawn
    )
    return {
        "Date": None,
        "Title": "What flipped bits and kills do to checkpoints",
        "Description": description,
    }
