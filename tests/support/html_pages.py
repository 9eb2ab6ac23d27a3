"""Reads a page of HTML as a parser does, and says where it is not well formed."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "input", "br", "link"}
_EMPTY_IN_SVG = {"line", "rect", "circle", "path", "use"}  # which end with />
_URLS = {
    "src",
    "href",
    "action",
    "formaction",
    "data",
    "poster",
    "srcset",
    "xlink:href",
    "ping",
    "background",
}


@dataclass
class Table:
    """A table: its caption, and its rows of cells as text."""

    ident: str = ""
    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)


class Page(HTMLParser):
    """What a page has.

    Attributes:
        faults: where elements are not closed, or closed in the wrong order, and attributes given twice.
        elements: names and attributes, in order.
        raw: the content of each `style` and `script`, with the element's name and attributes.
        tables: all of them.
        text: all text outside these two.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: list[tuple[str, dict[str, str], str]] = []
        self.tables: list[Table] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        self.faults += [f"{one} is not closed" for one in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if len(values) != len(attrs):
            self.faults.append(f"an attribute twice in {tag} {attrs}")
        self.elements.append((tag, values))
        if tag not in _VOID:
            self._open.append(tag)
        if tag in ("style", "script"):
            self.raw.append((tag, values, ""))
        elif tag == "table":
            self.tables.append(Table(values.get("id", "")))
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("td", "th"):
            self.tables[-1].rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _EMPTY_IN_SVG:
            self.faults.append(f"{tag} ends with />")
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.faults.append(f"{tag} is closed within {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "script"):
            element, values, before = self.raw[-1]
            self.raw[-1] = (element, values, before + data)
            return
        self.text += data
        if "caption" in self._open:
            self.tables[-1].caption += data
        elif {"td", "th"} & set(self._open):
            self.tables[-1].rows[-1][-1] += data

    def handle_comment(self, data: str) -> None:
        self.faults.append(f"a comment: {data[:40]}")

    @property
    def addresses(self) -> list[str]:
        """All that a browser might fetch or go to."""
        return [value for _, values in self.elements for name, value in values.items() if name in _URLS]

    @property
    def identities(self) -> list[str]:
        """All values of `id`."""
        return [values["id"] for _, values in self.elements if "id" in values]

    def table(self, ident: str) -> list[list[str]]:
        """The rows of the table of an id, the titles first."""
        (found,) = [one for one in self.tables if one.ident == ident]
        return found.rows
