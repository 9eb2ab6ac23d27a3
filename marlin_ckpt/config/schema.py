"""The JSON Schema of the YAML, by which editors complete and check it, made from the dataclasses.

It refuses what `sections` refuses by its type, its bounds or its name. Three things it cannot say: that `1.0`
is no integer, that a key may be set once, and what rules on several fields forbid.
"""

import os
from dataclasses import Field, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from marlin_ckpt.arguments import (
    MODULE_ARGUMENTS,
    DefaultCheckpointerArguments,
    ImportedModuleArguments,
    TrainerArguments,
)
from marlin_ckpt.config.keys import default, descriptions, summary, yaml_fields
from marlin_ckpt.config.tree import SPELLINGS
from marlin_ckpt.fields import alternatives, hints_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {bool: "boolean", int: "integer", float: "number", NoneType: "null"}
_BOUNDS = {"minimum": "minimum", "maximum": "maximum", "above": "exclusiveMinimum"}
_OWN = "module-own"

Schema = dict[str, Any]


def schema() -> Schema:
    """The schema of a whole file, in draft 2020-12."""
    kinds: dict[str, Any] = {f"module-{name}": kind for name, kind in MODULE_ARGUMENTS.items()}
    kinds |= {
        _OWN: ImportedModuleArguments,
        "trainer": TrainerArguments,
        "checkpointer": DefaultCheckpointerArguments,
    }
    definitions = {name: _section(kind) for name, kind in kinds.items()}
    definitions["module"] = _module()
    for name in ("trainer", "checkpointer"):
        definitions[name]["type"] = ["object", "null"]  # a section without keys
    sections = {name: {"$ref": f"#/$defs/{name}"} for name in ("module", "trainer", "checkpointer")}
    others = {name: {"$ref": f"#/$defs/{section}"} for name, section in SPELLINGS.items()}
    return {
        "$schema": DIALECT,
        "title": "A run of marlin-ckpt train",
        "description": "What `marlin-ckpt train --config` and `prove-resume --config` read.",
        "type": "object",
        "required": ["module"],
        "properties": sections | others,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _module() -> Schema:
    """The section whose keys depend on the name of the module."""
    found: Schema = {"$ref": f"#/$defs/{_OWN}"}
    for name in reversed(MODULE_ARGUMENTS):
        is_it = {"properties": {"name": {"const": name}}}
        found = {"if": is_it, "then": {"$ref": f"#/$defs/module-{name}"}, "else": found}
    return {
        "description": "What to train.",
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"examples": [*MODULE_ARGUMENTS, "my_package.my_file:MyModule"]}},
        **found,
    }


def _section(kind: Any) -> Schema:
    texts, hints = descriptions(kind), hints_of(kind)
    found = {one.name: _field(one, hints[one.name], texts.get(one.name, "")) for one in yaml_fields(kind)}
    required = [one.name for one in yaml_fields(kind) if _is_required(one)]
    return {
        "description": summary(kind),
        "type": "object",
        **({"required": required} if required else {}),
        "properties": found,
        "additionalProperties": False,
    }


def _is_required(field: Field[Any]) -> bool:
    """Whether the default is a value that its field refuses."""
    bounds = field.metadata
    value = default(field)
    return not value and ("required" in bounds or ("check" in bounds and value is not None))


def _field(field: Field[Any], hint: Any, text: str) -> Schema:
    kinds = alternatives(hint)
    if os.PathLike in {get_origin(one) or one for one in kinds}:
        kinds = tuple(one for one in kinds if (get_origin(one) or one) is not os.PathLike)
    found = [_value(one, field) for one in kinds]
    about: Schema = {"description": text} if text else {}
    if field.name == "name" and default(field) in MODULE_ARGUMENTS:
        found = [{"const": default(field)}]
    elif not _is_required(field):
        about["default"] = default(field)
    if len(found) == 1:
        return about | found[0]
    if all(one.get("type", "object") not in ("object", "array") for one in found):
        # Each keyword is about one type, so that one schema says it all.
        merged = {key: value for one in found for key, value in one.items()}
        return about | merged | {"type": [one["type"] for one in found]}
    return about | {"anyOf": found}


def _value(hint: Any, field: Field[Any]) -> Schema:
    kind, bounds = get_origin(hint) or hint, field.metadata
    if is_dataclass(kind):
        return _section(kind)
    if kind is Literal:
        return {"enum": list(get_args(hint))}
    if kind is list:
        least = {"minItems": 1} if "required" in bounds else {}
        (item,) = get_args(hint)
        return {"type": "array", "items": _section(item) if is_dataclass(item) else _text({}), **least}
    if kind is dict:
        return {"type": "object"}
    if kind is str:
        return _text(bounds)
    limits = {name: bounds[bound] for bound, name in _BOUNDS.items() if bound in bounds}
    return {"type": _TYPES[kind], **(limits if kind in (int, float) else {})}


def _text(bounds: Any) -> Schema:
    if choices := bounds.get("choices"):
        return {"enum": list(choices)}
    found: Schema = {"type": "string"}
    if pattern := bounds.get("pattern"):
        found["pattern"] = pattern
    elif "required" in bounds:
        found["minLength"] = 1
    return found


def is_schema(value: Any) -> bool:
    """Whether a JSON document is such a schema, of whatever version."""
    return isinstance(value, dict) and (value.get("$schema"), value.get("title")) == (
        DIALECT,
        schema()["title"],
    )
