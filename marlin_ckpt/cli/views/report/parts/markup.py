"""Makes HTML. All text passes through here, so that no name of a file, metric or tensor can become markup."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence

from marlin_ckpt.escaping import escape

_VOID = {"input"}  # elements that have no end
_LONGEST_NAME = 44  # characters of a name where the whole of it is elsewhere on the page


class Html(str):
    """Text that is HTML already, and is not escaped once more."""

    __slots__ = ()


def text(words: object) -> Html:
    """Plain words as HTML: escaped, without what moves a cursor or turns the direction of writing."""
    return words if isinstance(words, Html) else Html(html.escape(escape(str(words))))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other, the plain ones escaped."""
    return Html(text(between).join(text(part) for part in parts))


def tag(element: str, *children: object, **attributes: object) -> Html:
    """An element.

    Args:
        element: its name.
        *children: what is in it; plain text is escaped.
        **attributes: its attributes: `class_` is `class`, other `_` are `-`; True stands without a value,
            None and False are left out.
    """
    opened = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if element in _VOID:
        return Html(f"<{element}{opened}>")
    return Html(f"<{element}{opened}>{join(children)}</{element}>")


def name(words: str) -> Html:
    """A name that somebody chose, whose direction of writing does not reorder what is around it."""
    return tag("bdi", words)


def short(words: str, longest: int = _LONGEST_NAME) -> Html:
    """A name with its middle left out where it is long, and the whole of it in its title."""
    if len(words) <= longest:
        return name(words)
    head = longest // 2
    return tag("bdi", words[:head] + "…" + words[len(words) - (longest - head - 1) :], title=words)


def table(
    titles: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: str,
    numeric: Collection[int] = (),
    **attributes: object,
) -> Html:
    """A table in a box that scrolls by itself where the page is narrow.

    Args:
        titles: of the columns.
        rows: of cells; the first cell of each is its heading.
        caption: what the table is, for those who do not see what is around it.
        numeric: the columns that are aligned at the right.
        **attributes: of the table.
    """
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(content)}</td>" for content in row[1:])
        + "</tr>\n"
        for row in rows
    )
    inner = Html(f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>")
    right = " ".join(f"n{place + 1}" for place in sorted(numeric)) or None
    whole = tag("table", inner, class_=right, **attributes)
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def details(summary: object, *content: object, **attributes: object) -> Html:
    """Content that is folded until asked for."""
    return tag("details", tag("summary", summary), *content, **attributes)


def section(ident: str, title: str, *content: object) -> Html:
    """A section of the page, with its heading; nothing where it has no content."""
    shown = [one for one in content if one]
    if not shown:
        return Html("")
    heading = tag("h2", title, id=f"{ident}-title")
    return tag("section", heading, *shown, id=ident, aria_labelledby=f"{ident}-title")


def icon(symbol: str) -> Html:
    """One of the symbols of the page, at the size of text; words beside it say the same."""
    use = Html(f'<use href="#{symbol}" x="7" y="7"/>')
    return tag("svg", use, class_=f"icon {symbol}", width=14, height=14, aria_hidden="true")
