"""What is said of files that were read whole: by `verify`, `latest --intact` and `salvage`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marlin_ckpt.cli import output
from marlin_ckpt.cli.views.text import count, escape, size

if TYPE_CHECKING:
    from marlin_ckpt.formats.verdicts import Verdict
    from marlin_ckpt.operations.salvage import Salvage


def skipped(verdict: Verdict) -> None:
    """Says why a file is passed over."""
    output.talk(f"passed over {escape(verdict.path)}: {verdict.status}: {escape(verdict.reason)}")


def verdicts(found: list[Verdict], *, quiet: bool) -> None:
    """Prints a line for each verified file, and how many there are of each kind."""
    for one in found:
        why = [text for text in (one.reason, one.hint) if text]
        if not quiet or one.status != "intact":
            output.data(
                f"{one.status}  {escape(one.path)}" + (f"  ({escape('; '.join(why))})" if why else "")
            )
    if not quiet:
        kinds = sorted({one.status for one in found})
        counts = ", ".join(f"{sum(one.status is kind for one in found)} {kind}" for kind in kinds)
        total = size(sum(one.size_bytes for one in found))
        output.talk(f"{count(len(found), 'file')}, {total}: {counts or 'nothing to verify'}")


def salvaged(found: Salvage, destination: str) -> None:
    """Prints a line for each lost tensor, or record without one, and what was written."""
    for one in found.lost:
        for name in one.tensors or (f"record {one.record}",):
            output.data(f"lost  {escape(name)}" + (f"  ({escape(one.record)})" if one.tensors else ""))
    intact = size(sum(one.size for one in found.intact))
    lost = count(sum(len(one.tensors) for one in found.lost), "tensor")
    output.talk(
        f"wrote {escape(destination)}: {count(len(found.intact), 'record')} intact, {intact}; {lost} lost"
    )
