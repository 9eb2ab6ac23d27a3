"""Puts the few figures that the README shows into it, from those of `make bench`.

    python -m tools.figures

The rows are those beside the disk itself and beside what comes with torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report import amount, put_in

REPOSITORY = Path(__file__).parent.parent

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
    rows = json.loads((REPOSITORY / "docs" / "benchmarks.json").read_text(encoding="utf-8"))["rows"]
    lines = ["| what | beside | ours | theirs |", "| --- | --- | --: | --: |"]
    for what, beside in _ROWS:
        found = [row for row in rows if row["what"].startswith(what) and row["against"] == beside]
        if not found:
            raise LookupError(f"docs/benchmarks.json has no row of {what!r} beside {beside!r}")
        row = found[0]
        ours, theirs = (amount(row[side], row["unit"]) for side in ("ours", "other"))
        lines.append(f"| {row['what']} | {beside} | {ours} | {theirs} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrites the README."""
    readme = REPOSITORY / "README.md"
    readme.write_text(put_in(readme.read_text(encoding="utf-8"), table()), encoding="utf-8")


if __name__ == "__main__":
    main()
