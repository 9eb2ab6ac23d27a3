"""Draws bars in lines under titles, with a note below them; needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


class Form(NamedTuple):
    """The measures of a picture.

    Attributes:
        width_inches: of the picture.
        line_inches: the height of a line.
        left: where the bars begin, in the picture's width.
        bars: how long they are, in the picture's width.
        margin: where titles and the note begin, in the picture's width.
        font_points: the size of the text.
        note_points: the size of the note.
        note_characters: in a line of the note.
        note_bottom: how many lines above the lower edge the note ends.
        card: the colour of the edge of a card with round corners that all of it is on; "" for a white page.
    """

    width_inches: float
    line_inches: float
    left: float
    bars: float
    margin: float
    font_points: float
    note_points: float
    note_characters: int
    note_bottom: float
    card: str


class Picture(NamedTuple):
    """What is drawn.

    Attributes:
        lines: how many lines the bars and titles take.
        bars: draws these, given matplotlib's axes: x from 0 to 1, y in lines from the top.
        note: what is written below them, in the colour `faint`.
        faint: a colour.
        title: of the picture, for those who cannot see it.
        description: its numbers, for them.
    """

    lines: float
    bars: Callable[[Any], None]
    note: str
    faint: str
    title: str
    description: str


def draw(picture: Picture, form: Form, path: Path) -> bool:
    """Writes a picture: .svg or .png.

    Returns:
        whether it could: not without matplotlib.
    """
    if find_spec("matplotlib") is None:
        return False
    matplotlib = import_module("matplotlib")
    matplotlib.use("agg")
    pyplot = import_module("matplotlib.pyplot")
    note = textwrap.wrap(picture.note, form.note_characters)
    lines = picture.lines + 0.6 * len(note)
    # A salt of its own and no date: the same figures make the same file.
    style = {
        "svg.hashsalt": "marlin-ckpt",
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
        "font.size": form.font_points,
        "savefig.pad_inches": 0,
    }
    with matplotlib.rc_context(style):
        page = "none" if form.card else "white"
        figure = pyplot.figure(figsize=(form.width_inches, lines * form.line_inches), facecolor=page)
        if form.card:
            figure.add_artist(_card(figure, form, lines))
        axes = figure.add_axes((form.left, 0.0, form.bars, 1.0))
        axes.set(xlim=(0, 1), ylim=(lines, 0))
        axes.axis("off")
        picture.bars(axes)
        place = form.margin, form.note_bottom / lines
        look: dict[str, Any] = {"fontsize": form.note_points, "color": picture.faint, "va": "bottom"}
        figure.text(*place, "\n".join(note), **look)
        about = {"Date": None, "Title": picture.title, "Description": picture.description}
        extra: dict[str, Any] = {"metadata": about} if path.suffix == ".svg" else {"dpi": 150}
        figure.savefig(path, facecolor=page, **extra)
        pyplot.close(figure)
    return True


def _card(figure: Any, form: Form, lines: float) -> Any:
    patches = import_module("matplotlib.patches")
    return patches.FancyBboxPatch(
        (0.004, 0.006), 0.992, 0.988, boxstyle="round,pad=0,rounding_size=0.012", facecolor="white",
        edgecolor=form.card, transform=figure.transFigure, zorder=-1,
        mutation_aspect=form.width_inches / (lines * form.line_inches),
    )  # fmt: skip
