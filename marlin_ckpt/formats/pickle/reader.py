"""Runs the opcodes of a pickle within a budget; its clients say what names, calls and references make."""

import errno
import functools
import pickle
import struct
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, ClassVar, NoReturn

from marlin_ckpt.errors import CorruptCheckpointError, MarlinError, StorageError, Translating
from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.pickle.keys import FIRST_ITEM, ITEM, SHORT, Keys

_UINT32 = struct.Struct("<L")
_CHUNK = 100_000  # opcodes that are run between two looks at the budget
# Room that one of each takes at most, as sys.getsizeof says it of Python 3.11, with its reference.
_TUPLE = 64
_CONTAINER = 112  # a list with its first items, an empty dict
_SET = 224
# By opcode. What is made of the items behind a mark takes no more than the mark did.
_ROOM = {
    pickle.MARK: _TUPLE, pickle.TUPLE1: _TUPLE, pickle.TUPLE2: _TUPLE, pickle.TUPLE3: _TUPLE,
    pickle.EMPTY_LIST: _CONTAINER, pickle.EMPTY_DICT: _CONTAINER, pickle.EMPTY_SET: _SET,
}  # fmt: skip


def unpickling(path: str) -> Translating:
    """Turns whatever reading a damaged or hostile pickle raises into an error of ours.

    Returns:
        the context. It raises CorruptCheckpointError where the pickle of this file cannot be read, and
        StorageError where there is not enough memory.
    """

    def translate(error: Exception) -> None:  # opcodes that do not fit each other raise nearly anything
        if isinstance(error, MarlinError):
            return
        if isinstance(error, MemoryError):
            what = "not enough memory to look into the file"
            raise StorageError(what, path, errno=errno.ENOMEM) from error
        what = f"cannot be unpickled: {str(error)[:200] or type(error).__name__}"
        raise CorruptCheckpointError(what, path) from error

    return Translating(translate)


class _Memo:
    """What a pickle refers to by index, which picklers count from 0; a hostile one may name a huge index."""

    def __init__(self, budget: Budget) -> None:
        self._charge = budget.charge
        self.counted: list[Any] = []
        self._others: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.counted) + len(self._others)

    def __getitem__(self, index: int) -> Any:
        return self.counted[index] if 0 <= index < len(self.counted) else self._others[index]

    def __setitem__(self, index: int, value: Any) -> None:
        if index == len(self.counted):
            self.counted.append(value)
        elif 0 <= index < len(self.counted):
            self.counted[index] = value
        else:
            self._charge(ITEM)
            self._others[index] = value


class Reader(pickle._Unpickler):  # noqa: SLF001 - the one in C makes an array as long as a hostile index
    """Reads one pickle.

    Clients say what the pickle makes by overriding `find_class`, `call`, `new`, `build`, `extend`,
    `set_items` and `persistent_load`. Nothing is imported or called but by them.

    Args:
        file: the pickle; its `read` and `readline` are called for each opcode.
        budget: what reading may take.
        encoding: of the strings of Python 2.
        errors: what becomes of those that are in another.

    Attributes:
        budget: the one given.
        keys: charges it for the keys of dicts and sets.
    """

    # Without the extension registry and buffers outside the pickle, of which no file of torch's has any.
    known: ClassVar[frozenset[int]] = frozenset(pickle._Unpickler.dispatch) - {  # noqa: SLF001
        code[0]
        for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)
    }
    # Of the class in pickle, which typeshed does not know.
    pop_mark: Callable[[], list[Any]]
    # Types beside dict whose items are set as a dict's are.
    mappings: ClassVar[tuple[type, ...]] = (dict,)

    def __init__(self, file: Any, budget: Budget, *, encoding: str = "ASCII", errors: str = "strict") -> None:
        super().__init__(file, encoding=encoding, errors=errors)
        self.budget = budget
        self.read, self.readline = file.read, file.readline
        self._charge = budget.charge
        self.keys = Keys(budget)
        self.memo = _Memo(budget)
        self._counted = self.memo.counted

    def load(self) -> Any:
        """Reads the pickle.

        Raises:
            ExcessError: it would take more than its length allows.
            pickle.UnpicklingError: it does what is not allowed.
            Exception: of a pickle that lies, whatever its opcodes meet.
        """
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        read, opcodes = self.read, self._opcodes()
        try:
            while True:
                for _ in repeat(None, _CHUNK):
                    opcodes[read(1)]()
                self.budget.count_opcodes(_CHUNK)
        except pickle._Stop as stop:  # type: ignore[attr-defined] # noqa: SLF001
            return stop.value

    def _opcodes(self) -> dict[bytes, Callable[[], None]]:
        loads = {
            bytes([code]): getattr(self, load.__name__)
            for code, load in pickle._Unpickler.dispatch.items()  # noqa: SLF001
            if code in self.known
        }
        charged = {code: self._charging(room, loads[code]) for code, room in _ROOM.items() if code in loads}
        return {**_UNKNOWN, **loads, **charged}

    def _charging(self, room: int, load: Callable[[], None]) -> Callable[[], None]:
        charge = self._charge

        def charge_and_load() -> None:
            charge(room)
            load()

        return charge_and_load

    def call(self, called: Any, arguments: tuple[Any, ...]) -> Any:
        """What a call makes."""
        raise NotImplementedError

    def new(self, kind: Any, arguments: tuple[Any, ...]) -> Any:
        """What the `__new__` of a class makes."""
        raise NotImplementedError

    def build(self, made: Any, state: Any) -> None:
        """Gives an object its state."""
        raise NotImplementedError

    def extend(self, target: Any, items: list[Any]) -> None:
        """Appends to what is no list."""
        raise pickle.UnpicklingError(f"it would append {len(items)} to a {type(target).__name__}")

    def set_items(self, target: Any, pairs: Iterator[tuple[Any, Any]]) -> None:
        """Sets the items of what is none of the mappings."""
        raise pickle.UnpicklingError(f"it would set items {pairs} of a {type(target).__name__}")

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """What a name that is to be imported stands for; pickle itself would import it."""
        raise pickle.UnpicklingError(f"it would import {module_name}.{global_name}")

    def _instantiate(self, called: Any, arguments: list[Any]) -> None:
        # Of pickle's own load_inst and load_obj.
        self.append(self.call(called, tuple(arguments)))

    # A third of all opcodes refer to what was met before, nearly always as picklers count it.

    def load_binget(self) -> None:
        index = self.read(1)[0]
        self.append(self._counted[index] if index < len(self._counted) else self._found(index))

    def load_long_binget(self) -> None:
        index = _UINT32.unpack(self.read(4))[0]
        self.append(self._counted[index] if index < len(self._counted) else self._found(index))

    def _found(self, index: int) -> Any:
        try:
            return self.memo[index]
        except KeyError:
            raise pickle.UnpicklingError(f"Memo value not found at index {index}") from None

    def load_binput(self) -> None:
        self._remember(self.read(1)[0])

    def load_long_binput(self) -> None:
        self._remember(_UINT32.unpack(self.read(4))[0])

    def _remember(self, index: int) -> None:
        if index == len(self._counted):
            self._counted.append(self.stack[-1])
        else:
            self.memo[index] = self.stack[-1]

    def load_reduce(self) -> None:
        arguments = _checked(self.stack.pop())
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        arguments = _checked(self.stack.pop())
        self.stack[-1] = self.new(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        if self.stack.pop():
            raise pickle.UnpicklingError("arguments by name")
        self.load_newobj()

    def load_build(self) -> None:
        state = self.stack.pop()
        self.build(self.stack[-1], state)

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        else:
            self.extend(target, items)

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        pairs = zip(items[::2], items[1::2], strict=True)
        if type(target) not in self.mappings:
            self.set_items(target, pairs)
            return
        self._charge(len(items) * (ITEM // 2) + (0 if target else FIRST_ITEM))
        for key, value in pairs:
            if type(key) is not str or len(key) > SHORT:
                self.keys.charge(key, target)
            target[key] = value

    def load_dict(self) -> None:
        items = self.pop_mark()
        self._charge(_CONTAINER)
        self.append({})
        self._set_items(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise pickle.UnpicklingError("it would add to what is no set")
        self.keys.charge_all(items, self.stack[-1])
        self.stack[-1].update(items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.keys.charge_all(items, items)
        self.append(frozenset(items))

    def load_frame(self) -> None:
        self.read(8)  # the frame is part of the file, and is read from there

    def load_bytearray8(self) -> None:
        # As bytes: pickle would make room for as many as are told before it reads them.
        self.append(self.read(int.from_bytes(self.read(8), "little")))


def _checked(arguments: Any) -> tuple[Any, ...]:
    # To spread a text into arguments would take fifty times its memory, at each call anew.
    if type(arguments) is not tuple:
        raise pickle.UnpicklingError("arguments that are no tuple")
    return arguments


def _unknown(code: int) -> NoReturn:
    raise pickle.UnpicklingError(f"Unsupported operand {code}")


def _ended() -> NoReturn:
    raise EOFError("it ends too early")


# Made once: a checkpoint in shards has a pickle for each piece of a tensor.
_UNKNOWN: dict[bytes, Callable[[], None]] = {
    b"": _ended, **{bytes([code]): functools.partial(_unknown, code) for code in range(256)}
}  # fmt: skip
