"""The table of `list`: a row for each checkpoint, a column for each metric."""

import os
from collections import Counter
from collections.abc import Sequence

from marlin_ckpt.cli import output, table
from marlin_ckpt.cli.table import Column
from marlin_ckpt.cli.text import age, count, size, some, spark
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.naming import EXTENSIONS
from marlin_ckpt.operations.listing.looking import Listing
from marlin_ckpt.operations.listing.order import metric_by_run, run_of
from marlin_ckpt.operations.listing.wanted import Wanted
from marlin_ckpt.storage.paths import nearby
from marlin_ckpt.urls import is_url

_COMPLETE = {True: "yes", False: "no", None: "?"}
_COLOURS = {True: "", False: "red", None: "yellow"}
_NEWEST, _BEST = ">", "*"
_EXTENSION = "pt"
_MOST_FOLDERS = 100  # that are looked through where a list has rows
_MOST_EXTENSIONS = 3  # that a hint names
_RUN_LETTERS = 8  # that are left of the id of a run that is cut
_METRIC_LETTERS = 13  # `learning_rate`: a sign in place of a letter or two makes nothing shorter


def show(listing: Listing, *, now_s: float) -> str:
    """Prints a row for each file.

    Args:
        listing: what is shown.
        now_s: the time, in seconds since 1970, that ages are counted to.

    Returns:
        a hint for a person who cannot see all of the columns, which says which those are, or "".
    """
    if not listing.rows:
        output.talk(f"no checkpoints in {escape(listing.directory)}")
        return ""
    lines, hint = table_of(listing, now_s)
    for line in lines:
        output.data(line)
    return hint


def table_of(listing: Listing, now_s: float) -> tuple[list[str], str]:
    """The lines of the table, and a hint at the columns that there is no room for, or ""."""
    fitted = table.fitted(columns(listing, now_s), table.line_width())
    return table.lines(fitted), table.hint_at(fitted.dropped)


def columns(listing: Listing, now_s: float) -> list[Column]:
    """The columns of the table, those that may go first with the greatest rank."""
    rows, (newest, best) = listing.rows, listing.marks
    indices = ["-" if one.entry.index is None else str(one.entry.index) for one in rows]
    # Before the name, where scripts find neither the first word of a line nor the last one changed.
    are_newest = [one.entry.path in newest for one in rows]
    before = {True: _NEWEST + " ", False: "  " if any(are_newest) else ""}
    files = [
        before[is_newest] + escape(os.path.relpath(one.entry.path, listing.directory))
        for is_newest, one in zip(are_newest, rows, strict=True)
    ]
    runs = [escape(run_of(one)[1]) or "-" for one in rows]
    is_complete = [
        _COMPLETE[one.complete] + (f": {escape(one.reason)}" if one.reason else "") for one in rows
    ]
    # A metric with a best says how the run goes; a learning rate does not.
    first = next((name for name in listing.metrics if name in best), next(iter(listing.metrics), ""))
    found = [
        Column("index", indices, is_right=True),
        Column("kind", [_kind(one) for one in rows], rank=6),
        Column("size", [size(one.entry.size_bytes) for one in rows], is_right=True, rank=5),
        *([_own(listing)] if listing.shares else []),
        Column("age", [age(now_s - one.written_s) for one in rows], is_right=True, rank=4),
        *(_metric(name, rows, best.get(name), stays=name == first) for name in listing.metrics),
        Column(
            "complete",
            is_complete,
            least=8,
            cut="end",
            rank=2,
            styles=[_COLOURS[one.complete] for one in rows],
        ),
        Column(
            before[False] + "file",
            files,
            least=table.FILE_LETTERS,
            styles=["green" * one for one in are_newest],
        ),
    ]
    if len({*runs} - {"-"}) > 1:
        found.insert(0, Column("run", runs, least=_RUN_LETTERS, cut="end"))
    # A column whose cells are all the same says the least.
    return [one._replace(rank=9) if one.rank in (2, 6) and one.only_cell else one for one in found]


def _own(listing: Listing) -> Column:
    """What each would give back if it were removed."""
    found = (listing.taken.get(one.entry.path) for one in listing.rows)
    cells = ["-" if one is None else size(one.own_bytes) for one in found]
    return Column("own", cells, is_right=True, rank=6)


def _metric(name: str, rows: Sequence[Inspection], best: str | None, *, stays: bool) -> Column:
    sign = "" if best is None else " "
    cells = [
        f"{one.metrics[name]:.4g}" + (_BEST if one.entry.path == best else sign)
        if name in one.metrics
        else "-" + sign
        for one in rows
    ]
    styles = ["green" * (one.entry.path == best) for one in rows]
    rank = 3 if stays else 8 if best is None else 7
    return Column(escape(name), cells, is_right=True, least=_METRIC_LETTERS, rank=rank, styles=styles)


def totals(listing: Listing) -> str:
    """What the table holds in all, and what its signs mean."""
    kinds = Counter(one.kind for one in listing.found)
    nouns = {"model": "model file", "other": "other file"}
    parts = [count(number, nouns.get(kind, kind)) for kind, number in sorted(kinds.items())]
    sizes = {one.entry.item.inode or one.entry.path: one.entry.size_bytes for one in listing.found}
    parts.append(size(sum(sizes.values())))
    if listing.shares and listing.disk_bytes is not None:
        parts[-1] += f" ({size(listing.disk_bytes)} on the disk)"
    if runs := {run_of(one) for one in listing.found if run_of(one)[1]}:
        parts.append(count(len(runs), "run"))
    if bad := sum(one.complete is False for one in listing.found):
        parts.append(f"{bad} not complete")
    signs = []
    shown = {one.entry.path for one in listing.rows}
    if not shown.isdisjoint(listing.marks.newest):
        signs.append(f"{_NEWEST} newest")
    if not shown.isdisjoint(listing.marks.best.values()):
        signs.append(f"{_BEST} best")
    cut = [f"{len(listing.rows)} shown"] if len(listing.rows) < len(listing.found) else []
    return "; ".join([", ".join(parts), *cut, *([", ".join(signs)] if signs else [])])


def tell(listing: Listing, wanted: Wanted, hint: str = "") -> None:
    """Says what the table has in all and what it leaves out, or, of an empty one, what there is instead.

    Args:
        listing: what is shown.
        wanted: what was asked for.
        hint: at the columns that there was no room for.
    """
    if listing.rows:
        output.talk(totals(listing))
    if hint:
        output.talk(hint)
    if not wanted.metrics and (more := [name for name in listing.known if name not in listing.metrics]):
        output.talk(f"hint: {count(len(more), 'more metric')}, --metric NAME prints one: {some(more)}")
    if listing.is_empty:
        _tell_of_others(wanted)
    elif not wanted.recursive:
        _tell_of_deeper(wanted)


def _extensions(wanted: Wanted) -> frozenset[str]:
    return frozenset(EXTENSIONS if wanted.extension is None else {wanted.extension})


def _tell_of_deeper(wanted: Wanted) -> None:
    """Says that there are more in sub-directories, through which `latest` and `verify --recursive` look."""
    from marlin_ckpt.directory.others import left_out

    ways = left_out.options(
        wanted.directory,
        prefix=wanted.prefix,
        extensions=_extensions(wanted),
        recursive=wanted.recursive,
        most_folders=_MOST_FOLDERS,
    )
    if ways == ["--recursive"]:
        output.talk("hint: there are more in sub-directories: --recursive")


def _tell_of_others(wanted: Wanted) -> None:
    from marlin_ckpt.directory.others import left_out

    extensions = _extensions(wanted)
    ways = left_out.options(
        wanted.directory, prefix=wanted.prefix, extensions=extensions, recursive=wanted.recursive
    )
    usual = wanted.extension or _EXTENSION
    if ways:
        output.talk(f"hint: there are files with {' or '.join(ways)}")
    elif wanted.prefix is not None and (hint := left_out.hint_at_prefixes(wanted.directory, usual)):
        output.talk(f"hint: {escape(hint)}")
    elif held := left_out.extensions_in(wanted.directory):
        each = [f"{number} .{escape(extension)}" for extension, number in held[:_MOST_EXTENSIONS]]
        more = ", ..." * (len(held) > _MOST_EXTENSIONS)
        output.talk(
            f"hint: it holds other files ({', '.join(each)}{more}); --ext E lists those of an extension"
        )
    elif is_url(wanted.directory) and (hint := nearby(wanted.directory)):
        output.talk(f"hint: {escape(hint)}")


def _kind(one: Inspection) -> str:
    return one.entry.layout if layouts.is_foreign(one.entry) else str(one.kind)


def show_metric(found: Sequence[Inspection], name: str) -> None:
    """Prints a line for each run: a metric over the index, drawn with blocks."""
    output.data("")
    for run_id, values in metric_by_run(found, name):
        ends = f"{values[0]:.4g} to {values[-1]:.4g}, least {min(values):.4g}, greatest {max(values):.4g}"
        output.data(f"{escape(name)} of run {escape(run_id) or '-'}  {spark(values)}  {ends}")
