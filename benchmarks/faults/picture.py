"""Draws what flipped bits and kills do to checkpoints; needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import drawing

_LOST, _MEANT, _NEUTRAL = "#c93c37", "#1f6feb", "#d0d7de"
_TEXT, _FAINT, _EDGE = "#1f2328", "#57606a", "#d0d7de"
_FORM = drawing.Form(
    width_inches=8.4, line_inches=0.27, left=0.345, bars=0.35, margin=0.025, font_points=9.5, note_points=7.5,
    note_characters=142, note_bottom=0.45, card=_EDGE,
)  # fmt: skip
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
    """Writes the picture on a white card, which is legible on a dark page too; see `drawing.draw`."""
    drawn = sections(document)
    description = "; ".join(
        f"{section.title}: " + ", ".join(f"{bar.name} {bar.label}" for bar in section.bars)
        for section in drawn
    )
    picture = drawing.Picture(
        lines=sum(len(section.bars) + 3.0 for section in drawn) + 0.6,
        bars=lambda axes: _draw_sections(axes, drawn),
        note=_footnote(document),
        faint=_FAINT,
        title="What flipped bits and kills do to checkpoints",
        description=description,
    )
    return drawing.draw(picture, _FORM, path)


def _draw_sections(axes: Any, drawn: Iterable[Section]) -> None:
    top = 1.0
    for section in drawn:
        top = _draw_section(axes, section, top)


def _draw_section(axes: Any, section: Section, top: float) -> float:
    edge = (_FORM.margin - _FORM.left) / _FORM.bars
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
