"""The values of pickles, read into stubs, to be taken apart and put together again in others."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.budget import LARGEST_PICKLE, Budget
from marlin_ckpt.formats.pickle.stubs import Storage, Stub, StubReader, StubWriter
from marlin_ckpt.formats.zip.container import Container
from marlin_ckpt.formats.zip.reader import read_saved
from marlin_ckpt.formats.zip.records import read_record
from marlin_ckpt.storage.source import Source

_PROTOCOL = 2  # that of torch.save
_MAPPINGS = {("collections", "OrderedDict"), ("collections", "defaultdict")}
_STEP = 100  # of the budget, for each part of a container


class OddDict(dict[Any, Any]):
    """A dict of another class, which a stub stands for.

    Attributes:
        stub: of the object; it has no pairs.
    """

    stub: Stub


def opened(value: Any, budget: Budget) -> Any:
    """A copy of a value in which stubs of dicts are dicts; what is shared stays shared.

    Args:
        value: as `StubReader` made it.
        budget: what this may take.
    """
    return _Opening(budget).copy(value)


class _Opening:
    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._done: dict[int, Any] = {}

    def copy(self, value: Any) -> Any:
        kind = type(value)
        if kind not in (dict, list, tuple, Stub):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        self._budget.charge(_STEP * (1 + len(value) if kind is not Stub else 1 + len(value.pairs)))
        made: Any
        if kind is list:
            made = self._done[id(value)] = []
            made.extend(map(self.copy, value))
        elif kind is tuple:
            made = self._done[id(value)] = tuple(map(self.copy, value))
        elif kind is dict:
            made = self._done[id(value)] = {}
            made.update((key, self.copy(one)) for key, one in value.items())
        elif value.name in _MAPPINGS:
            made = self._done[id(value)] = OddDict()
            made.stub = Stub(value.called, value.arguments)
            made.stub.state, made.stub.is_called = value.state, value.is_called
            made.update((key, self.copy(one)) for key, one in value.pairs)
        else:
            made = value
        return made


class Writer(StubWriter):
    """Writes values that were read into stubs, `OddDict` among them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, _PROTOCOL)
        self._alive: list[Stub] = []  # what is memoized by its identity

    def _save_odd(self, value: OddDict) -> None:
        stub = Stub(value.stub.called, value.stub.arguments)
        stub.state, stub.is_called = value.stub.state, value.stub.is_called
        stub.pairs = list(value.items())
        self._alive.append(stub)
        self._save_stub(stub)
        self.memo[id(value)] = self.memo[id(stub)][0], value  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[type, Any]] = {**StubWriter.dispatch, OddDict: _save_odd}


def pickled(value: Any) -> bytes:
    """The pickle of a value.

    Raises:
        UnsavableStateError: it is nested too deeply, or holds what is no text that UTF-8 can hold.
    """
    file = io.BytesIO()
    try:
        Writer(file).dump(value)
    except RecursionError as error:
        raise UnsavableStateError("the state is nested too deeply to be saved") from error
    except UnicodeEncodeError as error:
        raise UnsavableStateError("a name in the state is no text that UTF-8 can hold") from error
    return file.getvalue()


def storages_in(value: Any, budget: Budget) -> Iterator[Storage]:
    """The storages in a value that was read into stubs, each object once."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        one = pending.pop()
        if type(one) is Storage:
            yield one
        if not isinstance(one, (dict, list, tuple, Stub)) or id(one) in seen:
            continue
        seen.add(id(one))
        parts = _parts(one)
        budget.charge(_STEP * (1 + len(parts)))
        pending.extend(reversed(parts))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Stub):
        pairs = itertools.chain.from_iterable(value.pairs)
        return [*value.arguments, value.state, *value.items, *pairs]
    if isinstance(value, dict):
        return [*value.values(), *([value.stub] if isinstance(value, OddDict) else [])]
    return list(value)


class ValueReader(StubReader):
    """Reads the pickle of a value, whose storages get keys of another file.

    Args:
        data: the pickle.
        numbers: of the records in that file.

    Attributes:
        renamed: the keys there, by those here.
        budget: what is left for taking it apart.
    """

    def __init__(self, data: bytes, numbers: Iterator[int], path: str) -> None:
        file = io.BytesIO(data)
        super().__init__(file, Budget(file.tell, path))
        self._numbers = numbers
        self.renamed: dict[str, str] = {}

    def persistent_load(self, pid: Any) -> Any:
        """The storage that torch wrote a reference to, under its new key."""
        made = super().persistent_load(pid)
        if made.key not in self.renamed:
            self.renamed[made.key] = str(next(self._numbers))
        made.key = self.renamed[made.key]
        made.pid = (*made.pid[:2], made.key, *made.pid[3:])
        return made


def read_value(source: Source, numbers: Iterator[int]) -> tuple[Any, dict[str, str], Container]:
    """Reads the value in a file of `torch.save`.

    Args:
        source: the file, or a part of one.
        numbers: as for `ValueReader`.

    Returns:
        the value, the new keys of its storages, by those that they have there, and the structure of the file.

    Raises:
        BadFileError: it is damaged, or reading it would take too much.
        StorageError: it cannot be read.
    """
    container = read_saved(source)
    record = container.by_label["data.pkl"]
    reader = ValueReader(b"", numbers, source.path)
    if record.size > LARGEST_PICKLE:
        reader.budget.refuse(f"its pickle has {record.size:,} bytes")
    reader = ValueReader(read_record(source, container, record), numbers, source.path)
    return reader.load(), reader.renamed, container
