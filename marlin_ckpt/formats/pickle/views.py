"""Which stubs of a pickle are tensors, and what they say of themselves.

Source of the functions and their arguments: torch/_utils.py and torch/_tensor.py of torch 2.13.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from marlin_ckpt.formats.pickle.stubs import Global, Storage, Stub
from marlin_ckpt.formats.values.dtypes import STORAGES

MOST_WRAPPED = 16  # a parameter of a subclass of a parameter ...; torch nests three
MOST_ARGUMENTS = 16  # of a function that rebuilds a tensor; torch's have nine at most
_MOST_DIMENSIONS = 64  # torch's own limit
_LIMIT = 2**63  # sizes, strides and numbers of elements are int64


class View(NamedTuple):
    """A tensor as the pickle makes it.

    Attributes:
        storage: what it views.
        dtype: in torch's spelling.
        offset: of its first element, in elements.
        shape: its sizes.
        stride: in elements.
        others: what else belongs to it: a subclass's attributes, a quantizer's scales.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    others: tuple[Any, ...] = ()


def view_of(value: Any) -> View | None:
    """Makes out a tensor or a bare storage.

    Returns:
        None for anything else, also for a tensor that torch could not make: of sizes beyond 64 bits, say.
    """
    if isinstance(value, Storage):
        return _whole(value)
    others: list[Any] = []
    for _ in range(MOST_WRAPPED):
        if not isinstance(value, Stub) or value.name[0] not in ("torch._utils", "torch._tensor"):
            return None
        if value.state is not None:
            others.append(value.state)
        match value.name[1], value.arguments:
            case "_rebuild_parameter" | "_rebuild_parameter_with_state", (value, *rest):
                others.extend(rest[2:3])
            case "_rebuild_from_type_v2", (Global() as function, _, tuple() as given, state) if (
                len(given) <= MOST_ARGUMENTS
            ):
                value = Stub(function, given)
                others.append(state)
            case name, arguments:
                return _rebuilt(name, arguments, others)
    return None


def dtype_of(storage: Storage) -> str:
    """The type of a storage's elements in torch's spelling; "" where it is not known here."""
    kind = storage.pid[1]
    return STORAGES.get(kind.name[1], "") if type(kind) is Global else ""


def _rebuilt(name: str, arguments: tuple[Any, ...], others: Iterable[Any]) -> View | None:
    match name, arguments:
        case "_rebuild_tensor" | "_rebuild_tensor_v2", (Storage() as storage, offset, shape, stride, *_):
            kind = dtype_of(storage)
        case "_rebuild_tensor_v3", (Storage() as storage, offset, shape, stride, _, _, Global() as own, *_):
            kind = own.name[1]
        case "_rebuild_qtensor", (Storage() as storage, offset, shape, stride, *rest):
            kind, others = dtype_of(storage), (*others, *rest[:1])
        case _:
            return None
    sizes, steps = sizes_of(shape), sizes_of(stride)
    if not kind or sizes is None or steps is None or len(sizes) != len(steps):
        return None
    # Conjugated or negated: what the elements are worth is not what lies in the storage.
    is_marked = any(isinstance(one, dict) and _says_yes(one) for one in arguments[6:8])
    if is_marked or not _is_int64(offset) or abs(math.prod(sizes)) >= _LIMIT:
        return None
    return View(storage, kind, offset + _part(storage)[0], sizes, steps, tuple(others))


def _says_yes(metadata: dict[Any, Any]) -> bool:
    return len(metadata) > MOST_ARGUMENTS or any(one is True for one in metadata.values())


def _whole(storage: Storage) -> View | None:
    kind, (offset, numel) = dtype_of(storage), _part(storage)
    if not kind or not _is_int64(numel):
        return None
    return View(storage, kind, offset, (numel,), (1,))


def _part(storage: Storage) -> tuple[int, Any]:
    """Where in the data of its file a storage starts, and its elements: some are parts of another one.

    Legacy files of torch before 0.4 have such; elsewhere each has its data for itself.
    """
    numel, view = (storage.pid[at] if len(storage.pid) > at else None for at in (4, 5))  # see `Storage.pid`
    if isinstance(view, tuple) and len(view) == 3 and _is_int64(view[1]):  # noqa: PLR2004 - key, offset, size
        return int(view[1]), view[2]
    return 0, numel


def sizes_of(value: Any) -> tuple[int, ...] | None:
    """The sizes or strides of a tensor; None for what torch could not make one of."""
    if type(value) is Stub and value.name == ("torch", "Size") and len(value.arguments) == 1:
        value = value.arguments[0]
    if not isinstance(value, (tuple, list)) or len(value) > _MOST_DIMENSIONS:
        return None
    return tuple(value) if all(map(_is_int64, value)) else None


def _is_int64(value: Any) -> bool:
    return type(value) is int and -_LIMIT <= value < _LIMIT
