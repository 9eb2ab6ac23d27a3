"""The kinds of events in a history, with the keys of their lines, as the dataclasses have them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin

from marlin_ckpt.config.keys import descriptions
from marlin_ckpt.directory.history.events import KINDS, Event
from marlin_ckpt.fields import hints_of

_WORDS = {str: "string", int: "integer", float: "number or nan", bool: "boolean", Mapping: "object"}
_OF_EACH = [one.name for one in fields(Event)]


def write(directory: Path) -> None:
    """Writes the part into a directory, where `docs/reference/history.md` includes it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "events.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """A section for each kind, with a list of its keys, as Markdown."""
    return "\n".join(_section(name, kind) for name, kind in KINDS.items())


def _section(name: str, kind: type[Event]) -> str:
    about = (inspect.getdoc(kind) or "").partition("\n\nAttributes:")[0]
    return "\n".join([f"### `{name}`\n\n{about}\n", *_entries(name.replace(" ", "-"), kind)])


def _entries(anchor: str, kind: Any) -> Iterator[str]:
    texts = descriptions(kind)
    for one in fields(kind):
        if one.name not in _OF_EACH:
            word = _word(hints_of(kind)[one.name])
            yield f"[`{one.name}`]{{#{anchor}-{one.name}}}\n: *{word}*. {texts[one.name]}\n"


def _word(hint: Any) -> str:
    return _WORDS[get_origin(hint) or hint]
