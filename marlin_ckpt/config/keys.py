"""What is said of the keys of the YAML: docstrings and defaults of the dataclasses behind its sections.

The reference, the JSON Schema and the files that `marlin-ckpt init` writes all take it from here.
"""

import inspect
import os
import re
from dataclasses import MISSING, Field, fields
from typing import Any

_LITERALS = {"None": "null", "True": "true", "False": "false"}


def yaml_fields(kind: Any) -> list[Field[Any]]:
    """The fields of a dataclass that YAML may set."""
    return [field for field in fields(kind) if field.metadata.get("yaml", True)]


def default_text(field: Field[Any]) -> str:
    """A field's default as YAML has it; "" for a field that must be set."""
    value = default(field)
    if not value and not isinstance(value, (bool, float)) and field.metadata.keys() & {"required", "check"}:
        return "" if value is not None else "null"
    return _LITERALS.get(str(value), str(value))


def summary(kind: Any) -> str:
    """What a section is about: the first line of its dataclass's docstring, in the words of YAML."""
    return _sentence((inspect.getdoc(kind) or "").partition("\n")[0])


def default(field: Field[Any]) -> Any:
    """A field's default; paths in the working directory are relative to it."""
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    return relative(value)


def relative(value: Any) -> Any:
    """A value, or a path in the working directory relative to that: as one writes it into YAML."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and os.path.isabs(value):
        here = os.path.relpath(value)
        return value if here.startswith(os.pardir) else here
    return value


def descriptions(kind: Any) -> dict[str, str]:
    """The section `Attributes` of a dataclass's docstring, by field, in the words of YAML."""
    found = re.search(r"^Attributes:\n((?:    .*\n?)+)", inspect.getdoc(kind) or "", re.MULTILINE)
    joined = re.sub(r"\n {8}", " ", found[1] if found else "")  # none where Python runs with -OO
    pairs = (line.strip().partition(": ") for line in joined.splitlines())
    return {name: _sentence(text) for name, _, text in pairs}


def _sentence(text: str) -> str:
    text = re.sub(r"`(None|True|False)`", lambda match: f"`{_LITERALS[match[1]]}`", text)
    return text[:1].upper() + text[1:]
