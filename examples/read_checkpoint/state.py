"""The pickle in a checkpoint, read by a small machine that imports and calls nothing, and its tensors."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from container import BadCheckpointError

# By the types of storages: the dtype and the size of an element.
STORAGES = {
    "DoubleStorage": ("float64", 8), "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1), "ComplexDoubleStorage": ("complex128", 16),
    "ComplexFloatStorage": ("complex64", 8), "QInt32Storage": ("qint32", 4), "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1), "UntypedStorage": ("bytes", 1),
}  # fmt: skip
# Of the dtypes whose storages are untyped; those that are not here have one byte.
SIZES = {"uint64": 8, "uint32": 4, "uint16": 2, "complex32": 4, "bits16": 2}


class Name(NamedTuple):
    """A global, which is never imported; `arguments` is what it would be called with, None if it is not."""

    module: str
    name: str
    arguments: tuple[Any, ...] | None = None


class Storage(NamedTuple):
    """A storage: its elements are the data of the record `data/{key}`."""

    dtype: str
    item_bytes: int
    key: str
    numel: int


class Tensor(NamedTuple):
    """A tensor, which views a storage; offset and strides are in elements."""

    storage: Storage
    dtype: str
    item_bytes: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    quantizer: Any = None
    metadata: Any = None

    def gathered(self, data: bytes) -> bytes:
        """Its elements one after the other, the last index the fastest, out of the data of its storage."""
        if 0 in self.shape:
            return b""
        steps, item = list(zip(self.shape, self.strides, strict=True)), self.item_bytes
        last = self.offset + sum((length - 1) * stride for length, stride in steps)
        if min(self.offset, *self.strides, 0) < 0 or (last + 1) * item > len(data):
            raise BadCheckpointError("a tensor has elements beyond its storage")
        firsts = [self.offset]
        for length, stride in steps:
            firsts = [first + number * stride for first in firsts for number in range(length)]
        return b"".join(data[first * item : (first + 1) * item] for first in firsts)


class Machine:
    """Runs the opcodes of a pickle of protocol 2."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        push, number = self.stack.append, self.number
        self.opcodes: dict[bytes, Callable[[], Any]] = {
            b"\x80": lambda: self.take(1),
            b"(": lambda: self.marks.append(len(self.stack)),
            b"q": lambda: self.memo.update({number(1): self.stack[-1]}),
            b"r": lambda: self.memo.update({number(4): self.stack[-1]}),
            b"h": lambda: push(self.memo[number(1)]),
            b"j": lambda: push(self.memo[number(4)]),
            b"N": lambda: push(None),
            b"\x88": lambda: push(True),  # noqa: FBT003 - a value
            b"\x89": lambda: push(False),  # noqa: FBT003
            b"K": lambda: push(number(1)),
            b"M": lambda: push(number(2)),
            b"J": lambda: push(number(4, signed=True)),
            b"\x8a": lambda: push(number(number(1), signed=True)),
            b"\x8b": lambda: push(number(number(4), signed=True)),
            b"G": lambda: push(struct.unpack(">d", self.take(8))[0]),
            b"X": lambda: push(self.take(number(4)).decode("utf-8", "surrogatepass")),
            b")": lambda: push(()),
            b"\x85": lambda: push(tuple(self.popped(1))),
            b"\x86": lambda: push(tuple(self.popped(2))),
            b"\x87": lambda: push(tuple(self.popped(3))),
            b"t": lambda: push(tuple(self.marked())),
            b"]": lambda: push([]),
            b"a": lambda: self.append(self.popped(1)),
            b"e": lambda: self.append(self.marked()),
            b"}": lambda: push({}),
            b"s": lambda: self.set_items(self.popped(2)),
            b"u": lambda: self.set_items(self.marked()),
            b"c": lambda: push(Name(self.line(), self.line())),
            b"R": lambda: push(made(*self.popped(2))),
            b"\x81": lambda: push(made(*self.popped(2))),
            b"b": lambda: self.popped(1),
            b"Q": lambda: push(storage(*self.popped(1))),
            b"0": lambda: self.popped(1),
            b"1": self.marked,
        }

    def run(self) -> Any:
        """The state."""
        try:
            while (opcode := self.take(1)) != b".":
                self.opcodes[opcode]()
            return self.stack.pop()
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise BadCheckpointError(f"the pickle cannot be read: {error!r}") from error

    def take(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise BadCheckpointError("the pickle ends too early")
        return self.data[self.at - size : self.at]

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> str:
        return self.take(self.data.index(b"\n", self.at) + 1 - self.at)[:-1].decode()

    def popped(self, count: int) -> list[Any]:
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def marked(self) -> list[Any]:
        return self.popped(len(self.stack) - self.marks.pop())

    def append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(zip(items[::2], items[1::2], strict=True))


def storage(pid: tuple[Any, ...]) -> Storage:
    """The storage that a persistent id names."""
    _, kind, key, _, numel = pid
    return Storage(*STORAGES[kind.name], key, numel)


def made(called: Name, arguments: tuple[Any, ...]) -> Any:  # noqa: C901, PLR0911 - a case for each global
    """A plain value for what a global makes of its arguments."""
    match called.name, arguments:
        case "OrderedDict", ():
            return {}
        case "_rebuild_tensor_v2", (of, offset, shape, strides, _, _, *metadata):
            return Tensor(of, of.dtype, of.item_bytes, offset, shape, strides, None, *metadata)
        case "_rebuild_tensor_v3", (of, offset, shape, strides, _, _, dtype, *metadata):
            item_bytes = SIZES.get(dtype.name, 1)
            return Tensor(of, dtype.name, item_bytes, offset, shape, strides, None, *metadata)
        case "_rebuild_qtensor", (of, offset, shape, strides, quantizer, *_):
            return Tensor(of, of.dtype, of.item_bytes, offset, shape, strides, quantizer)
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", (tensor, *_):
            return tensor
        case "Size", (sizes,):
            return sizes
        case "encode", (text, "latin1"):
            return text.encode("latin1")
        case "bytes", ():
            return b""
        case "set" | "frozenset", (items,):
            return frozenset(items)
        case "complex", (real, imaginary):
            return complex(real, imaginary)
    return called._replace(arguments=arguments)


def tensors_in(
    state: Any, name: str = "", seen: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a state, by their names: `module_interface_state.weight`."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, (dict, list, tuple)) and id(state) not in seen:
        pairs = state.items() if isinstance(state, dict) else ((f"[{n}]", one) for n, one in enumerate(state))
        for key, value in pairs:
            dot = "." if name and str(key)[:1] != "[" else ""
            yield from tensors_in(value, f"{name}{dot}{key}", seen | {id(state)})
