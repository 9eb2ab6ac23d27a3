"""Parts of charts in SVG that fill whatever width the page gives them.

Places along the width are percentages, so that text and marks keep their size while the chart grows; lines
are drawn in a box of 1000 units that is stretched, with strokes that are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from marlin_ckpt.cli.views.report.parts.axes import Scale
from marlin_ckpt.cli.views.report.parts.markup import Html, tag, text

SHAPES = ("circle", "square", "triangle", "diamond")  # of the curves, in turn
_CLOSEST = 0.14  # of the width, between two names below a chart


def percent(place: float) -> str:
    """A place from 0 to 1 as a percentage of the width."""
    return f"{place * 100:.2f}".rstrip("0").rstrip(".") + "%"


def px(value: float) -> str:
    """A number of pixels, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def svg(height: float, *parts: str, classes: str = "plot") -> Html:
    """A drawing as wide as its box."""
    return tag(
        "svg", Html("".join(parts)), class_=classes, width="100%", height=px(height), aria_hidden="true"
    )


def grid(scale: Scale, height: float) -> str:
    """Lines and names of the values at the left side."""
    return "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{px(y)}" y2="{px(y)}"/>'
        f'<text class="y" x="-8" y="{px(y + 4)}">{text(name)}</text>'
        for place, name in scale.ticks()
        for y in [height - place * height]
    )


def foot(scale: Scale, height: float, *, named: bool = True) -> str:
    """Marks of the values below, and their names; of two that would touch the first."""
    parts, last = [f'<line class="axis" x1="0" x2="100%" y1="{px(height)}" y2="{px(height)}"/>'], -1.0
    for place, name in scale.ticks():
        if place - last < _CLOSEST and last >= 0:
            continue
        last, x = place, percent(place)
        anchor = " start" if place < 0.03 else " end" if place > 0.97 else ""  # noqa: PLR2004
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{px(height)}" y2="{px(height + 4)}"/>')
        for row, words in enumerate(name.split("\n") if named else ()):
            parts.append(
                f'<text class="x{anchor}" x="{x}" y="{px(height + 17 + 13 * row)}">{text(words)}</text>'
            )
    return "".join(parts)


def line(places: Iterable[Sequence[tuple[float, float]]], height: float, classes: str) -> str:
    """Lines through points: from 0 to 1 along the width, and in pixels down from the top."""
    path = "".join(
        "M" + "L".join(f"{x * 1000:.0f} {px(y)}" for x, y in stretch)
        for stretch in places
        if len(stretch) > 1
    )
    if not path:
        return ""
    return (
        f'<svg width="100%" height="{px(height)}" viewBox="0 0 1000 {px(height)}" preserveAspectRatio="none">'
        f'<path class="{classes}" d="{path}"/></svg>'
    )


def marks(symbol: str, places: Iterable[tuple[float, float]], classes: str) -> str:
    """A symbol of the page at some points."""
    drawn = "".join(f'<use href="#{symbol}" x="{percent(x)}" y="{px(y)}"/>' for x, y in places)
    return f'<g class="{classes}">{drawn}</g>' if drawn else ""


def upright(places: Iterable[float], height: float, classes: str, *, top: float = 0) -> str:
    """Upright lines over the whole height, or below what is at the top."""
    return "".join(
        f'<line class="{classes}" x1="{percent(x)}" x2="{percent(x)}" y1="{px(top)}" y2="{px(height)}"/>'
        for x in places
    )


SYMBOLS = Html(
    '<svg class="defs" width="0" height="0" aria-hidden="true"><defs>'
    '<circle id="circle" r="3.4"/>'
    '<circle id="dot" r="2.2"/>'
    '<rect id="square" x="-3" y="-3" width="6" height="6"/>'
    '<path id="triangle" d="M0-4 4 3H-4Z"/>'
    '<path id="diamond" d="M0-4.4 4.4 0 0 4.4-4.4 0Z"/>'
    '<path id="star" d="M0-6.5 1.6-2.2 6.2-2 2.6.8 3.8 5.3 0 2.7-3.8 5.3-2.6.8-6.2-2-1.6-2.2Z"/>'
    '<circle id="ring" r="6.5"/>'
    '<path id="cross" d="M-4-4 4 4M4-4-4 4"/>'
    '<path id="play" d="M-3.5-5 5 0-3.5 5Z"/>'
    '<path id="again" d="M4.6 1.5A5 5 0 1 1 3.4-3.6M4.4-6.2V-2.6H.8"/>'
    '<path id="bolt" d="M1.5-6.5-4 1.2H-.6L-1.5 6.5 4-1.2H.6Z"/>'
    '<rect id="stop" x="-4" y="-4" width="8" height="8"/>'
    '<path id="killed" d="M-6 0A6 6 0 1 0 6 0 6 6 0 1 0-6 0M-4-4 4 4"/>'
    '<path id="unknown" d="M-4 0h1M-.5 0h1M3 0h1"/>'
    '<path id="check" d="M-5 0-1.5 4 5-4"/>'
    '<path id="more" d="M-5 0H4M0-4 4 0 0 4"/>'
    "</defs></svg>"
)
