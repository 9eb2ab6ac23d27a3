"""What a field of a dataclass of arguments may hold: its type in words, and whether a value fits."""

from __future__ import annotations

import os
from dataclasses import Field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from marlin_ckpt.errors import ArgumentsError, Fault

PathText = str | os.PathLike[str]

_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    os.PathLike: "a path",
    dict: "a mapping",
    list: "a list",
    NoneType: "nothing",
}


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """The resolved annotations of a dataclass, by field name."""
    return get_type_hints(kind)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """`int | None` as `(int, NoneType)`; any other annotation as itself alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def words(hint: Any) -> str:
    """An annotation in the words of an error message: `an integer or nothing`."""
    kinds = [get_origin(one) or one for one in alternatives(hint)]
    if str in kinds and os.PathLike in kinds:
        kinds.remove(str)
    return " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotated type; a bool is no integer, an integer is a number."""
    for one in alternatives(hint):
        origin = get_origin(one) or one
        if origin is list:
            (item,) = get_args(one)
            if type(value) is list and all(fits(part, item) for part in value):
                return True
        elif origin is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return True
        elif origin is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return True
        elif isinstance(value, origin):
            return True
    return False


def field_faults(arguments: Any) -> list[Fault]:
    """What is wrong with each field for itself: its type, then the bounds of its metadata.

    A field's metadata may hold `minimum` and `above` (numbers) and `choices` (a tuple).
    """
    faults = []
    kind: type = type(arguments)
    hints = hints_of(kind)
    for field in fields(arguments):
        value = getattr(arguments, field.name)
        hint = hints[field.name]
        if not fits(value, hint):
            faults.append(Fault(field.name, f"expected {words(hint)}, not {value!r}"))
        elif message := _bounds_fault(value, field):
            faults.append(Fault(field.name, message))
    return faults


def _bounds_fault(value: Any, field: Field[Any]) -> str:
    bounds = field.metadata
    if value is None:
        return ""
    if "minimum" in bounds and not value >= bounds["minimum"]:
        return f"expected {bounds['minimum']} or more, not {value!r}"
    if "above" in bounds and not bounds["above"] < value < float("inf"):
        return f"expected a finite number above {bounds['above']}, not {value!r}"
    if "choices" in bounds and value not in bounds["choices"]:
        return f"expected one of {', '.join(bounds['choices'])}, not {value!r}"
    return ""


def name_part_fault(value: str) -> str:
    """Why a string cannot be a file's prefix or extension, or ""."""
    if not value:
        return "must not be empty"
    if "/" in value or os.sep in value or "\0" in value:
        return f"must not hold a path separator, but is {value!r}"
    return ""


def extension_fault(value: str) -> str:
    """Why a string cannot be a file's extension, or ""."""
    if value.startswith("."):
        return f"goes without its dot: write {value.lstrip('.')!r}, not {value!r}"
    return name_part_fault(value)


class Checked:
    """A mixin for dataclasses that refuse bad values at construction, all at once."""

    def __post_init__(self) -> None:
        self.check()

    def faults(self) -> list[Fault]:
        """Everything that is wrong with the values now; a subclass adds what spans fields."""
        return field_faults(self)

    def check(self) -> None:
        """Checks the values again; plain attributes may have been set since construction.

        Raises:
            ArgumentsError: naming every field that is wrong.
        """
        if faults := self.faults():
            raise ArgumentsError(faults)
