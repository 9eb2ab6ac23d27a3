"""`list --follow`: the table, drawn again where it stands as checkpoints are saved."""

import os
import shutil
import time

from marlin_ckpt.cli import output, table
from marlin_ckpt.cli.views.listing import rows as view
from marlin_ckpt.entries import Entry
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.operations.listing.looking import Listing, look
from marlin_ckpt.operations.listing.wanted import Wanted
from marlin_ckpt.urls import is_url

_PERIOD_S = 1.0
_REMOTE_PERIOD_S = 10.0  # of a store, which is paid by the request
_MOST_OF_TIME = 0.1  # that looking through a large directory may take
_LINES_AROUND = 4  # the titles, the totals, a hint, and the line that the cursor is in


class _Seen:
    """Looks only at what is new, or has changed."""

    def __init__(self) -> None:
        self._before: dict[Entry, Inspection] = {}
        self._now: dict[Entry, Inspection] = {}

    def __call__(self, entry: Entry) -> Inspection:
        found = self._before.get(entry)
        if found is None or found.status is None:
            found = inspect(entry)
        self._now[entry] = found
        return found

    def forget_what_has_gone(self) -> None:
        """Keeps what was looked at since the last call."""
        self._before, self._now = self._now, {}


def follow(wanted: Wanted) -> None:
    """Shows the table of now on a terminal, until Ctrl-C or an error.

    Args:
        wanted: what is listed.

    Raises:
        MarlinError: as `look` raises it.
    """
    seen, shown = _Seen(), list[str]()
    size = shutil.get_terminal_size()
    period_s = _REMOTE_PERIOD_S if is_url(wanted.directory) else _PERIOD_S
    try:
        while True:
            began = time.monotonic()
            found = look(wanted, seen)
            seen.forget_what_has_gone()
            is_resized, size = size != shutil.get_terminal_size(), shutil.get_terminal_size()
            lines = _lines(found, wanted, size)
            if lines != shown:
                _draw(lines, len(shown), clear=is_resized)
                shown = lines
            time.sleep(max(period_s, (time.monotonic() - began) / _MOST_OF_TIME))
    except KeyboardInterrupt:
        output.data("")  # what is typed next does not stand behind ^C
        raise


def _lines(found: Listing, wanted: Wanted, size: os.terminal_size) -> list[str]:
    """The table as far as the terminal has room for it, and the totals."""
    if not found.rows:
        return [table.cut(f"no checkpoints in {escape(found.directory)} yet", size.columns, "end", "...")]
    room = max(1, size.lines - _LINES_AROUND)
    is_newest_first = wanted.reverse or wanted.best is not None
    rows = found.rows[:room] if is_newest_first else found.rows[-room:]
    lines, hint = view.table_of(found._replace(rows=rows), time.time())
    talk = [view.totals(found._replace(rows=rows)), *([hint] if hint else [])]
    return lines + [table.cut(one, size.columns, "end", "...") for one in talk]


def _draw(lines: list[str], before: int, *, clear: bool) -> None:
    """Puts lines in the place of those that were drawn before."""
    start = "\x1b[2J\x1b[H" if clear else f"\x1b[{before}A\x1b[J" if before else ""
    output.data(start + "\n".join(lines))
    output.flush()
