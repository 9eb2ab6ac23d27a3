"""What of a configuration is in force, as `config show` prints it."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from marlin_ckpt.cli import output
from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.config import writing
from marlin_ckpt.config.in_force import Setting
from marlin_ckpt.escaping import escape

_MOST_PADDING = 44  # characters before the comment of a line


def show(path: str, found: Sequence[Setting]) -> None:
    """Prints YAML with a comment behind each key: what set it."""
    name = os.path.basename(path)
    lines = list(_lines(found))
    width = min(_MOST_PADDING, max(len(line) for line, one in lines if one))
    for line, one in lines:
        output.data(f"{line:{width}}  # {_source(one, name)}" if one else line)


def _lines(found: Sequence[Setting]) -> Iterator[tuple[str, Setting | None]]:
    """Lines of YAML, each with the setting that it holds; None for that of a section or a mapping."""
    above: tuple[str | int, ...] = ()
    for one in found:
        *parents, last = one.path
        new = [depth for depth in range(len(parents)) if one.path[: depth + 1] != above[: depth + 1]]
        for depth in new:
            if not isinstance(parents[depth], int):
                yield f"{'  ' * depth}{writing.text(str(parents[depth]))}:", None
        above = tuple(parents)
        begins_item = bool(new) and isinstance(parents[-1], int)
        indent = "  " * (len(parents) - begins_item) + "- " * begins_item
        yield f"{indent}{writing.text(str(last))}: {writing.value(one.value)}", one


def _source(one: Setting | None, name: str) -> str:
    if one is None:
        return ""
    if one.source == "file":
        return f"{escape(name)}:{one.line}"
    return "as save_dir" if one.source == "save_dir" else one.source


def document(path: str, found: Sequence[Setting]) -> dict[str, Any]:
    """The document of `config show --json`."""
    return {"path": path, "settings": [facts(one, "key", "value", "source", "line") for one in found]}
