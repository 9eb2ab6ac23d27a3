"""Compares JSON documents with the schemas in marlin_ckpt/cli/schemas, and notes which keys they have."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import jsonschema

from tools import schemas

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_TYPES |= {list: "array", dict: "object"}


def closed(schema: Any) -> Any:
    """A schema by which an object has no key but those that are described."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: closed(part) for key, part in schema.items()}
    if "properties" in parts and isinstance(parts.get("type"), (str, list)):
        parts.setdefault("additionalProperties", False)
    return parts


@functools.cache
def _validator(command: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(closed(schemas.read(command)))


def faults(document: dict[str, Any]) -> list[str]:
    """What of a document is not as its schema says; a key that is not described is a fault."""
    _, command, number = document["schema"].split("/")
    assert number == "1"
    found = _validator(command).iter_errors(json.loads(json.dumps(document)))
    return [f"{command}{one.json_path}: {one.message}" for one in found]


def described(command: str) -> set[tuple[str, str]]:
    """Each key of a command's document, with each type, or value of a few, that it may have.

    A key of a definition that several schemas share has the name of that in the place of its path.
    """
    schema = schemas.read(command)
    return set(_described(schema, schema, ""))


def _described(schema: Any, part: Any, path: str) -> Iterator[tuple[str, str]]:
    value, path = schemas.resolved(schema, part), _place(part, path)
    for name, one in value.get("properties", {}).items():
        yield from ((f"{path}.{name}", kind) for kind in _kinds(schemas.resolved(schema, one)))
        yield from _described(schema, one, f"{path}.{name}")
    if "items" in value:
        yield from _described(schema, value["items"], path)


def _place(part: Any, path: str) -> str:
    return part["$ref"].replace("#/$defs/", "#") if "$ref" in part else path


def _kinds(value: Any) -> set[str]:
    if "anyOf" in value:
        return {"number"}
    if "enum" in value:
        return {"null" if one is None else one for one in value["enum"]}
    if "const" in value:
        return {value["const"]}
    return {value["type"]} if isinstance(value["type"], str) else {*value["type"]}


def seen(command: str, document: dict[str, Any]) -> set[tuple[str, str]]:
    """Each described key that a document has, with the type of its value, or the value itself."""
    schema = schemas.read(command)
    return set(_seen(schema, schema, document, ""))


def _seen(schema: Any, part: Any, document: Any, path: str) -> Iterator[tuple[str, str]]:
    value, path = schemas.resolved(schema, part), _place(part, path)
    if isinstance(document, list) and "items" in value:
        for one in document:
            yield from _seen(schema, value["items"], one, path)
    if isinstance(document, dict):
        for name, one in value.get("properties", {}).items():
            if name in document:
                yield f"{path}.{name}", _kind(document[name], _kinds(schemas.resolved(schema, one)))
                yield from _seen(schema, one, document[name], f"{path}.{name}")


def _kind(value: Any, kinds: set[str]) -> str:
    if isinstance(value, str) and value in kinds:
        return value
    found = _TYPES[type(value)]
    return "number" if found not in kinds and found in ("integer", "string") else found
