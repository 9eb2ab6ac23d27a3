"""Reads a pickle into stubs: without torch, without importing what it names and without running any of it."""

from __future__ import annotations

import copyreg
import pickle
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Self

from marlin_ckpt.formats.pickle.budget import SMALL_INTEGERS, ExcessError

MOST_OPCODES = 1_000_000
_MOST_ALIKE = 1_000  # keys of one hash, each of which is compared with those before
_MOST_NAMES = 20_000  # each becomes a class, of a kilobyte


class Stub:
    """Stands for an object that the pickle would make: takes any arguments and does nothing with them.

    Each name that the pickle would import becomes a class of its own, derived from this one.

    Attributes:
        name: the module and the name that would be imported.
        arguments: what it would be made with.
        state: what its `__setstate__` would be given, or None.
        items: what would be appended to it.
        pairs: the items that would be set, with their keys.
        is_called: whether it would be called, not only its `__new__`.
    """

    __slots__ = ("arguments", "is_called", "items", "pairs", "state")
    name: ClassVar[tuple[str, str]] = ("", "")
    arguments: tuple[Any, ...]
    state: Any
    items: list[Any]
    pairs: list[tuple[Any, Any]]
    is_called: bool

    def __new__(cls, *arguments: Any) -> Self:
        """Makes one of whatever the named class would be given."""
        self = super().__new__(cls)
        self.arguments, self.state, self.is_called = arguments, None, False
        self.items, self.pairs = _NOTHING, _NOTHING
        return self

    def __init__(self, *arguments: Any) -> None:
        del arguments
        self.is_called = True  # the opcode NEWOBJ makes objects without this

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.pairs is _NOTHING:
            self.pairs = []
        self.pairs.append((key, value))

    def append(self, item: Any) -> None:
        """Does as the object would that is appended to."""
        self.extend((item,))

    def extend(self, items: Any) -> None:
        """Does as the object would that is extended."""
        if self.items is _NOTHING:
            self.items = []
        self.items.extend(items)

    def __reduce__(self) -> tuple[Any, ...]:
        made = (type(self), self.arguments)
        if not self.is_called:
            made = (copyreg.__newobj__, (type(self), *self.arguments))  # type: ignore[attr-defined]
        return (
            *made,
            self.state,
            iter(self.items) if self.items else None,
            iter(self.pairs) if self.pairs else None,
        )


_NOTHING: list[Any] = []  # shared by the stubs that were given nothing, most of them


class Storage:
    """Stands for a storage; knows the record that holds it.

    Attributes:
        pid: what `torch.save` wrote of it: "storage", its type, key, location and number of elements.
        key: that of the record.
    """

    __slots__ = ("key", "pid")

    def __init__(self, pid: tuple[Any, ...]) -> None:
        self.pid = pid
        self.key: str = pid[2]

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for a storage")

    def __reduce__(self) -> tuple[Any, ...]:
        raise pickle.PicklingError("a storage is written by its persistent id")


class Reader(pickle._Unpickler):  # noqa: SLF001 - see below
    """Reads one pickle into stubs.

    Args:
        file: the pickle; its `read` and `readline` are called for each opcode.
        encoding: of the strings of Python 2.
        errors: what becomes of those that are in another.
        opcodes: how many there may be, since each may make an object of 64 times its length.

    Attributes:
        names: the class that stands for each name that the pickle would import.
    """

    # The one in Python, whose memo is a dict: the one in C makes an array as long as the greatest index that
    # the pickle names, which a few hostile bytes make tens of gigabytes.
    def __init__(
        self, file: Any, *, encoding: str = "ASCII", errors: str = "strict", opcodes: int = MOST_OPCODES
    ) -> None:
        super().__init__(file, encoding=encoding, errors=errors)
        self.names: dict[tuple[str, str], type[Stub]] = {}
        self._hashes: Counter[tuple[int, int]] = Counter()
        self._opcodes = opcodes
        self.read, self.readline = file.read, file.readline

    def load(self) -> Any:
        """Reads the pickle.

        Raises:
            ExcessError: it would cost more than a state does.
            Exception: of a pickle that lies, whatever its opcodes meet.
        """
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        read, dispatch = self.read, self.dispatch
        try:
            for _ in range(self._opcodes):
                code = read(1)
                if not code:
                    raise EOFError("it ends too early")
                dispatch[code[0]](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined] # noqa: SLF001
            return stop.value
        raise ExcessError("too many opcodes")

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The class that stands for a name."""
        name = module_name, global_name
        if name not in self.names:
            if len(self.names) >= _MOST_NAMES:
                raise ExcessError("too many names")
            self.names[name] = type("Stub", (Stub,), {"name": name, "__slots__": ()})
        return self.names[name]

    # Without DICT, which no pickler of a protocol that torch writes makes use of, and which hashes.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()  # noqa: SLF001
        if code != pickle.DICT[0]
    }

    def load_frame(self) -> None:
        """Passes over a frame's length: the frame is part of the file, and is read from there."""
        if len(self.read(8)) < 8:  # noqa: PLR2004
            raise EOFError

    def load_setitem(self) -> None:
        """Sets one item, unless hashing its key may never end."""
        self._check_keys(self.stack[-2:-1], *self.stack[-3:-2])
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        """Sets items, unless hashing their keys may never end."""
        self._check_keys(self.stack[::2], *self.metastack[-1][-1:])
        super().load_setitems()  # type: ignore[misc]

    def load_additems(self) -> None:
        """Adds to a set, unless hashing the items may never end."""
        self._check_keys(self.stack, *self.metastack[-1][-1:])
        super().load_additems()  # type: ignore[misc]

    def load_frozenset(self) -> None:
        """Makes a frozen set, unless hashing the items may never end."""
        self._check_keys(self.stack, self.stack)
        super().load_frozenset()  # type: ignore[misc]

    def load_bytearray8(self) -> None:
        """Reads bytes; pickle would make room for as many as are told before it reads them."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))

    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.FRAME[0]] = load_frame

    def _check_keys(self, keys: list[Any], target: Any) -> None:
        # The hash of a tuple in a million others ends the process, that of 2^40 shared ones never ends, and
        # so do a million keys of one hash.
        for key in keys:
            if type(key) is str or (type(key) is int and -SMALL_INTEGERS < key < SMALL_INTEGERS):
                continue
            parts = key if isinstance(key, tuple) else (key,)
            if any(isinstance(part, (tuple, frozenset)) for part in parts):
                raise pickle.UnpicklingError("a nested key")
            number = id(target), hash(key)
            self._hashes[number] += 1
            if self._hashes[number] > _MOST_ALIKE:
                raise ExcessError("too many keys of one hash")

    def persistent_load(self, pid: Any) -> Any:
        """The storage that torch wrote a reference to."""
        # ("storage", type, key, location, size); see torch.serialization._save.
        if isinstance(pid, tuple) and len(pid) > 2 and isinstance(pid[2], str):  # noqa: PLR2004
            return Storage(pid)
        raise pickle.UnpicklingError("an unknown persistent id")


class Writer(pickle._Pickler):  # noqa: SLF001 - the one in C looks for each name in its module
    """Writes what `Reader` read, with every name as it was."""

    def persistent_id(self, obj: Any) -> Any:
        """What a reader finds a storage by."""
        return obj.pid if isinstance(obj, Storage) else None

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Writes a name without a look at what it means."""
        if isinstance(obj, type) and issubclass(obj, Stub):
            self.write(pickle.GLOBAL + "\n".join((*obj.name, "")).encode())  # type: ignore[attr-defined]
            self.memoize(obj)  # type: ignore[attr-defined]
        else:
            super().save_global(obj, name)  # type: ignore[misc]
