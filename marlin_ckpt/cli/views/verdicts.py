"""The verdicts of `verify` on files, and on those that a search for an intact one excludes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from marlin_ckpt.cli import output, stopping
from marlin_ckpt.cli.text import count, size, some
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.formats.verdicts import Verdict

if TYPE_CHECKING:  # `latest` needs none
    from marlin_ckpt.operations.rescue.copies import Copies
    from marlin_ckpt.operations.rescue.remedies import Remedy


def passed_over(path: str, reason: str) -> None:
    """Prints why a search for an intact file excludes this one."""
    output.talk(f"passed over {escape(path)}: {escape(reason)}")


def show(found: list[Verdict], remedies: Mapping[str, Remedy], copies: Copies, *, quiet: bool) -> None:
    """Prints a line for each file, how many there are of each verdict, and what to type next.

    Args:
        found: the verdicts.
        remedies: for what is bad, by the paths.
        copies: how many there are of what is shared.
        quiet: print only the lines of files that are not intact.
    """
    for one in found:
        shared = ""
        if one.path in copies.least:
            shared = f"{_copies(copies.least[one.path])} on the disk of what it shares"
        why = "; ".join(text for text in (one.reason, shared, one.hint) if text)
        if not quiet or one.status != "intact":
            output.sentence(f"{one.status}  {escape(one.path)}" + (f"  ({escape(why)})" if why else ""))
    if not quiet:
        numbers = Counter(one.status for one in found)
        counts = ", ".join(f"{number} {status}" for status, number in sorted(numbers.items()))
        total = size(sum(one.size_bytes for one in found))
        output.talk(f"{count(len(found), 'file')}, {total}: {counts}")
    for alone in copies.one_copy:
        what = f"{count(alone.records, 'large tensor')} ({size(alone.size_bytes)})"
        held = f"{some(alone.paths)} have one copy of {what}"
        output.talk(f"warning: {held}: a bad block there damages each of them")
    if not quiet:
        salvages = [one.salvage for one in remedies.values() if one.salvage]
        for hint in (*salvages[:_MOST_SALVAGED], *dict.fromkeys(one.whole for one in remedies.values())):
            output.talk(f"hint: {escape(hint)}")
        if copies.one_copy:
            output.talk("hint: cp --reflink=never FILE COPY makes another copy")


def _copies(number: int) -> str:
    return "1 copy" if number == 1 else f"{number} copies"


_MOST_SALVAGED = 3  # files whose salvage is spelt out


def hint(remedy: Remedy) -> None:
    """Prints what to do about a checkpoint of which a part is missing."""
    output.talk(f"hint: {escape(str(remedy))}")


def so_far(found: list[Verdict], total: int) -> str:
    """What `verify` had done when it was stopped, of so many files."""
    bad = [one.path for one in found if one.status.is_bad]
    return stopping.progress(len(found), total, "file", "verified", bad, "damaged")


def document(found: list[Verdict], remedies: Mapping[str, Remedy], copies: Copies) -> dict[str, Any]:
    """The document of `verify --json`; its arguments are those of `show`."""
    keys = ("path", "status", "tensors", "size_bytes")
    return {
        "files": [
            {
                **facts(one, *keys),
                "reason": one.reason or None,
                "hint": _hint(one, remedies),
                "copies": copies.least.get(one.path),
            }
            for one in found
        ],
        "one_copy": [
            {"paths": [*one.paths], **facts(one, "records", "size_bytes")} for one in copies.one_copy
        ],
    }


def _hint(one: Verdict, remedies: Mapping[str, Remedy]) -> str | None:
    whole = str(remedies[one.path]) if one.path in remedies else ""
    return "; ".join(filter(None, (one.hint, whole))) or None
