"""Unpickles what torch's `weights_only` does, at a cost in proportion to the pickle's length.

torch's own unpickler lets a few bytes fill the memory (`bytearray(2**31)`), take forever (the hash of a pair
of one pair, forty times over) or end the process (the hash of tuples nested a million deep). This module
stands in for `pickle` as the `pickle_module` of `torch.load`.
"""

from __future__ import annotations

import os
import pickle
from _codecs import encode
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import torch
from torch import _weights_only_unpickler as torchs

from marlin_ckpt.formats.pickle.budget import SMALL_INTEGERS, ExcessError, parts_of_key

# What a pickler writes at least for a container and each of its parts. So a pickle's length bounds what one
# made of a state costs; what goes beyond has some room of its own.
_CONTAINER_BYTES = 6
_FREE_BYTES = _CONTAINER_BYTES * 1_000_000


class Unpickler(pickle._Unpickler):  # noqa: SLF001 - the one in C makes an array as long as a hostile index
    """Reads one pickle; imports only what `weights_only` does, and what the user has added to that."""

    def __init__(self, file: BinaryIO, *, encoding: str = "ASCII") -> None:
        super().__init__(file, encoding=encoding)
        added = torchs._get_user_allowed_globals()  # type: ignore[no-untyped-call] # noqa: SLF001
        allowed = {**added, **torchs._get_allowed_globals()}  # noqa: SLF001
        self._allowed: dict[str, Any] = allowed
        self._callable = {id(one): one for one in allowed.values()}
        start = file.tell()
        self._room = file.seek(0, os.SEEK_END) - start + _FREE_BYTES
        file.seek(start)
        self._hashes: Counter[tuple[int, int]] = Counter()
        self.read, self.readline = file.read, file.readline

    def load(self) -> Any:
        """Reads the pickle.

        Raises:
            ExcessError: it costs more than its length allows.
            pickle.UnpicklingError: it would import or do what is not allowed.
            Exception: of a pickle that lies, whatever its opcodes meet.
        """
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        # Not kept in an attribute: the cycle would keep the state in memory until the cyclic collector runs.
        opcodes = {code: load.__get__(self) for code, load in self._loads.items()}
        read = self.read
        try:
            while code := read(1):
                opcodes[code[0]]()
        except KeyError as error:
            if code[0] in opcodes:
                raise
            raise pickle.UnpicklingError(f"Unsupported operand {code[0]}") from error
        except pickle._Stop as stop:  # type: ignore[attr-defined] # noqa: SLF001
            return stop.value
        raise EOFError("the pickle has no end")

    def _charge(self, cost: int) -> None:
        self._room -= cost
        if self._room < 0:
            raise ExcessError("it would take far more memory than its length")

    def _load_global(self) -> None:
        module, name = torchs._read_global_instruction(self.readline)  # noqa: SLF001
        path = f"{module}.{name}"
        if module in torchs._blocklisted_modules or path not in self._allowed:  # noqa: SLF001
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {path} is not allowed")
        self.append(self._allowed[path])

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        called = self.stack[-1]
        self._check_call(called, arguments)
        self.stack[-1] = self._made(called, called(*arguments))

    def _load_newobj(self) -> None:
        arguments = self.stack.pop()
        kind = self.stack.pop()
        self._check_call(kind, arguments)
        made = kind(*arguments) if kind is torch.nn.Parameter else kind.__new__(kind, *arguments)
        self.append(self._made(kind, made))

    @staticmethod
    def _made(called: Any, made: Any) -> Any:
        if called in torch._tensor_classes and "sparse" in called.__module__:  # noqa: SLF001
            torch._utils._sparse_tensors_to_validate.append(made)  # noqa: SLF001 - by torch.load, at its end
        return made

    def _check_call(self, called: Any, arguments: Any) -> None:
        if id(called) not in self._callable:
            raise pickle.UnpicklingError("it would call what it may not")
        if type(arguments) is not tuple:
            raise pickle.UnpicklingError("arguments that are no tuple")
        self._charge(_CONTAINER_BYTES)
        check = _CHECKS.get(called)
        if check is None:
            if called in _MADE_BY_OTHERS and arguments:
                raise ExcessError(f"no state that was saved calls {called.__name__} with arguments")
        elif not check(self, arguments):
            raise ExcessError(f"no state that was saved calls {called.__name__} with such arguments")

    def _is_encode(self, arguments: tuple[Any, ...]) -> bool:
        match arguments:
            case (str() as text, "latin1" | "latin-1"):
                self._charge(len(text))
                return True
        return False

    def _is_bytearray(self, arguments: tuple[Any, ...]) -> bool:
        match arguments:
            case () | (bytes() | bytearray(),) | (str(), "latin1" | "latin-1"):
                self._charge(len(arguments[0]) if arguments else 0)
                return True
        return False

    def _is_collection(self, arguments: tuple[Any, ...]) -> bool:
        match arguments:
            case ():
                return True
            case (list() | tuple() as parts,):
                self._charge(len(parts))
                for part in parts:
                    self._charge_key(part, parts)
                return True
            case (dict() as parts,):
                self._charge(len(parts))
                return True
        return False

    def _is_ordered_dict(self, arguments: tuple[Any, ...]) -> bool:
        match arguments:
            case ():
                return True
            case (list() as pairs,):  # as Python 2 pickled its items
                self._charge(len(pairs))
                for pair in pairs:
                    if type(pair) is not list or len(pair) != 2:  # noqa: PLR2004
                        return False
                    self._charge_key(pair[0], pairs)
                return True
        return False

    def _is_conversion(self, arguments: tuple[Any, ...]) -> bool:
        data = arguments[0] if arguments else None
        return not isinstance(data, torch.Tensor) or data.nbytes <= data.untyped_storage().nbytes()

    def _is_rebuild(self, arguments: tuple[Any, ...]) -> bool:
        function, _, inner, _ = arguments
        self._check_call(function, inner)
        return True

    def _load_build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        kind = type(built)
        if kind is torch.Tensor:
            built.set_(*state)  # as tensors were pickled before torch 0.4
        elif kind is OrderedDict:
            vars(built).update(state)
        elif kind is torch.nn.Parameter or (id(kind) in self._callable and hasattr(built, "__setstate__")):
            built.__setstate__(state)
        elif id(kind) in self._callable:
            pairs, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)  # noqa: PLR2004
            if pairs:
                vars(built).update(pairs)
            for name, value in (slots or {}).items():
                setattr(built, name, value)
        else:
            raise pickle.UnpicklingError("it would set the attributes of what it may not")

    def _load_append(self) -> None:
        item = self.stack.pop()
        self._listed().append(item)

    def _load_appends(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._listed().extend(items)

    def _listed(self) -> list[Any]:
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError("it would append to what is no list")
        found: list[Any] = self.stack[-1]
        return found

    def _load_setitem(self) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def _load_setitems(self) -> None:
        self._set_items(self.pop_mark())  # type: ignore[attr-defined]

    def _set_items(self, items: list[Any]) -> None:
        if type(target := self.stack[-1]) not in (dict, OrderedDict, Counter):
            raise pickle.UnpicklingError("it would set an item of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                self._charge_key(key, target)
            target[key] = value

    def _charge_key(self, key: Any, target: Any) -> None:
        """Counts what hashing costs: the parts of a tuple, and the keys before it that have the same hash."""
        kind = type(key)
        if issubclass(kind, tuple):
            self._charge(parts_of_key(key))
        elif kind is not float and not (kind is int and not -SMALL_INTEGERS < key < SMALL_INTEGERS):
            return
        number = id(target), hash(key)
        self._hashes[number] += 1
        self._charge(self._hashes[number])

    def _load_persistent_id(self) -> None:
        pid = self.stack.pop()
        if type(pid) is not tuple or not pid or pid[0] not in ("storage", b"storage"):
            raise pickle.UnpicklingError("it refers to what is no storage")
        self.append(self.persistent_load(pid))

    def _load_mark(self) -> None:
        self._charge(_CONTAINER_BYTES)
        super().load_mark()  # type: ignore[misc]

    def _load_list(self) -> None:
        self._charge(_CONTAINER_BYTES)
        self.append([])

    def _load_dict(self) -> None:
        self._charge(_CONTAINER_BYTES)
        self.append({})

    def _load_tuple(self) -> None:
        self._charge(_CONTAINER_BYTES)
        super().load_tuple()  # type: ignore[misc]

    def _load_tuple1(self) -> None:
        self._charge(_CONTAINER_BYTES)
        self.stack[-1] = (self.stack[-1],)

    def _load_tuple2(self) -> None:
        self._charge(_CONTAINER_BYTES)
        super().load_tuple2()  # type: ignore[misc]

    def _load_tuple3(self) -> None:
        self._charge(_CONTAINER_BYTES)
        super().load_tuple3()  # type: ignore[misc]

    # The opcodes that torch's unpickler knows, in torch/_weights_only_unpickler.py, but for EMPTY_SET, since
    # none fills the set.
    _loads: ClassVar[dict[int, Callable[[Any], None]]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]]  # noqa: SLF001
        for code in (
            pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE, pickle.EMPTY_TUPLE, pickle.BININT, pickle.BININT1,
            pickle.BININT2, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.BINGET,
            pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.LONG1, pickle.PROTO, pickle.STOP,
        )
    } | {
        pickle.GLOBAL[0]: _load_global,
        pickle.REDUCE[0]: _load_reduce,
        pickle.NEWOBJ[0]: _load_newobj,
        pickle.BUILD[0]: _load_build,
        pickle.APPEND[0]: _load_append,
        pickle.APPENDS[0]: _load_appends,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
        pickle.BINPERSID[0]: _load_persistent_id,
        pickle.MARK[0]: _load_mark,
        pickle.EMPTY_LIST[0]: _load_list,
        pickle.EMPTY_DICT[0]: _load_dict,
        pickle.TUPLE[0]: _load_tuple,
        pickle.TUPLE1[0]: _load_tuple1,
        pickle.TUPLE2[0]: _load_tuple2,
        pickle.TUPLE3[0]: _load_tuple3,
    }  # fmt: skip


# What may be called only as a pickler has it called.
_CHECKS: dict[Any, Callable[[Unpickler, tuple[Any, ...]], bool]] = {
    encode: Unpickler._is_encode,  # noqa: SLF001
    bytearray: Unpickler._is_bytearray,  # noqa: SLF001
    set: Unpickler._is_collection,  # noqa: SLF001
    Counter: Unpickler._is_collection,  # noqa: SLF001
    OrderedDict: Unpickler._is_ordered_dict,  # noqa: SLF001
    torch.Size: Unpickler._is_collection,  # noqa: SLF001
    torch._utils._rebuild_device_tensor_from_cpu_tensor: Unpickler._is_conversion,  # noqa: SLF001
    torch._tensor._rebuild_from_type_v2: Unpickler._is_rebuild,  # noqa: SLF001
}
# Storages come by persistent id, tensors by functions that rebuild them; these would make memory.
_MADE_BY_OTHERS = frozenset({torch.Tensor, *torch._tensor_classes, *torch._storage_classes})  # noqa: SLF001


def load(file: BinaryIO, *, encoding: str = "ASCII") -> Any:
    """Reads one pickle, as `pickle.load`; `torch.load` calls it for a legacy file."""
    return Unpickler(file, encoding=encoding).load()
