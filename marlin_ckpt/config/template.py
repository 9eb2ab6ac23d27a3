"""The text that `marlin-ckpt init` writes: a YAML file to begin with, whose comments are the docstrings."""

import shlex
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from marlin_ckpt.arguments import (
    DefaultCheckpointerArguments,
    ImportedModuleArguments,
    TextArguments,
    TrainerArguments,
)
from marlin_ckpt.config import writing
from marlin_ckpt.config.classes import Argument, OwnClass
from marlin_ckpt.config.keys import default, descriptions, yaml_fields
from marlin_ckpt.escaping import escape

_WIDTH = 100
_LONGEST_NOTE = 60  # characters of an annotation or a default that is no value
# The keys that most runs set, with what they begin with.
_TRAINER = {"epochs": 10, "train_batch_size": 16, "val_batch_size": 16, "seed": 0, "device": "auto"}
_CHECKPOINTER = {"save_dir": "checkpoints", "period": 1, "keep": {"last": 5}, "async_save": False}


def text(
    path: str,
    schema: str,
    files: list[str] | None = None,
    own: OwnClass | None = None,
    *,
    is_found: bool = False,
) -> str:
    """A whole file.

    Args:
        path: that it is written to, for the commands in its comments.
        schema: the path of the JSON Schema, relative to the file.
        files: what `text` learns.
        own: the user's class that is trained; None: `text`.
        is_found: whether these files are there: nobody has chosen them.
    """
    named = shlex.quote(escape(path))
    lines = [
        f"# yaml-language-server: $schema={schema}",
        f"# Train with: marlin-ckpt train --config {named}",
        f"# Every key and its value: marlin-ckpt config show --config {named}",
        "# Paths are relative to the directory that the command is started in.",
        "",
        "# What to train.",
        "module:",
        *(_own(own) if own is not None else _text(files or [], is_found=is_found)),
        "",
        "# How to train it.",
        "trainer:",
        *_keys(TrainerArguments, _TRAINER),
        "",
        "# What is saved, when and where.",
        "checkpointer:",
        *_keys(DefaultCheckpointerArguments, _CHECKPOINTER),
    ]
    return "\n".join(lines) + "\n"


def _text(files: list[str], *, is_found: bool) -> Iterator[str]:
    values = {one.name: default(one) for one in yaml_fields(TextArguments)} | {"files": files}
    what = "`init` has chosen this one" if is_found else "`init` has found none"
    return _keys(TextArguments, values, {"files": f"{what}: put your own here."})


def _keys(
    kind: Any, values: Mapping[str, Any], notes: Mapping[str, str] = MappingProxyType({})
) -> Iterator[str]:
    """The lines of a section: each of its keys behind what it means, then the names of the others."""
    about = descriptions(kind)
    for key, value in values.items():
        yield from writing.comment(about.get(key, ""), "  ", _WIDTH)
        yield from writing.comment(notes.get(key, ""), "  ", _WIDTH)
        yield f"  {key}: {writing.value(value)}"
    if others := [one.name for one in yaml_fields(kind) if one.name not in values]:
        yield from writing.comment(f"More keys: {', '.join(others)}.", "  ", _WIDTH)


def _own(own: OwnClass) -> Iterator[str]:
    about = descriptions(ImportedModuleArguments)
    yield from writing.comment(about.get("name", ""), "  ", _WIDTH)
    yield f"  name: {writing.text(own.name)}"
    if own.inherits:
        base = escape(own.inherits[:_LONGEST_NOTE])
        yield from writing.comment(f"args: those of {base}, which is in another file.", "  ", _WIDTH)
    if not own.arguments:
        return
    yield from writing.comment(about.get("args", ""), "  ", _WIDTH)
    given = [(one, _value(one)) for one in own.arguments]
    # A key without a value is no mapping; so where none has one, all of it is a comment.
    indent = "  " if any(value for _, value in given) else "  # "
    yield f"{indent}args:"
    for one, value in given:
        notes = [_short(one.annotation), *_note(one, value)]
        note = "; ".join(filter(None, notes))
        sign = "" if value or indent != "  " else "# "
        yield f"{indent}  {sign}{writing.text(one.name)}: {value}".rstrip() + (f"  # {note}" if note else "")


def _value(one: Argument) -> str:
    """The default of an argument as YAML; "" where there is none that YAML could give."""
    try:
        value = one.literal()
        return writing.value(value) if _is_plain(value) else ""
    except (ValueError, RecursionError):
        return ""


def _is_plain(value: object) -> bool:
    """Whether a value comes back from YAML as it is: a tuple would be a list."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if isinstance(value, str):
        return value.isprintable()
    return value is None or isinstance(value, (bool, int, float))


def _note(one: Argument, value: str) -> list[str]:
    if one.default is None:
        return ["required"]
    return [] if value else [f"default: {_short(one.default)}"]


def _short(source: str) -> str:
    joined = " ".join(source.split())
    return escape(joined if len(joined) <= _LONGEST_NOTE else joined[:_LONGEST_NOTE] + "...")
