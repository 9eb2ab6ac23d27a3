"""The verdicts of `verify` on files, and on those that a search for an intact one excludes."""

from collections import Counter
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import count, size
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats.verdicts import Verdict


def passed_over(path: str, reason: str) -> None:
    """Prints why a search for an intact file excludes this one."""
    output.talk(f"passed over {escape(path)}: {escape(reason)}")


def show(found: list[Verdict], *, quiet: bool) -> None:
    """Prints a line for each file, and how many there are of each verdict.

    Args:
        found: the verdicts.
        quiet: print only the lines of files that are not intact.
    """
    for one in found:
        why = "; ".join(text for text in (one.reason, one.hint) if text)
        if not quiet or one.status != "intact":
            output.data(f"{one.status}  {escape(one.path)}" + (f"  ({escape(why)})" if why else ""))
    if not quiet:
        numbers = Counter(one.status for one in found)
        counts = ", ".join(f"{number} {status}" for status, number in sorted(numbers.items()))
        total = size(sum(one.size_bytes for one in found))
        output.talk(f"{count(len(found), 'file')}, {total}: {counts}")


def document(found: list[Verdict]) -> dict[str, Any]:
    """The document of `verify --json`."""
    keys = ("path", "status", "tensors", "size_bytes")
    return {
        "files": [
            {**facts(one, *keys), "reason": one.reason or None, "hint": one.hint or None} for one in found
        ]
    }
