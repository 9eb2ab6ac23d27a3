"""Reads a pickle into stubs: without torch, without importing what it names and without running any of it."""

import pickle
from collections.abc import Callable, Iterator, Sized
from typing import Any, ClassVar

from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.pickle.reader import Reader
from marlin_ckpt.storage.source import Source

# Of the budget: bytes of memory, and the time in which as many are filled.
_STUB = 200
_PART = 8
_PAIR = 72
_STORAGE = 96
_GLOBAL = 300
_PIECE_BYTES = 1 << 20  # of a span


class Global:
    """Stands for what the pickle would import.

    Attributes:
        name: its module and its name there.
    """

    __slots__ = ("name",)

    def __init__(self, name: tuple[str, str]) -> None:
        self.name = name


class Globals(dict[tuple[str, str], Global]):
    """One for each name, made when it is asked for."""

    def __missing__(self, name: tuple[str, str]) -> Global:
        made = self[name] = Global(name)
        return made


class Stub:
    """Stands for an object that the pickle would make.

    Attributes:
        called: what would make it.
        arguments: what it would be made with.
        state: what its `__setstate__` would be given, or None.
        items: what would be appended to it.
        pairs: the items that would be set, with their keys.
        is_called: whether `called` would be called, not only its `__new__`.
    """

    __slots__ = ("arguments", "called", "is_called", "items", "pairs", "state")

    def __init__(self, called: Global, arguments: tuple[Any, ...]) -> None:
        self.called, self.arguments, self.is_called = called, arguments, True
        self.state: Any = None
        self.items: list[Any] = _NOTHING
        self.pairs: list[tuple[Any, Any]] = _NOTHING

    @property
    def name(self) -> tuple[str, str]:
        """The module and the name of what would make it."""
        return self.called.name


def length(value: Any) -> int:
    """How many steps it takes to go over the parts of a container, or of a stub."""
    if type(value) is Stub:
        return len(value.arguments) + len(value.items) + len(value.pairs)
    return len(value) if isinstance(value, Sized) else 0


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


class Span:
    """Stands for bytes that were left in the file.

    Attributes:
        source: the file.
        start: where the first of them is.
    """

    __slots__ = ("_size", "source", "start")

    def __init__(self, source: Source, start: int, size: int) -> None:
        self.source, self.start, self._size = source, start, size

    def __len__(self) -> int:
        return self._size

    def pieces(self) -> Iterator[bytes]:
        """Reads them, some at a time.

        Raises:
            StorageError: they cannot be read.
        """
        for at in range(0, self._size, _PIECE_BYTES):
            yield self.source.read(self.start + at, min(_PIECE_BYTES, self._size - at))


class StubReader(Reader):
    """Makes a stub of each object.

    Attributes:
        names: what stands for each name that the pickle would import.
        storages: by their keys, as the pickle has each first.
    """

    def __init__(self, file: Any, budget: Budget) -> None:
        super().__init__(file, budget, encoding="utf-8", errors="surrogateescape")
        self.names = Globals()
        self.storages: dict[str, Storage] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Global:
        """What stands for a name."""
        name = module_name, global_name
        self.budget.charge(len(module_name) + len(global_name) + (0 if name in self.names else _GLOBAL))
        return self.names[name]

    def call(self, called: Any, arguments: tuple[Any, ...]) -> Stub:
        """What stands for what a call makes."""
        if type(called) is not Global:
            raise pickle.UnpicklingError("it would call what it made itself")
        # Whoever looks at the stub looks at each argument, though many stubs may have the same ones.
        self.budget.charge(_STUB + _PART * len(arguments))
        return Stub(called, arguments)

    def new(self, kind: Any, arguments: tuple[Any, ...]) -> Stub:
        """What stands for a new object."""
        made = self.call(kind, arguments)
        made.is_called = False
        return made

    def build(self, made: Any, state: Any) -> None:
        """Remembers an object's state."""
        if type(made) is not Stub:
            raise pickle.UnpicklingError(f"a state for a {type(made).__name__}")
        made.state = state

    def extend(self, target: Any, items: list[Any]) -> None:
        """Remembers what would be appended to an object."""
        if type(target) is not Stub:
            super().extend(target, items)
        if target.items is _NOTHING:
            target.items = []
        self.budget.charge(_PART * len(items) + _STUB)
        target.items.extend(items)

    def set_items(self, target: Any, pairs: Iterator[tuple[Any, Any]]) -> None:
        """Remembers the items of an object."""
        if type(target) is not Stub:
            super().set_items(target, pairs)
        if target.pairs is _NOTHING:
            target.pairs = []
        before = len(target.pairs)
        target.pairs.extend(pairs)
        self.budget.charge(_PAIR * (len(target.pairs) - before) + _STUB)

    def persistent_load(self, pid: Any) -> Any:
        """The storage that torch wrote a reference to."""
        # ("storage", type, key, location, size); see torch.serialization._save.
        if isinstance(pid, tuple) and len(pid) > 2 and isinstance(pid[2], str):  # noqa: PLR2004
            self.budget.charge(_STORAGE)
            made = Storage(pid)
            self.storages.setdefault(made.key, made)
            return made
        raise pickle.UnpicklingError("an unknown persistent id")


class StubWriter(pickle._Pickler):  # noqa: SLF001 - the one in C looks for each name in its module
    """Writes what `StubReader` read, with every name as it was."""

    # Of the class in pickle, which typeshed does not know.
    write: Callable[[bytes], None]
    save: Callable[[Any], None]
    memoize: Callable[[Any], None]
    _batch_appends: Callable[[Any], None]
    _batch_setitems: Callable[[Any], None]

    def persistent_id(self, obj: Any) -> Any:
        """What a reader finds a storage by."""
        return obj.pid if type(obj) is Storage else None

    def _save_global(self, one: Global) -> None:
        self.write(pickle.GLOBAL + "\n".join((*one.name, "")).encode())
        self.memoize(one)

    def _save_stub(self, stub: Stub) -> None:
        self.save(stub.called)
        self.save(stub.arguments)
        self.write(pickle.REDUCE if stub.is_called else pickle.NEWOBJ)
        self.memoize(stub)
        self._batch_appends(stub.items)
        self._batch_setitems(stub.pairs)
        if stub.state is not None:
            self.save(stub.state)
            self.write(pickle.BUILD)

    dispatch: ClassVar[dict[type, Any]] = {
        **pickle._Pickler.dispatch,  # noqa: SLF001
        Global: _save_global,
        Stub: _save_stub,
    }
