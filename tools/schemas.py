"""The schemas of the JSON documents that the commands print, as the page on them lists their keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from marlin_ckpt.cli import schemas
from marlin_ckpt.cli.commands import registry

_NO_COMMAND = "error"
_ANY_NUMBER = "number or nan"  # the page has a note on it

Schema = dict[str, Any]


class Key(NamedTuple):
    """One key of a document.

    Attributes:
        path: that leads to it, as jq writes it: `.checkpoints[].path`.
        type: of its value, in words.
        meaning: what it says, with its unit.
    """

    path: str
    type: str
    meaning: str


def names() -> list[str]:
    """The name for a command line without a command, then the commands in the order of the help."""
    found = [one.replace(" ", "-") for one in registry.names()]
    return [_NO_COMMAND, *(one for one in found if one in schemas.names())]


def read(name: str) -> Schema:
    """The schema of a command's document."""
    schema: Schema = json.loads(schemas.text(name))
    return schema


def resolved(schema: Schema, one: Schema) -> Schema:
    """A part of a schema in which the definition that it refers to stands in the place of `$ref`."""
    if "$ref" not in one:
        return one
    name = one["$ref"].removeprefix("#/$defs/")
    return {**schema["$defs"][name], **{key: value for key, value in one.items() if key != "$ref"}}


def keys(schema: Schema, part: Schema | None = None, path: str = "") -> Iterator[Key]:
    """The keys of a document in their order, each followed by those inside it."""
    part = schema if part is None else part
    for name, one in part.get("properties", {}).items():
        value, where = resolved(schema, one), f"{path}.{name}"
        yield Key(where, _type(schema, value), value["description"])
        if "items" in value:
            yield from keys(schema, resolved(schema, value["items"]), f"{where}[]")
        yield from keys(schema, value, where)


def _type(schema: Schema, one: Schema) -> str:
    """The type of a value in words: `string or null`, `array of objects`."""
    if "const" in one:
        return f"`{one['const']}`"
    if "anyOf" in one:  # the one thing that is written in two ways: a number that may be NaN
        return _ANY_NUMBER
    if "enum" in one:
        return " or ".join("null" if each is None else f"`{each}`" for each in one["enum"])
    types = [one["type"]] if isinstance(one["type"], str) else one["type"]
    inner = one.get("items", one.get("additionalProperties"))
    if isinstance(inner, dict):
        of = _type(schema, resolved(schema, inner))
        types = [f"{each} of {_plural(of)}" if each in ("array", "object") else each for each in types]
    return " or ".join(types)


def _plural(types: str) -> str:
    if types == _ANY_NUMBER:
        return "numbers or nan"
    return " or ".join(one if one == "null" else f"{one}s" for one in types.split(" or "))


def page() -> str:
    """A section with a list of its keys for each command, as Markdown: a table would be too wide."""
    sections = []
    for name in names():
        schema = read(name)
        command = next((one for one in registry.names() if one.replace(" ", "-") == name), name)
        title = f"`{command}`" if name != _NO_COMMAND else "Keys of every command"
        entries = "\n".join(_entry(name, one) for one in _own(name, schema))
        about = f"{schema['description']} [The schema](../../marlin_ckpt/cli/schemas/{name}.schema.json)"
        sections.append(f"## {title}\n\n{about}\n\n{entries}")
    return "\n".join(sections)


def _entry(name: str, one: Key) -> str:
    anchor = f"{name}{one.path.replace('[]', '').replace('.', '-')}"
    kind = one.type if "`" in one.type else f"*{one.type}*"
    return f"[`{one.path}`]{{#{anchor}}}\n: {kind}. {one.meaning}\n"


def _own(name: str, schema: Schema) -> list[Key]:
    """The keys that are not the same for every command."""
    found = list(keys(schema))
    return (
        found
        if name == _NO_COMMAND
        else [one for one in found if not one.path.startswith((".schema", ".error"))]
    )


def write(directory: Path) -> None:
    """Writes the page into a directory, where `docs/reference/json.md` includes it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "json.md").write_text(page(), encoding="utf-8")
