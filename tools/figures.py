"""Puts the few figures that the README shows into it, and those beside busy cores into their page.

    python -m tools.figures

Both are of `make bench`. The rows of the README are those beside the disk itself and what comes with torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report import amount, markdown, put_in

REPOSITORY = Path(__file__).parent.parent

_QUIET, _BUSY = "docs/benchmarks.json", "docs/benchmarks-busy.json"
# What is measured, as the page begins to say it, and beside what.
_ROWS = (
    ("save ", "raw O_DIRECT write"),
    ("save ", "torch.save + fsync"),
    ("stall of saving 1.48 GB behind the module `text`", "torch.distributed.checkpoint.async_save"),
    ("restore 1.49 GB, cold", "torch.load + load_state_dict"),
    ("`marlin-ckpt latest` of 1,000 files", "an empty Typer program"),
)


def table() -> str:
    """The rows of `docs/benchmarks.json` that the README shows.

    Returns:
        A table in Markdown.

    Raises:
        LookupError: a row is not in the file.
    """
    rows, lines = _rows(_QUIET), []
    for what, beside in _ROWS:
        found = [row for row in rows if row["what"].startswith(what) and row["against"] == beside]
        if not found:
            raise LookupError(f"docs/benchmarks.json has no row of {what!r} beside {beside!r}")
        row = found[0]
        ours, theirs = (amount(row[side], row["unit"]) for side in ("ours", "other"))
        lines.append((row["what"], beside, ours, theirs))
    return markdown(("what", "beside", "ours", "theirs"), lines)


def busy_table() -> str:
    """The rows that have a bar, measured while other programs compute, and their ratios on a quiet machine.

    Returns:
        A table in Markdown.
    """
    quiet = {(row["what"], row["against"]): row["ratio"] for row in _rows(_QUIET)}
    lines = []
    for row in _rows(_BUSY):
        if row["bound"] is not None:
            ours, theirs = (amount(row[side], row["unit"]) for side in ("ours", "other"))
            alone = quiet.get((row["what"], row["against"]))
            ratios = f"{row['ratio']:.2f}", "" if alone is None else f"{alone:.2f}"
            lines.append((row["what"], row["against"], ours, theirs, *ratios))
    return markdown(("what", "beside", "ours", "theirs", "ratio", "ratio on a quiet machine"), lines)


def _rows(file: str) -> list[dict[str, Any]]:
    document: dict[str, list[dict[str, Any]]] = json.loads((REPOSITORY / file).read_text(encoding="utf-8"))
    return document["rows"]


def main() -> None:
    """Rewrites the README and the page."""
    _put(REPOSITORY / "README.md", table(), _QUIET)
    _put(REPOSITORY / "docs" / "benchmarks.md", busy_table(), _BUSY)


def _put(page: Path, figures: str, of: str) -> None:
    page.write_text(put_in(page.read_text(encoding="utf-8"), figures, of), encoding="utf-8")


if __name__ == "__main__":
    main()
