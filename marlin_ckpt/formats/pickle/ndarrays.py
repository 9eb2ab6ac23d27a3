"""Which stubs of a pickle are arrays and numbers of NumPy's, and what they say of themselves; without numpy.

Source of the functions, their arguments and states: `array_reduce_ex`, `array_reduce`, `gentype_reduce` and
`arraydescr_reduce` in numpy/_core/src/multiarray of NumPy 2.3; numpy 1 has the same in numpy.core.
"""

import datetime
import math
import struct
from typing import Any, NamedTuple

from marlin_ckpt.formats.pickle.plain import latin_1_of
from marlin_ckpt.formats.pickle.stubs import Global, Stub
from marlin_ckpt.formats.values.dtypes import dtype

_MOST_DIMENSIONS = 64  # NumPy's own limit
_MOST_FIELDS = 8  # of a structured dtype that are named
_LONGEST = 40  # characters of the name of a field
_LIMIT = 2**63
_NAMES = {
    "b": "bool",
    "i": "int",
    "u": "uint",
    "f": "float",
    "c": "complex",
    "M": "datetime64",
    "m": "timedelta64",
}
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
        data: its bytes, or the text that is encoded as Latin-1 to make them; of one of objects, the objects.
        is_number: whether it is no array but one number.
    """

    described: Stub
    elements: Elements
    shape: tuple[int, ...]
    is_fortran: bool
    data: str | bytes | list[Any]
    is_number: bool = False


def array_of(value: Any) -> Array | None:
    """Makes out an array or a number; None for anything else, also for one whose data does not fit its shape."""
    if type(value) is not Stub:
        return None
    module, name = value.name
    is_core = module.startswith(("numpy.core.", "numpy._core."))
    match name, value.arguments, value.state:
        case "_reconstruct", (Global(), *_), (int(), shape, Stub() as described, fortran, data) if is_core:
            return _array(described, shape, bool(fortran), data)
        case "_frombuffer", (data, Stub() as described, shape, "C" | "F" as order), None if is_core:
            return _array(described, shape, order == "F", data)
        case "scalar", (Stub() as described, data), None if is_core:
            found = _array(described, (), fortran=False, data=data)
            return None if found is None else found._replace(is_number=True)
    return None


def _array(described: Stub, shape: Any, fortran: bool, data: Any) -> Array | None:  # noqa: FBT001 - as pickled
    elements = _elements(described)
    if elements is None or not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS:
        return None
    if not all(type(size) is int and 0 <= size < _LIMIT for size in shape):
        return None
    found = data if type(data) is list else latin_1_of(data)
    if found is None or (type(found) is list) != (elements.name == "object"):
        return None
    size_bytes = math.prod(shape) * (1 if type(found) is list else elements.item_bytes)
    return Array(described, elements, shape, fortran, found) if size_bytes == len(found) else None


def _elements(described: Stub) -> Elements | None:
    if described.name != ("numpy", "dtype") or not described.arguments:
        return None
    code, state = described.arguments[0], described.state
    if type(code) is Global and code.name[0] == "ml_dtypes" and dtype(code.name[1]).item_bytes:
        return Elements(code.name[1], dtype(code.name[1]).item_bytes, "little")
    if (
        type(code) is not str
        or not code[1:].isdecimal()
        or len(code) > _LONGEST
        or not isinstance(state, tuple)
    ):
        return None
    if len(state) < 7:  # noqa: PLR2004 - version, order, subarray, names, fields, size, alignment
        return None
    byteorder, size = "big" if state[1] == ">" else "little", int(code[1:])
    if state[2] is not None or state[3] is not None:
        return Elements(_fields(state), state[5], byteorder) if type(state[5]) is int else None
    kind, unit = code[0], ""
    if kind in "Mm":
        unit = _unit(state)
        return Elements(f"{_NAMES[kind]}[{unit}]" if unit else _NAMES[kind], size, byteorder, unit)
    if kind in _NAMES:
        return Elements("bool" if kind == "b" else f"{_NAMES[kind]}{8 * size}", size, byteorder)
    if kind == "O":
        return Elements("object", size, byteorder)
    item_bytes = state[5] if type(state[5]) is int and state[5] >= 0 else size
    names = {"S": f"bytes of {item_bytes}", "U": f"text of {item_bytes // 4}"}
    return Elements(names.get(kind, f"void of {item_bytes} bytes"), item_bytes, byteorder)


def _fields(state: tuple[Any, ...]) -> str:
    if not isinstance(state[3], tuple):
        return "arrays"
    names = [str(name)[:_LONGEST] for name in state[3][:_MOST_FIELDS] if type(name) is str]
    return f"fields {', '.join(names)}" + ", ..." * (len(state[3]) > _MOST_FIELDS)


def _unit(state: tuple[Any, ...]) -> str:
    match state[8:]:
        case ((_, (unit, int() as number, *_)),):
            text = latin_1_of(unit)
            text = text.decode("latin-1") if isinstance(text, bytes) else text or ""
            return (
                "" if text == "generic" or len(text) > _LONGEST else f"{number if number != 1 else ''}{text}"
            )
    return ""


def number_of(array: Array) -> Any:
    """The value of one number, or of what NumPy keeps like one: a time, a text, bytes.

    Returns:
        a value of Python's; None of a dtype that Python lacks.
    """
    elements, data = array.elements, array.data
    if isinstance(data, list):
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
