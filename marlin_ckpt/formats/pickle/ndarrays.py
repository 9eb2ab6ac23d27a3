"""Which stubs of a pickle are arrays and numbers of NumPy's, and what they say of themselves; without numpy.

Source of the functions, their arguments and states: `array_reduce_ex`, `array_reduce`, `gentype_reduce` and
`arraydescr_reduce` in numpy/_core/src/multiarray of NumPy 2.3; numpy 1 has the same in numpy.core.
"""

import datetime
import math
import struct
from typing import Any, NamedTuple

from marlin_ckpt.formats.pickle.plain import latin_1_of
from marlin_ckpt.formats.pickle.stubs import Global, Span, Stub
from marlin_ckpt.formats.values.dtypes import dtype

_MOST_DIMENSIONS = 64  # NumPy's own limit
_MOST_FIELDS = 8  # of a structured dtype that are named
_LONGEST = 40  # characters of the name of a field
_LIMIT = 2**63
_MAKE_ARRAYS = frozenset({"_reconstruct", "_frombuffer", "scalar"})
_NAMES = {"i": "int", "u": "uint", "f": "float", "c": "complex"}
_TIMES = {"M": "datetime64", "m": "timedelta64"}
# By names of dtypes, what struct calls one number of them, without the byte order.
_NUMBERS = {
    "bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H",
    "uint32": "I", "uint64": "Q", "float16": "e", "float32": "f", "float64": "d", "complex64": "ff",
    "complex128": "dd",
}  # fmt: skip
_NANOSECONDS = {
    "W": 604800 * 10**9, "D": 86400 * 10**9, "h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6,
    "us": 1000, "ns": 1,
}  # fmt: skip
_NOT_A_TIME = -(2**63)


class Elements(NamedTuple):
    """The dtype of an array.

    Attributes:
        name: as NumPy prints it, `float32`; of a structured one, its fields.
        item_bytes: the size of an element.
        byteorder: `little` or `big`.
        unit: of times, "ns".
    """

    name: str
    item_bytes: int
    byteorder: str
    unit: str = ""

    @property
    def is_number(self) -> bool:
        """Whether each is one number, as in a tensor."""
        return dtype(self.name).item_bytes == self.item_bytes > 0


class Array(NamedTuple):
    """An array, or one of its numbers.

    Attributes:
        described: the stub of its dtype.
        elements: its dtype.
        shape: its sizes.
        is_fortran: whether the first dimension is the fastest.
        data: its bytes, or the text that is encoded as Latin-1 to make them, or where they are in the file;
            of one of objects, the objects.
        is_number: whether it is no array but one number.
    """

    described: Stub
    elements: Elements
    shape: tuple[int, ...]
    is_fortran: bool
    data: str | bytes | Span | list[Any]
    is_number: bool = False


def array_of(value: Any) -> Array | None:
    """Makes out an array or a number; None for anything else, also where the data does not fit the shape."""
    if type(value) is not Stub or value.called.name[1] not in _MAKE_ARRAYS:
        return None
    module, name = value.called.name
    is_core = module.startswith(("numpy.core.", "numpy._core."))
    match name, value.arguments, value.state:
        case "_reconstruct", (Global(), *_), (int(), shape, Stub() as described, fortran, data) if is_core:
            return _array(described, shape, data, is_fortran=bool(fortran))
        case "_frombuffer", (data, Stub() as described, shape, "C" | "F" as order), None if is_core:
            return _array(described, shape, data, is_fortran=order == "F")
        case "scalar", (Stub() as described, data), None if is_core:
            found = _array(described, (), data)
            return None if found is None else found._replace(is_number=True)
    return None


def _array(described: Stub, shape: Any, data: Any, *, is_fortran: bool = False) -> Array | None:
    elements = _elements(described)
    found = data if type(data) in (list, Span) else latin_1_of(data)
    if elements is None or found is None or not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS:
        return None
    if not all(type(size) is int and 0 <= size < _LIMIT for size in shape):
        return None
    is_of_objects = elements.name == "object"
    size_bytes = math.prod(shape) * (1 if is_of_objects else elements.item_bytes)
    if is_of_objects != (type(found) is list) or size_bytes != len(found):
        return None
    return Array(described, elements, shape, is_fortran, found)


def _elements(described: Stub) -> Elements | None:
    match (*described.name, described.arguments, described.state):
        case "numpy", "dtype", (Global() as kind, *_), _ if kind.name[0] == "ml_dtypes":
            return Elements(kind.name[1], dtype(kind.name[1]).item_bytes, "little")
        case "numpy", "dtype", (str() as code, *_), (_, order, base, names, _, int() as size, *rest) if (
            code[1:].isdecimal() and len(code) <= _LONGEST and size < _LIMIT
        ):
            byteorder = "big" if order == ">" else "little"
            if base is not None or names is not None:
                return Elements(_fields(names), max(size, 0), byteorder)
            return _of_code(code[0], int(code[1:]), max(size, 0), byteorder, rest)
    return None


def _of_code(code: str, item_bytes: int, size: int, byteorder: str, rest: list[Any]) -> Elements:
    if code in _TIMES:
        unit = _unit(rest)
        return Elements(f"{_TIMES[code]}[{unit}]" if unit else _TIMES[code], item_bytes, byteorder, unit)
    if code in _NAMES:
        return Elements(f"{_NAMES[code]}{8 * item_bytes}", item_bytes, byteorder)
    item_bytes = item_bytes or size
    names = {
        "b": "bool", "O": "object", "S": f"bytes of {item_bytes}", "U": f"text of {size // 4}",
    }  # fmt: skip
    return Elements(names.get(code, f"void of {size} bytes"), size if code in "UV" else item_bytes, byteorder)


def _fields(names: Any) -> str:
    if not isinstance(names, tuple):
        return "arrays"
    shown = [name[:_LONGEST] for name in names[:_MOST_FIELDS] if type(name) is str]
    return f"fields {', '.join(shown)}" + ", ..." * (len(names) > _MOST_FIELDS)


def _unit(rest: list[Any]) -> str:
    """The unit of a time, from what follows the flags in the state of its dtype."""
    match rest:
        case (_, _, (_, (unit, int() as number, *_))):
            text = latin_1_of(unit)
            text = text.decode("latin-1") if isinstance(text, bytes) else text or ""
            if text != "generic" and len(text) <= _LONGEST and 0 < number < _LIMIT:
                return f"{number if number != 1 else ''}{text}"
    return ""


def number_of(array: Array) -> Any:
    """The value of one number, or of what NumPy keeps like one: a time, a text, bytes.

    Returns:
        a value of Python's; None of a dtype that Python lacks.
    """
    elements, data = array.elements, array.data
    if isinstance(data, (list, Span)):
        return None
    raw = data.encode("latin-1", "replace") if isinstance(data, str) else data
    order = ">" if elements.byteorder == "big" else "<"
    if elements.name in _NUMBERS and elements.is_number:
        parts = struct.unpack(order + _NUMBERS[elements.name], raw)
        return parts[0] if len(parts) == 1 else complex(*parts)
    if elements.name.startswith(("datetime64", "timedelta64")) and elements.is_number:
        (count,) = struct.unpack(order + "q", raw)
        return _time(count, elements)
    if elements.name.startswith("text"):
        return raw.decode("utf-32-be" if order == ">" else "utf-32-le", "replace").rstrip("\0")
    return raw if elements.name.startswith("bytes") else None


def _time(count: int, elements: Elements) -> str:
    if count == _NOT_A_TIME:
        return "NaT"
    length = _NANOSECONDS.get(elements.unit)
    if length is not None and elements.name.startswith("datetime64"):
        seconds, rest = divmod(count * length, 10**9)
        try:
            moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)  # noqa: DTZ001 - as NumPy
        except OverflowError:
            return f"{count} {elements.unit}"
        return moment.isoformat() + (f".{rest:09d}" if rest else "")
    return f"{count} {elements.unit}".rstrip()
