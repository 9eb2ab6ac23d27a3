"""What `init` wrote, and what is to be typed next."""

import shlex
from collections.abc import Sequence
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.text import some
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.escaping import escape
from marlin_ckpt.operations.texts.starter import STANDARD_OUTPUT, Starter


def show(made: Starter, written: Sequence[str]) -> None:
    """Says what `init` wrote, what is missing before it trains, and what to type next."""
    for path in written:
        output.talk(f"wrote {escape(path)}")
    if made.root:
        output.talk(f"warning: Python finds the module where {escape(made.root)} is in PYTHONPATH")
    if made.path == STANDARD_OUTPUT:
        output.talk(f"hint: marlin-ckpt config schema -o {made.schema_path} writes its schema")
        return
    needed = [f"set {one}" if one.startswith("module.args.") else f"write {one}" for one in made.missing]
    first = f"first {some(needed)}; then " if needed else ""
    output.talk(f"hint: {first}marlin-ckpt train --config {escape(shlex.quote(made.path))}")


def document(made: Starter, written: Sequence[str]) -> dict[str, Any]:
    """The document of `init --json`."""
    return {
        **facts(made, "path"),
        "written": list(written),
        "missing": list(made.missing),
        "root": made.root or None,
    }
