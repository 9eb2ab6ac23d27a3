"""Unpickles what torch's `weights_only` does, at a cost in proportion to the pickle's length.

torch's own unpickler lets a few bytes fill the memory (`bytearray(2**31)`), take forever (the hash of a pair
of one pair, forty times over) or end the process (the hash of tuples nested a million deep). This module
stands in for `pickle` as the `pickle_module` of `torch.load`.
"""

import pickle
from _codecs import encode
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, ClassVar

import torch
from torch import _weights_only_unpickler as torchs
from torch._utils import _rebuild_qtensor, _rebuild_tensor, _rebuild_tensor_v2, _rebuild_tensor_v3
from torch.storage import TypedStorage

from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.pickle.keys import ITEM
from marlin_ckpt.formats.pickle.permissions import python_3_name
from marlin_ckpt.formats.pickle.reader import Reader

CALL = 250  # bytes of memory that what a call makes takes: a tensor, an ordered dict


class Unpickler(Reader):
    """Reads one pickle; imports only what `weights_only` does, and what the user has added to that."""

    # The opcodes that torch's unpickler knows, in torch/_weights_only_unpickler.py, but for EMPTY_SET, since
    # none fills the set.
    known: ClassVar[frozenset[int]] = frozenset(
        code[0]
        for code in (
            pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST,
            pickle.EMPTY_DICT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT,
            pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.MARK, pickle.TUPLE, pickle.TUPLE1,
            pickle.TUPLE2, pickle.TUPLE3, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS,
            pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINPERSID,
            pickle.GLOBAL, pickle.REDUCE, pickle.NEWOBJ, pickle.BUILD, pickle.PROTO, pickle.STOP,
        )
    )  # fmt: skip
    mappings: ClassVar[tuple[type, ...]] = (dict, OrderedDict, Counter)

    def __init__(self, file: BinaryIO, *, encoding: str = "ASCII") -> None:
        super().__init__(file, Budget(file.tell), encoding=encoding)
        self._allowed = _allowed()
        self._callable = {id(one): one for one in self._allowed.values()}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """What torch allows to be imported."""
        path = ".".join(python_3_name(module_name, global_name))
        if path not in self._allowed:
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {path} is not allowed")
        return self._allowed[path]

    def call(self, called: Any, arguments: tuple[Any, ...]) -> Any:
        """Calls what torch allows, with such arguments as a pickler writes."""
        self._check_call(called, arguments)
        return _checked_later(called, self._made(called, arguments))

    def _made(self, called: Any, arguments: tuple[Any, ...]) -> Any:
        return called(*arguments)

    def new(self, kind: Any, arguments: tuple[Any, ...]) -> Any:
        """Makes a new object of a class that torch allows."""
        self._check_call(kind, arguments)
        return _checked_later(
            kind, kind(*arguments) if kind is torch.nn.Parameter else kind.__new__(kind, *arguments)
        )

    def _check_call(self, called: Any, arguments: Any) -> None:
        if id(called) not in self._callable:
            raise pickle.UnpicklingError("it would call what it may not")
        if type(arguments) is not tuple:
            raise pickle.UnpicklingError("arguments that are no tuple")
        self.budget.charge(CALL)
        check = _CHECKS.get(called)
        if arguments and (called in _MADE_BY_OTHERS or (check and not check(self, arguments))):
            self.budget.refuse(f"no state that was saved calls {called.__name__} with such arguments")

    def _is_bytes(self, arguments: tuple[Any, ...]) -> bool:
        match arguments:
            case (bytes() | bytearray(),) | (str(), "latin1" | "latin-1"):
                self.budget.charge(len(arguments[0]))
                return True
        return False

    def _is_collection(self, arguments: tuple[Any, ...]) -> bool:
        match arguments:
            case (list() | tuple() as parts,):
                self.keys.charge_all(parts, parts)
                return True
            case (dict() as parts,):
                self.budget.charge(ITEM * len(parts))
                return True
        return False

    def _is_ordered_dict(self, arguments: tuple[Any, ...]) -> bool:
        match arguments:  # as Python 2 pickled its items
            case (list() as pairs,) if all(type(pair) is list and len(pair) == 2 for pair in pairs):  # noqa: PLR2004
                self.keys.charge_all([key for key, _ in pairs], pairs)
                return True
        return False

    def _is_conversion(self, arguments: tuple[Any, ...]) -> bool:
        data = arguments[0]
        return not isinstance(data, torch.Tensor) or data.nbytes <= data.untyped_storage().nbytes()

    def _is_rebuild(self, arguments: tuple[Any, ...]) -> bool:
        function, _, inner, _ = arguments
        self._check_call(function, inner)
        return True

    def _is_short(self, arguments: tuple[Any, ...]) -> bool:
        return all(type(one) is float or (type(one) is str and len(one) <= _LONGEST) for one in arguments)

    def _is_view(self, arguments: tuple[Any, ...]) -> bool:
        """Refuses a tensor that reaches beyond its storage, which torch would make larger, at any cost."""
        match arguments:
            case (TypedStorage() as storage, int(offset), tuple() | list() as size, stride, *rest):
                for one in (*size, *stride):
                    if type(one) is not int:  # that of tensors may overflow
                        raise pickle.UnpicklingError("a tensor's sizes or strides are no integers")
                dtype, reach = storage.dtype, offset + 1
                for one in rest:
                    if type(one) is torch.dtype:
                        dtype = one
                        break
                for n, step in zip(size, stride, strict=False):
                    reach += (n - 1) * step
                held = storage._untyped_storage.nbytes() * _PACKED.get(dtype, 1)  # noqa: SLF001
                if all(size) and reach * dtype.itemsize > held:
                    raise pickle.UnpicklingError("a tensor reaches beyond its storage")
                return True
        return False

    def build(self, made: Any, state: Any) -> None:
        """Gives an object its state, if torch would."""
        kind = type(made)
        if kind is torch.Tensor or (kind is torch.nn.Parameter and len(state) == _VIEW_LENGTH):
            if type(state) is not tuple or not self._is_view(state):
                raise pickle.UnpicklingError("a tensor's state is no tuple of what it views")
            made.set_(*state)  # as tensors were pickled before torch 0.4
        elif kind is OrderedDict:
            self._set_attributes(made, state)
        elif kind is torch.nn.Parameter or (id(kind) in self._callable and hasattr(made, "__setstate__")):
            made.__setstate__(state)
        elif id(kind) in self._callable:
            pairs, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)  # noqa: PLR2004
            if pairs:
                self._set_attributes(made, pairs)
            for name, value in (slots or {}).items():
                setattr(made, name, value)
        else:
            raise pickle.UnpicklingError("it would set the attributes of what it may not")

    def _set_attributes(self, made: Any, pairs: Any) -> None:
        if type(pairs) is not dict:
            raise pickle.UnpicklingError("attributes that are no dict")
        self.budget.charge(ITEM * len(pairs))
        vars(made).update(pairs)

    def load_binpersid(self) -> None:
        """Looks at what refers to a storage."""
        pid = self.stack.pop()
        if type(pid) is not tuple or not pid or pid[0] not in ("storage", b"storage"):
            raise pickle.UnpicklingError("it refers to what is no storage")
        self.append(self.persistent_load(pid))


def _allowed() -> dict[str, Any]:
    """What may be imported, by `module.name`: never of the modules torch bars, whatever a user allows."""
    added = torchs._get_user_allowed_globals()  # type: ignore[no-untyped-call] # noqa: SLF001
    barred = tuple(f"{module}." for module in torchs._blocklisted_modules)  # noqa: SLF001
    own = {name: one for name, one in added.items() if not name.startswith(barred)}
    return {**own, **torchs._get_allowed_globals()}  # noqa: SLF001


def refused(names: Iterable[str]) -> tuple[str, ...]:
    """Those of some names, such as `argparse.Namespace`, that may not be imported."""
    allowed = _allowed()
    return tuple(name for name in names if name not in allowed)


def _checked_later(called: Any, made: Any) -> Any:
    if called in _SPARSE:
        torch._utils._sparse_tensors_to_validate.append(made)  # noqa: SLF001 - by torch.load, at its end
    return made


_LONGEST = 100  # characters of the name of a layout
_VIEW_LENGTH = 4  # a storage, an offset, sizes and strides
_PACKED = {torch.quint4x2: 2, torch.quint2x4: 4}  # elements in a byte
# What may be called only as a pickler has it called.
_CHECKS: dict[Any, Callable[[Unpickler, tuple[Any, ...]], bool]] = {
    **dict.fromkeys((encode, bytearray), Unpickler._is_bytes),  # noqa: SLF001
    **dict.fromkeys((set, Counter, torch.Size), Unpickler._is_collection),  # noqa: SLF001
    **dict.fromkeys((complex, torch.serialization._get_layout), Unpickler._is_short),  # noqa: SLF001
    **dict.fromkeys(
        (_rebuild_tensor, _rebuild_tensor_v2, _rebuild_tensor_v3, _rebuild_qtensor),
        Unpickler._is_view,  # noqa: SLF001
    ),
    OrderedDict: Unpickler._is_ordered_dict,  # noqa: SLF001
    torch._utils._rebuild_device_tensor_from_cpu_tensor: Unpickler._is_conversion,  # noqa: SLF001
    torch._tensor._rebuild_from_type_v2: Unpickler._is_rebuild,  # noqa: SLF001
}
# Storages come by persistent id, tensors by functions that rebuild them; these would make memory.
_MADE_BY_OTHERS = frozenset({torch.Tensor, *torch._tensor_classes, *torch._storage_classes})  # noqa: SLF001
_SPARSE = frozenset(kind for kind in torch._tensor_classes if "sparse" in kind.__module__)  # noqa: SLF001


def load(file: BinaryIO, *, encoding: str = "ASCII") -> Any:
    """Reads one pickle, as `pickle.load`; `torch.load` calls it for a legacy file."""
    return Unpickler(file, encoding=encoding).load()
