"""Turns a state into a pickle and the storages of its tensors."""

import copyreg
import errno
import io
import pickle
import pickletools
from collections import OrderedDict
from dataclasses import dataclass
from types import FunctionType, NoneType
from typing import Any, NamedTuple

import torch
from torch._utils import _rebuild_tensor_v2
from torch.serialization import location_tag, normalize_storage_type
from torch.storage import TypedStorage, UntypedStorage

from marlin_ckpt.errors import StorageError, UnsavableStateError
from marlin_ckpt.formats.torch.memory import is_freed
from marlin_ckpt.formats.torch.unpicklable import FREED, FREED_HINT, PARTS, place_of
from marlin_ckpt.formats.values.dtypes import DTYPES

PROTOCOL = 2  # torch.serialization.DEFAULT_PROTOCOL; weights_only reads no later one
# What every state of modules and optimizers holds and imports; of anything else torch is asked whether it
# would load it, at the price of a scan.
_FAMILIAR_TYPES = frozenset(
    {dict, OrderedDict, list, str, bytes, float, bool, NoneType, torch.Tensor, torch.nn.Parameter}
)
HAS_NAMES = hasattr(torch.Tensor, "names")  # until torch 2.12
# The opcode LONG1 holds 255 bytes with the sign; weights_only does not know LONG4.
_HUGE = 1 << (255 * 8 - 1)
# The dtypes whose storages have a type of their own, by which they are pickled; torch.storage.
STORAGE_TYPES: dict[torch.dtype, Any] = {
    getattr(torch, name): getattr(torch, one.storage)
    for name, one in DTYPES.items()
    if one.storage and not one.is_quantized
}
_FAMILIAR_NAMES = frozenset({
    ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
})  # fmt: skip


class Encoded(NamedTuple):
    """A state, pickled.

    Attributes:
        pickle: the record `data.pkl`.
        storages: the storages of its tensors by record key, each once, in the order met.
        sizes: their lengths in bytes when it was pickled; they may be resized before they are written.
        is_familiar: whether it holds and imports only what every state does.
        unreadable: what it holds that `weights_only` does not read, in words.
        kinds: the types of the devices that the storages are on.
    """

    pickle: bytes
    storages: dict[str, UntypedStorage]
    sizes: dict[str, int]
    is_familiar: bool
    unreadable: frozenset[str]
    kinds: frozenset[str]

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return len(self.pickle) + sum(self.sizes.values())


@dataclass(slots=True)
class _StorageOf:
    """The storage of a plain tensor on the CPU: to make a TypedStorage of it would be slow."""

    storage: UntypedStorage
    dtype: torch.dtype


def reduce_dict(value: OrderedDict[Any, Any]) -> Any:
    """What its `__reduce__` returns, without a search for slots: the slowest part of a small tensor."""
    return OrderedDict, (), vars(value) or None, None, iter(value.items())


class _TensorReducer:
    """Says how each tensor of one state is pickled.

    Attributes:
        shape_ids: the identities of the tuples that it has made, which hold nothing but integers.
    """

    def __init__(self) -> None:
        self.shape_ids: set[int] = set()
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}

    def reduce(self, tensor: torch.Tensor) -> Any:
        """What `torch.Tensor.__reduce_ex__` returns, five times as fast where the tensor is a plain one."""
        if (
            tensor.dtype not in STORAGE_TYPES
            or tensor.layout is not torch.strided
            or not tensor.is_cpu
            or tensor.is_nested
            or tensor.is_conj()
            or tensor.is_neg()
            or (HAS_NAMES and any(tensor.names))  # type: ignore[attr-defined]
            or tensor._backward_hooks  # noqa: SLF001 - as torch asks
            or vars(tensor)
        ):
            if is_freed(tensor):
                raise UnsavableStateError(FREED, "", FREED_HINT)
            return tensor.__reduce_ex__(PROTOCOL)  # type: ignore[no-untyped-call]
        storage = tensor.untyped_storage()
        if not storage.nbytes() and tensor.numel():
            raise UnsavableStateError(FREED, "", FREED_HINT)
        return _rebuild_tensor_v2, (
            _StorageOf(storage, tensor.dtype), tensor.storage_offset(),
            self._shared(tensor.shape), self._shared(tensor.stride()), tensor.requires_grad, OrderedDict(),
        )  # fmt: skip

    def _shared(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The one tuple for all that are equal: of one that is met again only a reference is pickled."""
        one = self._shapes.get(shape)
        if one is None:
            one = self._shapes[shape] = tuple(shape)
            self.shape_ids.add(id(one))
        return one


class _Pickler(pickle.Pickler):
    """Pickles as `torch.save` does: storages by reference, so that views keep sharing theirs.

    Types are asked, never attributes, since a `unittest.mock` object answers to all of them.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=PROTOCOL)
        tensors = _TensorReducer()
        # A dict, in which the pickler looks without a call. A method of its own in there would make a cycle,
        # which keeps the whole state in memory until the cyclic collector runs.
        self.dispatch_table = {
            **copyreg.dispatch_table, torch.Tensor: tensors.reduce, OrderedDict: reduce_dict
        }  # fmt: skip
        self.storages: dict[str, UntypedStorage] = {}
        self.is_familiar = True
        self.unreadable: set[str] = set()
        self._tuples: set[int] = set()
        self.has_shared_tuples = False  # of what may hold them
        self._flat = tensors.shape_ids
        self._familiar: dict[int, Any] = {}
        self._keys: dict[Any, str] = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:  # noqa: C901, PLR0911 - a case for each kind
        # Called for every object: nearly all are of the first two kinds.
        kind = type(obj)
        if kind in _FAMILIAR_TYPES:
            return None
        if kind is int:
            if not -_HUGE <= obj < _HUGE:
                self.unreadable.add("an integer of more than 255 bytes")
            return None
        if kind is tuple:
            # One that is met again may hold itself.
            if id(obj) in self._tuples and id(obj) not in self._flat:
                self.has_shared_tuples |= any(issubclass(type(part), (dict, list, tuple)) for part in obj)
            self._tuples.add(id(obj))
            return None
        if kind is _StorageOf:
            numel = obj.storage.nbytes() // obj.dtype.itemsize
            return self._storage_id(obj.storage, obj.dtype, STORAGE_TYPES[obj.dtype], numel, "cpu")
        if id(obj) in self._familiar:
            return None
        if issubclass(kind, TypedStorage):
            storage = obj._untyped_storage  # noqa: SLF001 - as torch.save
            storage_type: Any = getattr(torch, obj._pickle_storage_type())  # noqa: SLF001
            return self._storage_id(storage, obj.dtype, storage_type, obj._size(), location_tag(storage))  # noqa: SLF001
        if issubclass(kind, UntypedStorage):
            storage_type = normalize_storage_type(kind)  # type: ignore[no-untyped-call]
            return self._storage_id(obj, torch.uint8, storage_type, obj.nbytes(), location_tag(obj))
        if issubclass(kind, torch.Tensor) and (hint := PARTS.get(kind.__name__)):
            raise UnsavableStateError(f"this process has only a part of the {kind.__name__}", "", hint)
        if _is_familiar_name(obj):
            self._familiar[id(obj)] = obj
        else:
            self.is_familiar = False
        return None

    def _storage_id(
        self, storage: UntypedStorage, dtype: torch.dtype, storage_type: Any, numel: int, location: str
    ) -> tuple[Any, ...]:
        if location == "meta" and storage.nbytes():
            raise UnsavableStateError("a storage on the meta device has no bytes to save")
        if location != "meta":
            storage.data_ptr()  # raises where there is no memory, as for a tensor of torch's FakeTensorMode
        key = self._keys.setdefault(storage._cdata, str(len(self._keys)))  # noqa: SLF001
        known = self._dtypes.setdefault(key, dtype)
        if known != dtype:
            if storage.nbytes():
                views = f"two tensors view the same memory as {known} and as {dtype}"
                raise UnsavableStateError(f"{views}; no torch file can hold that")
            # No bytes can be of several dtypes, but torch.load(mmap=True) makes one storage of one record.
            key = self._keys.setdefault((storage._cdata, dtype), str(len(self._keys)))  # noqa: SLF001
        self.storages[key] = storage
        return ("storage", storage_type, key, location, numel)


def _is_familiar_name(obj: Any) -> bool:
    kind = type(obj)
    if issubclass(kind, type) and issubclass(obj, (UntypedStorage, TypedStorage)):
        return True
    return issubclass(kind, (type, FunctionType)) and (obj.__module__, obj.__qualname__) in _FAMILIAR_NAMES


def _fails(part: Any) -> bool:
    try:
        _Pickler(io.BytesIO()).dump(part)
    except Exception:  # noqa: BLE001 - as in `encode`
        return True
    return False


def encode(state: Any) -> Encoded:
    """Pickles a state.

    Raises:
        UnsavableStateError: something in it cannot be pickled.
        StorageError: there is not enough memory.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(state)
    except RecursionError as error:
        raise UnsavableStateError("the state is nested too deeply to be pickled") from error
    except MemoryError as error:
        raise StorageError("not enough memory to pickle the state", "", errno=errno.ENOMEM) from error
    except Warning:  # that a filter makes an error: it says nothing of the state
        raise
    except Exception as error:  # whatever a __reduce__ of the user's raises
        what = error.what if isinstance(error, UnsavableStateError) else f"it cannot be pickled: {error}"
        place = place_of(state, _fails)
        hint = "a state is made of tensors, numbers, strings and containers of these: leave out what is not"
        if isinstance(error, UnsavableStateError):
            hint = error.hint or hint
        raise UnsavableStateError(f"the state{place and ' at '}{place}: {what}", "", hint) from error
    # Of a tuple that holds itself a pickler pops the first version, by opcodes that torch does not know.
    if pickler.has_shared_tuples and any(
        opcode.name in ("POP", "POP_MARK") for opcode, *_ in pickletools.genops(file.getvalue())
    ):
        pickler.unreadable.add("a tuple that holds itself")
    storages, unreadable = pickler.storages, frozenset(pickler.unreadable)
    sizes = {key: storage.nbytes() for key, storage in storages.items()}
    kinds = frozenset(storage.device.type for storage in storages.values())
    return Encoded(file.getvalue(), storages, sizes, pickler.is_familiar, unreadable, kinds)
