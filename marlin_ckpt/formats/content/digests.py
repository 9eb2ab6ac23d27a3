"""Digests of what a pickle holds: of the type and the complete value, whatever of it is shown.

A copy has the same digests, also one that another protocol or another version of NumPy wrote: nothing depends
on identities, on the memo, or on the order of sets and dicts. The elements of tensors are in no digest, but
compared on their own.
"""

import hashlib
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from marlin_ckpt.errors import UnsafeCheckpointError
from marlin_ckpt.formats.budget import Budget
from marlin_ckpt.formats.pickle.ndarrays import Array, array_of, number_of
from marlin_ckpt.formats.pickle.permissions import present_name, python_3_name
from marlin_ckpt.formats.pickle.plain import is_bare, latin_1_of, plain_of
from marlin_ckpt.formats.pickle.stubs import Global, Span, Storage, Stub
from marlin_ckpt.formats.pickle.views import view_of

_VISIT = 100  # of the budget
_PART = 16
_SHORT = 64  # bytes of a value whose digest is not remembered
_SETS = ("set", "frozenset")


class _Whole(NamedTuple):
    """What a container's digest is made of.

    Attributes:
        tag: its type, and what of it has no parts.
        ordered: parts whose order counts.
        unordered: those whose order does not.
        pairs: keys and values, one after the other; the order of the pairs does not count.
    """

    tag: bytes
    ordered: tuple[Any, ...] = ()
    unordered: tuple[Any, ...] = ()
    pairs: tuple[Any, ...] = ()

    def parts(self) -> Iterator[Any]:
        yield from self.ordered
        yield from self.unordered
        yield from self.pairs

    def digest(self, digests: list[bytes]) -> bytes:
        """Its digest, from those of its parts."""
        first, second = len(self.ordered), len(self.ordered) + len(self.unordered)
        pairs = [one + other for one, other in zip(digests[second::2], digests[second + 1 :: 2], strict=True)]
        unordered = b"".join(sorted(digests[first:second]))
        return _hash(self.tag, b"".join(digests[:first]), unordered, b"".join(sorted(pairs)))


def _hash(*parts: bytes) -> bytes:
    """A digest of several texts, with their lengths."""
    found = hashlib.sha256()
    for part in parts:
        found.update(struct.pack("<Q", len(part)))
        found.update(part)
    return found.digest()


def _hash_of_span(span: Span) -> bytes:
    """The digest that the bytes would have, had they been read with the rest."""
    found = hashlib.sha256()
    found.update(struct.pack("<Q", len(b"bytes")) + b"bytes" + struct.pack("<Q", len(span)))
    for piece in span.pieces():
        found.update(piece)
    return found.digest()


class Digests:
    """Makes the digests of what stands in one file.

    Args:
        budget: what making them may take.
        path: the file.
        with_tensors: whether there may be tensors in what is given; where they are not compared on their own,
            nobody could say that two files are the same.
    """

    def __init__(self, budget: Budget, path: str, *, with_tensors: bool = True) -> None:
        self._budget = budget
        self._path = path
        self._with_tensors = with_tensors
        # By identity, with what has it, so that nothing else gets the same one meanwhile.
        self._known: dict[int, tuple[Any, bytes]] = {}

    def of(self, value: Any) -> bytes:
        """The digest of a value.

        Raises:
            UnsafeCheckpointError: it would take too long, or tensors lie in it that are not compared.
        """
        last: list[bytes] = []
        frames: list[tuple[Any, _Whole, Iterator[Any], list[bytes]]] = [
            (self, _Whole(b""), iter((value,)), last)
        ]
        depths: dict[int, int] = {}
        while frames:
            own, whole, parts, digests = frames[-1]
            for part in parts:
                made = self._remembered(part, depths, len(frames)) or self._leaf(part)
                if isinstance(made, bytes):
                    digests.append(made)
                    continue
                self._budget.charge(
                    _VISIT + _PART * (len(made.ordered) + len(made.unordered) + len(made.pairs))
                )
                depths[id(part)] = len(frames)
                frames.append((part, made, made.parts(), []))
                break
            else:
                frames.pop()
                if frames:
                    del depths[id(own)]
                    made = whole.digest(digests)
                    self._known[id(own)] = own, made
                    frames[-1][3].append(made)
        return last[0]

    def _remembered(self, value: Any, depths: dict[int, int], depth: int) -> bytes | None:
        """The digest of what was met before, or in which this lies."""
        if id(value) in self._known:
            return self._known[id(value)][1]
        return _hash(b"above", str(depth - depths[id(value)]).encode()) if id(value) in depths else None

    def _leaf(self, value: Any) -> bytes | _Whole:
        """The digest of what has no parts; else what it is made of."""
        data = _bytes_of(value)
        if data is not None:
            self._budget.charge(_VISIT + len(data[1]))
            made = _hash(*data)
            if len(data[1]) > _SHORT:
                self._known[id(value)] = value, made
            return made
        if type(value) is Span:
            self._budget.charge(_VISIT + len(value))
            made = _hash_of_span(value)
            self._known[id(value)] = value, made
            return made
        if type(value) is Global:
            return _hash(b"global", present_name(value.name).encode("utf-8", "surrogatepass"))
        view, array = view_of(value), array_of(value)
        if type(value) is Storage or view is not None or (array is not None and _is_compared(array)):
            if not self._with_tensors:
                what = "refused: tensors lie in so many containers in each other that they are not compared"
                raise UnsafeCheckpointError(what, self._path)
            return _Whole(b"tensor", view.others) if view is not None else _hash(b"tensor")
        return _of_array(array) if array is not None else _of_container(value)


def is_set(value: Any) -> bool:
    """Whether a value is a set, whose parts have no order."""
    if type(value) is Stub:
        is_called = value.called.name[1] in _SETS and python_3_name(*value.called.name)[0] == "builtins"
        return is_called and is_bare(value) and all(type(one) is list for one in value.arguments)
    return isinstance(value, (set, frozenset))


def _bytes_of(value: Any) -> tuple[bytes, bytes] | None:
    """The type and the bytes of a plain value; None of what is none."""
    if type(value) is Stub:
        data = latin_1_of(value)
        if data is not None:
            value = data.encode("latin-1", "replace") if isinstance(data, str) else data
        else:
            value = plain_of(value)
    spell = _SPELLINGS.get(type(value))
    return None if spell is None else (type(value).__name__.encode(), spell(value))


_SPELLINGS: dict[type[Any], Callable[[Any], bytes]] = {
    type(None): lambda _: b"",
    bool: lambda value: b"\1" if value else b"",
    int: lambda value: value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True),
    float: lambda value: struct.pack("<d", value),
    complex: lambda value: struct.pack("<dd", value.real, value.imag),
    str: lambda value: value.encode("utf-8", "surrogatepass"),
    bytes: lambda value: value,
}


def _is_compared(array: Array) -> bool:
    """Whether an array is one of the file's tensors, whose values are compared."""
    return array.elements.is_number and not array.is_number


def _of_array(array: Array) -> _Whole:
    elements = array.elements
    tag = f"{elements.name} {elements.byteorder} {array.shape} {array.is_fortran} {array.is_number}"
    number = number_of(array) if array.is_number else None
    if number is not None:
        return _Whole(b"number", (elements.name, number))
    if isinstance(array.data, list):
        return _Whole(b"array", (tag, *array.data))
    data = array.data.encode("latin-1", "replace") if isinstance(array.data, str) else array.data
    return _Whole(b"array", (tag, array.described.arguments, array.described.state, data))


def _of_container(value: Any) -> _Whole:
    if is_set(value):
        if type(value) is Stub:
            return _Whole(value.name[1].encode(), unordered=tuple(itertools.chain(*value.arguments)))
        return _Whole(type(value).__name__.encode(), unordered=tuple(value))
    if isinstance(value, dict):
        return _Whole(b"mapping", pairs=_flat(value.items()))
    if not isinstance(value, Stub):
        return _Whole(type(value).__name__.encode(), tuple(value))
    state = value.state
    if value.name == ("collections", "OrderedDict") and not value.arguments and not value.items:
        # A state_dict carries its modules' versions, which other writers of the same state leave out.
        if isinstance(state, dict):
            state = {key: part for key, part in state.items() if key != "_metadata"} or None
        return _Whole(b"mapping", () if state is None else (state,), pairs=_flat(value.pairs))
    ordered = (value.called, value.arguments, state, value.items)
    return _Whole(b"object" if value.is_called else b"new", ordered, pairs=_flat(value.pairs))


def _flat(pairs: Any) -> tuple[Any, ...]:
    return tuple(part for pair in pairs for part in pair)
