"""Draws how long saving, verifying and restoring take, and what a loop waits; needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import drawing
from benchmarks.report import Row, amount

_TITLES = (  # by group, and by how the work is called where a group has several
    ("save", "", "Save {size} until it is durable"),
    ("save others", "", "Save {size} until it is durable, beside libraries that were timed apart"),
    ("stall", "`text`", "How long an asynchronous save of {size} holds the training loop up"),
    ("verify cold", "", "Verify {size} from the disk"),
    ("restore warm", "", "Restore {size} from the page cache"),
    ("restore cold", "", "Restore {size} from the disk"),
)
_UNIT = "time; shorter is better"
_OURS, _THEIRS, _LIMIT = "#1f6feb", "#c3cad3", "#c93c37"
_TEXT, _FAINT, _EDGE = "#1f2328", "#57606a", "#d0d7de"
_FORM = drawing.Form(
    width_inches=8.4, line_inches=0.26, left=0.345, bars=0.47, margin=0.025, font_points=9, note_points=7,
    note_characters=150, note_bottom=0.5, card=_EDGE,
)  # fmt: skip
_NAME = "marlin-ckpt"


class Bar(NamedTuple):
    """One bar and its label."""

    name: str
    seconds: float
    label: str


class Section(NamedTuple):
    """Bars that may be compared, ours first, and the least that the machine needs where it is known."""

    title: str
    bars: list[Bar]
    limit: Bar | None


def sections(rows: Iterable[Row]) -> list[Section]:
    """What is drawn of the rows: of each group those of one work."""
    known, found = list(rows), []
    for group, ending, title in _TITLES:
        members = [row for row in known if row.group == group and row.what.endswith(ending)]
        if not members:
            continue
        first = members[0]
        members = sorted((row for row in members if row.what == first.what), key=lambda row: row.other)
        bars = [Bar(_NAME, first.ours, amount(first.ours, "s"))]
        bars += [_bar(row, f" ({row.other / row.ours:.1f}\u00d7)") for row in members if not row.limit]
        limit = next((_bar(row, "") for row in members if row.limit), None)
        found.append(Section(title.format(size=_size(first.what)), bars, limit))
    return found


def draw(rows: Iterable[Row], footnote: str, path: Path) -> bool:
    """Writes the picture on a white card, legible on a dark page too; its numbers describe it.

    Returns:
        whether it could: see `drawing.draw`.
    """
    drawn = sections(rows)
    legend = f"Medians; \u00d7: times as long as {_NAME}; dashed: what the machine needs at least."
    description = "; ".join(
        f"{section.title}: "
        + ", ".join(f"{bar.name} {bar.label.split(' (')[0]}" for bar in [*section.bars, *_limits(section)])
        for section in drawn
    )
    picture = drawing.Picture(
        lines=sum(_height(section) for section in drawn) + 0.5,
        bars=lambda axes: _draw_sections(axes, drawn),
        note=f"{legend} {footnote}",
        faint=_FAINT,
        title="How long saving, verifying and restoring take",
        description=description,
    )
    return drawing.draw(picture, _FORM, path)


def _size(what: str) -> str:
    """`1.49 GB` of `save 1.49 GB, warm`."""
    words = what.replace(",", "").split()
    number = next(at for at, word in enumerate(words) if word in ("GB", "MB", "KB"))
    return " ".join(words[number - 1 : number + 1])


def _bar(row: Row, times: str) -> Bar:
    return Bar(row.against.replace("`", ""), row.other, f"{amount(row.other, 's')}{times}")


def _limits(section: Section) -> list[Bar]:
    return [] if section.limit is None else [section.limit]


def _height(section: Section) -> float:
    """In lines: the title, the limit's name, the bars, and what is left below them."""
    return 1 + 0.85 * len(_limits(section)) + len(section.bars) + 0.75


def _draw_sections(axes: Any, drawn: Iterable[Section]) -> None:
    top = 0.9
    axes.text(1.1, top, _UNIT, ha="right", va="center", color=_FAINT, fontsize=8)
    for section in drawn:
        _draw_section(axes, section, top)
        top += _height(section)


def _draw_section(axes: Any, section: Section, top: float) -> None:
    edge = (_FORM.margin - _FORM.left) / _FORM.bars
    axes.text(edge, top, section.title, weight="bold", color=_TEXT, va="center", fontsize=10)
    longest = max(bar.seconds for bar in [*section.bars, *_limits(section)])
    first = top + 1 + 0.85 * len(_limits(section))
    for at, bar in enumerate(section.bars):
        place, length = first + at, bar.seconds / longest
        axes.barh(place, length, height=0.66, color=_THEIRS if at else _OURS)
        weight = "normal" if at else "bold"
        axes.text(-0.015, place, bar.name, ha="right", va="center", color=_TEXT, weight=weight)
        # Above the line of a limit, which else goes through it.
        axes.text(
            length + 0.012, place, bar.label, va="center", color=_TEXT, weight=weight,
            zorder=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    for limit in _limits(section):
        where = limit.seconds / longest
        axes.plot(
            [where, where],
            [first - 0.55, first + len(section.bars) - 0.5],
            color=_LIMIT,
            linestyle="--",
            lw=1.2,
        )
        side = "right" if where > 0.5 else "left"
        axes.text(
            where,
            first - 0.95,
            f"{limit.name}: {limit.label}",
            ha=side,
            va="center",
            color=_LIMIT,
            fontsize=8,
        )
