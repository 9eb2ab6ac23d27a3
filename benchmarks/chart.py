"""Draws how long saving, verifying and restoring take with each package; needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import drawing
from benchmarks.report import Row, amount

_GROUPS = ("save", "save others", "verify warm", "verify cold", "restore warm", "restore cold")
_NOTES = {
    "save": ", until it is durable",
    "save others": ", beside libraries that were timed apart",
    "verify warm": ": in the page cache",
    "verify cold": ": from the disk",
    "restore warm": ": in the page cache",
    "restore cold": ": from the disk",
}
_LIMITS = ("raw O_DIRECT write", "dd bs=8M of=/dev/null")  # the disk's own speed
_OURS, _THEIRS, _TEXT, _FAINT = "#1f6feb", "#c3cad3", "#1f2328", "#656d76"
_FORM = drawing.Form(
    width_inches=9.0, line_inches=0.26, left=0.345, bars=0.50, margin=0.02, font_points=9, note_points=7,
    note_characters=150, note_bottom=0.4, card="",
)  # fmt: skip


class Bar(NamedTuple):
    """One bar and its label."""

    name: str
    seconds: float
    label: str


class Section(NamedTuple):
    """Bars that may be compared with one another, ours first."""

    title: str
    bars: list[Bar]


def sections(rows: Iterable[Row]) -> list[Section]:
    """The rows that are drawn."""
    found = []
    by_group = [(group, [row for row in rows if row.group == group]) for group in _GROUPS]
    for group, members in by_group:
        if not members:
            continue
        first = members[0]
        bars = [Bar("marlin-ckpt", first.ours, amount(first.ours, "s"))]
        for row in sorted(members, key=lambda row: row.other):
            times = row.other / row.ours
            bars.append(
                Bar(row.against.replace("`", ""), row.other, f"{amount(row.other, 's')} ({times:.1f}\u00d7)")
            )
        what = first.what.split(",")[0]
        found.append(Section(what[0].upper() + what[1:] + _NOTES[group], bars))
    return found


def draw(rows: Iterable[Row], footnote: str, path: Path) -> bool:
    """Writes the chart; its numbers are also the picture's description. See `drawing.draw`."""
    drawn = sections(list(rows))
    legend = "Medians; \u00d7: times as long as marlin-ckpt; white: the disk's own speed."
    description = "; ".join(
        f"{section.title}: " + ", ".join(f"{bar.name} {bar.label.split(' (')[0]}" for bar in section.bars)
        for section in drawn
    )
    picture = drawing.Picture(
        lines=sum(len(section.bars) + 1.6 for section in drawn) + 0.4,
        bars=lambda axes: _draw_sections(axes, drawn),
        note=f"{legend} {footnote}",
        faint=_FAINT,
        title="How long saving, verifying and restoring take",
        description=description,
    )
    return drawing.draw(picture, _FORM, path)


def _draw_sections(axes: Any, drawn: Iterable[Section]) -> None:
    top = 0.9
    for section in drawn:
        top = _draw_section(axes, section, top)


def _draw_section(axes: Any, section: Section, top: float) -> float:
    edge = (_FORM.margin - _FORM.left) / _FORM.bars
    axes.text(edge, top, section.title, weight="bold", color=_TEXT, va="center", fontsize=10)
    longest = max(bar.seconds for bar in section.bars)
    for at, bar in enumerate(section.bars):
        place, length = top + 1 + at, bar.seconds / longest
        fill = _OURS if at == 0 else "white" if bar.name in _LIMITS else _THEIRS
        axes.barh(place, length, height=0.66, color=fill, edgecolor=_OURS if at == 0 else _THEIRS)
        weight = "bold" if at == 0 else "normal"
        axes.text(-0.015, place, bar.name, ha="right", va="center", color=_TEXT, weight=weight)
        axes.text(length + 0.012, place, bar.label, va="center", color=_TEXT, weight=weight)
    return top + len(section.bars) + 1.6
