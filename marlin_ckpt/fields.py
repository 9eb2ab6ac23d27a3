"""What a field of a dataclass of arguments may hold: its type in words, and whether a value fits."""

import os
import re
from collections.abc import Iterable
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from marlin_ckpt.errors import ArgumentsError, Fault

if TYPE_CHECKING:
    from dataclasses import Field

PathText = str | os.PathLike[str]

_WORDS = {
    bool: "true or false", int: "an integer", float: "a number", str: "a string",
    os.PathLike: "a path", dict: "a mapping", list: "a list", NoneType: "nothing",
}  # fmt: skip


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """The resolved annotations of a dataclass, by field name.

    Where one cannot be resolved (it names a type that is local to a function), all that a class adds count
    as Any.
    """
    try:
        return get_type_hints(kind)
    except NameError:
        inherited = hints_of(kind.__mro__[1]) if len(kind.__mro__) > 1 else {}
        return {**dict.fromkeys(kind.__annotations__, Any), **inherited}


def alternatives(hint: Any) -> tuple[Any, ...]:
    """`int | None` as `(int, NoneType)`; any other annotation as itself alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def words(hint: Any) -> str:
    """An annotation in the words of an error message: `an integer or nothing`."""
    kinds = alternatives(hint)
    is_path = any((get_origin(one) or one) is os.PathLike for one in kinds)
    return " or ".join(_word(one) for one in kinds if not (is_path and one is str))


def _word(hint: Any) -> str:
    kind = get_origin(hint) or hint
    if hasattr(kind, "__dataclass_fields__"):
        return "a mapping"
    if kind is Literal:
        return " or ".join(map(str, get_args(hint)))
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotated type; a bool is no integer, an integer is a number."""
    return any(_fits_one(value, one) for one in alternatives(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if origin is Any:
        return True
    if origin is Literal:
        return value in get_args(hint)
    if origin is list and get_args(hint):
        return isinstance(value, list) and all(fits(part, get_args(hint)[0]) for part in value)
    if origin in (int, float):
        numbers = int if origin is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    # What is no class (a type variable) says nothing that could be checked.
    try:
        return isinstance(value, origin) if isinstance(origin, type) else True
    except TypeError:  # a Protocol or TypedDict of the user's
        return True


def suggestion(text: str, known: Iterable[str]) -> str:
    """The end of a message on a name that is not known: the nearest known one, or ""."""
    from difflib import get_close_matches  # noqa: PLC0415 - here, since commands start faster without

    choices = list(known)
    near = get_close_matches(text, choices, n=1) or get_close_matches(text.upper(), choices, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _field_faults(field: "Field[Any]", value: Any, hint: Any) -> list[Fault]:
    if not fits(value, hint):
        return [Fault(field.name, f"expected {words(hint)}, not {value!r}")]
    if message := _bounds_fault(value, field):
        return [Fault(field.name, message)]
    return _inner_faults(field.name, value)


def _inner_faults(where: str, value: Any) -> list[Fault]:
    """What is wrong in a dataclass that a field holds, or in a list of them."""
    if isinstance(value, list):
        return [fault for at, part in enumerate(value) for fault in _inner_faults(f"{where}[{at}]", part)]
    found = value.faults() if isinstance(value, Checked) else []
    return [fault._replace(field=f"{where}.{fault.field}") for fault in found]


def _bounds_fault(value: Any, field: "Field[Any]") -> str:  # noqa: PLR0911 - one for each bound
    bounds = field.metadata
    if value is None:
        return ""
    texts = map(_text_fault, value if isinstance(value, list) else [value])
    if message := next(filter(None, texts), ""):
        return message
    if "required" in bounds and not value:
        return str(bounds["required"])
    if "check" in bounds:
        return str(bounds["check"](value))
    if isinstance(value, str) and "choices" not in bounds:
        return ""
    if "maximum" in bounds and value > bounds["maximum"]:
        return f"expected {bounds['maximum']} or less, not {value!r}"
    if "minimum" in bounds and not value >= bounds["minimum"]:
        return f"expected {bounds['minimum']} or more, not {value!r}"
    if "above" in bounds and not bounds["above"] < value < float("inf"):
        return f"expected a finite number above {bounds['above']}, not {value!r}"
    if (choices := bounds.get("choices")) and value not in choices:
        return f"expected one of {', '.join(choices)}, not {value!r}{suggestion(value, choices)}"
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


def _text_fault(value: Any) -> str:
    """Why a string can be no part of a path, and so no value of ours; "" for anything else."""
    if not isinstance(value, str):
        return ""
    try:
        return f"must not hold a null byte, but is {value!r}" if b"\0" in os.fsencode(value) else ""
    except UnicodeEncodeError:
        return f"holds what is no character: {value!r}"


class Checked:
    """A mixin for dataclasses that refuse bad values at construction, all at once.

    Each field is checked for itself: its type, then the bounds of its metadata. These may hold `minimum`,
    `maximum` and `above` (numbers), `choices` (a tuple), `required` (why it must not be empty) and `check` (a
    function that returns why a value is wrong, or "", in place of the other bounds; `pattern` is a regular
    expression that each string without a fault matches, for the JSON Schema). A value that is itself
    `Checked` is asked in its turn.
    """

    def __post_init__(self) -> None:
        self.check()

    def faults(self) -> list[Fault]:
        """Everything that is wrong with the values now; a subclass adds what spans fields."""
        from dataclasses import fields  # noqa: PLC0415 - as for `suggestion`

        kind: Any = type(self)
        hints = hints_of(kind)
        return [
            fault
            for field in fields(kind)
            for fault in _field_faults(field, getattr(self, field.name), hints[field.name])
        ]

    def check(self) -> None:
        """Checks the values again; plain attributes may have been set since construction.

        Raises:
            ArgumentsError: naming every field that is wrong.
        """
        if faults := self.faults():
            raise ArgumentsError(faults)


def check_again(args: Checked, known: bytes) -> bytes:
    """Checks arguments, unless they are what they were: to look at each field takes longer than a save may.

    Args:
        args: whose attributes may have been set since. Those of a user's class are always checked: they may
            look at more than their fields.
        known: what this returned last; b"" at first.

    Returns:
        what to give as `known` the next time; b"" where it is to be checked again then.

    Raises:
        ArgumentsError: as `Checked.check`.
    """
    import pickle  # noqa: PLC0415 - as for `suggestion`

    if type(args).__module__.partition(".")[0] != __name__.partition(".")[0]:
        args.check()
        return b""
    try:
        now = pickle.dumps(args)
    except Exception:  # noqa: BLE001 - a field may be set to anything
        now = b""
    if not now or now != known:
        args.check()
    return now


_SIZE = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kKMGT]?)(i?)B?\s*"
SIZE_PATTERN = f"^{_SIZE}$"


def size_of(text: str) -> int:
    """Reads a number of bytes: `1.5GB`, `500 MB`, `64 MiB`, `1000000`.

    Raises:
        ValueError: it is not one, or less than one byte.
    """
    match = re.fullmatch(_SIZE, text)
    size_bytes = 0
    if match is not None:
        unit = 1024 if match[3] else 1000
        size = float(match[1]) * unit ** " KMGT".index(match[2].upper() or " ")
        size_bytes = int(size) if size < float("inf") else 0
    if match is None or (match[3] and not match[2]) or size_bytes < 1:
        raise ValueError(f"expected a size, such as 1.5GB or 500MB, not {text!r}")
    return size_bytes


def size_text(size_bytes: float) -> str:
    """A number of bytes in decimal units: 1.49 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.5:  # noqa: PLR2004 - what three digits would round to 1e+03
            return f"{size_bytes:.3g} {unit}" if unit != "B" else f"{size_bytes:.0f} B"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


_DURATION = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(s|min|m|h|d|w)\s*"
DURATION_PATTERN = f"^{_DURATION}$"
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def duration_of(text: str) -> float:
    """Reads a time that something takes, in seconds: `90s`, `30min` or `30m`, `12h`, `7d`, `2w`.

    Raises:
        ValueError: it is not one, or none at all.
    """
    match = re.fullmatch(_DURATION, text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match is not None else 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"expected a time, such as 30min, 12h, 7d or 2w, not {text!r}")
    return seconds
