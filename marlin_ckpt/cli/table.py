"""Tables, a line for each row; in a narrow one long cells are cut with a sign, and columns that go named."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, NamedTuple

from marlin_ckpt.cli import output
from marlin_ckpt.cli.colour import painter
from marlin_ckpt.cli.widths import width_of

FILE_LETTERS, TITLE_LETTERS = 20, 8  # that are left of the name of a file, or of a column of figures
TENSOR_LETTERS = 44  # whose layer is often in the middle
_SPACE = "  "  # between two columns


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        title: its name, harmless too.
        cells: harmless texts, one a row; `show` fills them in.
        is_right: set to the right, as figures are.
        least: how narrow its title, and its cells unless they are set to the right, may be made; None: they
            are never cut.
        cut: where the sign is put in what is cut.
        rank: of columns that may go where all is cut and there is no room, the greatest goes first; 0: stays.
        styles: of the cells on a terminal, as `colour` names them; "" of a plain cell; none for plain ones.
    """

    title: str
    cells: Sequence[str] = ()
    is_right: bool = False
    least: int | None = None
    cut: Literal["middle", "end"] = "middle"
    rank: int = 0
    styles: Sequence[str] = ()

    @property
    def width(self) -> int:
        """The columns of a terminal that its title and every cell need."""
        return max(map(width_of, (self.title, *self.cells)))

    @property
    def least_width(self) -> int:
        """The columns of a terminal that it takes where it is cut."""
        if self.least is None:
            return self.width
        figures = self.cells if self.is_right else ()
        return min(self.width, max([self.least, *map(width_of, figures)]))

    @property
    def only_cell(self) -> str:
        """What all its cells hold; "" where they differ."""
        return self.cells[0] if len({*self.cells}) == 1 else ""


def figure(title: str, rank: int = 0) -> Column:
    """A column of figures, which are never cut; a long title is."""
    return Column(title, is_right=True, least=TITLE_LETTERS, cut="end", rank=rank)


def show(rows: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    """Prints a table, without the columns whose cells are all empty.

    Args:
        rows: a harmless text for each column.
        columns: without their cells.
    """
    each = [*zip(*rows, strict=True)] or [()] * len(columns)
    filled = [
        one._replace(cells=cells) for one, cells in zip(columns, each, strict=True) if any(cells) or not rows
    ]
    table = fitted(filled, line_width())
    output.data("\n".join(lines(table)))
    if hint := hint_at(table.dropped):
        output.talk(hint)


def hint_at(dropped: Sequence[Column]) -> str:
    """Names the columns that there is no room for, with what all their cells hold; "" of none."""
    short = partial(cut, width=FILE_LETTERS, where="middle", sign=cut_sign())
    each = [short(one.title) + f" ({short(one.only_cell)})" * bool(one.only_cell) for one in dropped]
    return f"hint: no room for {', '.join(each)}; a wider terminal or --json has all" if each else ""


def is_terminal() -> bool:
    """Whether stdout is a terminal that knows more than plain lines."""
    return output.is_on_terminal() and os.environ.get("TERM") != "dumb"


def line_width() -> int | None:
    """How long a line of stdout may be: COLUMNS, else as wide as the terminal is; None: as long as it is."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return shutil.get_terminal_size().columns if output.is_on_terminal() else None


def cut(text: str, width: int, where: Literal["middle", "end"], sign: str) -> str:
    """A text in a width at most; what is taken out of it has a sign in its place."""
    if width_of(text) <= width:
        return text
    room = max(0, width - len(sign))
    tail = room // 2 if where == "middle" else 0
    return _start(text, room - tail) + sign + _start(text[::-1], tail)[::-1]


def _start(text: str, width: int) -> str:
    """As much of the start of a text as a width holds."""
    if text.isascii():
        return text[:width]
    end = 0
    for end, one in enumerate(text):
        width -= width_of(one)
        if width < 0:
            return text[:end]
    return text[: end + 1]


class Fitted(NamedTuple):
    """What a width has room for.

    Attributes:
        columns: that are shown.
        widths: of these.
        dropped: that there is no room for.
    """

    columns: list[Column]
    widths: list[int]
    dropped: list[Column]


def fitted(columns: Sequence[Column], width: int | None) -> Fitted:
    """Fits columns into a line of some width; None: as long as need be."""
    shown = [(one, one.width) for one in columns]
    least = {id(one): one.least_width for one in columns}
    dropped = []
    while width is not None and _line(least[id(one)] for one, _ in shown) > width:
        goes = max(reversed(shown), key=lambda pair: pair[0].rank)
        if not goes[0].rank:  # all that stays are names, and figures
            least |= {id(one): TITLE_LETTERS for one, _ in shown if one.least and not one.is_right}
            break
        shown.remove(goes)
        dropped.append(goes[0])
    widths = [full for _, full in shown]
    while width is not None and _line(widths) > width:
        spare = [number for number, (one, _) in enumerate(shown) if widths[number] > least[id(one)]]
        if not spare:
            break
        widths[max(spare, key=lambda number: widths[number])] -= 1
    return Fitted([one for one, _ in shown], widths, dropped)


def _line(widths: Iterable[int]) -> int:
    each = [*widths]
    return sum(each) + len(_SPACE) * (len(each) - 1)


def lines(table: Fitted) -> list[str]:
    """The lines of a table, its titles first; with styles where stdout takes them."""
    paint, sign = painter(), cut_sign()
    sides = [_sides(one, width, sign, paint) for one, width in zip(table.columns, table.widths, strict=True)]
    return [_SPACE.join(cells).rstrip() for cells in zip(*sides, strict=True)]


def _sides(column: Column, width: int, sign: str, paint: Callable[[str, str], str]) -> list[str]:
    """The cells of a column below its title, each as wide as the column is."""
    texts = [cut(one, width, column.cut, sign) for one in (column.title, *column.cells)]
    gaps = [" " * (width - width_of(one)) for one in texts]
    styles = ("bold", *(column.styles or itertools.repeat("", len(column.cells))))
    texts = [*map(paint, texts, styles)]
    return [gap + one if column.is_right else one + gap for one, gap in zip(texts, gaps, strict=True)]


def cut_sign() -> str:
    """What stands for what is cut."""
    return "\u2026" if output.can_encode("\u2026") else "..."
