"""Where the bytes of a state's tensors go: into new memory, or into that of live tensors."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.graph import increment_version
from torch.storage import TypedStorage, UntypedStorage

from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch.memory import memory
from marlin_ckpt.formats.zip.structures import Record

# Beside the order in which all tensors may be.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

Pair = tuple[torch.Tensor, torch.Tensor]
# What `torch.load` takes to place the storages of tensors.
MapLocation = str | torch.device | dict[str, str] | Callable[[Any, str], Any] | None
FindPairs = Callable[[Any, Manifest | None], Iterable[Pair]]


@dataclass(slots=True)
class _Loaded:
    """A storage that a pickle refers to.

    Attributes:
        record: the name of the record that holds its bytes.
        size_bytes: their number.
        storage: made for it.
        dtype: that the pickle gives it.
        references: how many tensors were built on it.
        pairs: tensors that were, each with a live one.
        typed: the storage with its dtype, where it was asked for.
    """

    record: str
    size_bytes: int
    storage: UntypedStorage
    dtype: torch.dtype
    references: int = 0
    pairs: list[Pair] = field(default_factory=list)
    typed: TypedStorage | None = None

    @property
    def target(self) -> int:
        """The address of the live tensor's memory."""
        return self.pairs[0][1].data_ptr()

    def can_move(self) -> bool:
        """Whether all that is built on it is paired with one live stretch of memory that its bytes fill."""
        return (
            len({id(loaded) for loaded, _ in self.pairs}) == self.references
            and len({live.data_ptr() for _, live in self.pairs}) == 1
            and all(_agree(loaded, live, self.size_bytes) for loaded, live in self.pairs)
        )


class Storages:
    """The storages of one file's tensors: their memory, and the records that fill it."""

    def __init__(self, path: str, records: Mapping[str, Record] | None = None) -> None:
        """Takes the file's path, and of a zip the records by their labels."""
        self._path = path
        self._records = records or {}
        self._loaded: dict[str, _Loaded] = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Adds a tensor that shares its storage with none, which may have no memory yet, by a name."""
        self._loaded[name] = _Loaded(
            name, tensor.nbytes, tensor.untyped_storage(), tensor.dtype, references=1
        )

    def load(self, pid: Any) -> TypedStorage:
        """What a persistent id stands for; see `torch.serialization._save` and `_load`."""
        name, record, dtype = self._found(pid)
        one = self._loaded.get(name)
        if one is None:
            storage = UntypedStorage(record.size, device="cpu")  # type: ignore[no-untyped-call]
            one = self._loaded[name] = _Loaded(record.name, record.size, storage, dtype)
        if one.typed is None:
            one.typed = TypedStorage(wrap_storage=one.storage, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]
        one.references += 1
        return one.typed

    def whole(self, pid: Any, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        """A tensor that has all of the storage that a persistent id stands for.

        Made with its storage it takes half of the time.
        """
        name, record, dtype = self._found(pid)
        one = self._loaded.get(name)
        if one is not None:
            one.references += 1
            return torch.empty(0, dtype=dtype, device="cpu").set_(one.storage, 0, size, stride)
        made = torch.empty_strided(size, stride, dtype=dtype, device="cpu")
        self._loaded[name] = _Loaded(record.name, record.size, made.untyped_storage(), dtype, references=1)
        return made

    def _found(self, pid: Any) -> tuple[str, Record, torch.dtype]:
        """The name that a storage is known by, its record, and its dtype."""
        _, kind, key, _, numel = pid
        dtype = torch.uint8 if kind is UntypedStorage else kind.dtype
        size_bytes = numel * dtype.itemsize
        record = self._records.get(f"data/{key}")
        if record is None or record.size != size_bytes:
            found = "is missing" if record is None else f"holds {record.size} bytes"
            raise CorruptCheckpointError(
                f"record data/{key} {found}, a tensor needs {size_bytes}", self._path
            )
        # Tensors may share a storage of no bytes as two dtypes; torch shares none when it loads.
        name = key if size_bytes else f"{key} as {dtype}"
        known = self._loaded.get(name)
        if known is not None and known.dtype != dtype:
            raise CorruptCheckpointError(f"record data/{key} is of two dtypes", self._path)
        return name, record, dtype

    def places(self, pairs: Iterable[Pair]) -> dict[str, memoryview]:
        """Moves tensors of the state onto the memory of live ones, where that is safe.

        Args:
            pairs: tensors of the state, each with a live one.

        Returns:
            where each record is to be read to, by its name.
        """
        targets = {id(one): one.target for one in self._moved(pairs)}
        return {
            one.record: memory(targets.get(id(one)) or one.storage.data_ptr(), one.size_bytes)
            for one in self._loaded.values()
            if one.size_bytes
        }

    def move(self, pairs: Iterable[Pair]) -> None:
        """As `places`, where the bytes are not read by records, and storages may be on any device."""
        self._moved(pairs)

    def _moved(self, pairs: Iterable[Pair]) -> list[_Loaded]:
        filled = [one for one in self._loaded.values() if one.size_bytes]
        owners = {one.storage._cdata: one for one in filled}  # noqa: SLF001 - it may have no memory yet
        for pair in pairs:
            if (owner := owners.get(pair[0].untyped_storage()._cdata)) is not None:  # noqa: SLF001
                owner.pairs.append(pair)
        moved = _without_overlaps([one for one in filled if one.can_move()])
        for one in moved:
            for loaded, live in one.pairs:
                loaded.data = live  # from now on it shares that memory
        increment_version([live for one in moved for _, live in one.pairs])  # autograd is told
        return moved


def _agree(loaded: torch.Tensor, live: torch.Tensor, size_bytes: int) -> bool:
    """Whether the bytes of the one are those of the other, in the same order and without gaps."""
    return (
        type(live) in (torch.Tensor, torch.nn.Parameter)
        and live.device == loaded.device
        and not live.is_inference()
        and live.layout is torch.strided
        and not live.is_nested
        and live.dtype is loaded.dtype
        and live.shape == loaded.shape
        and loaded.nbytes == size_bytes
        and not (live.is_conj() or live.is_neg() or loaded.is_conj() or loaded.is_neg())
        and (_are_contiguous(loaded, live) or _are_channels_last(loaded, live))
    )


def _are_contiguous(loaded: torch.Tensor, live: torch.Tensor) -> bool:
    return loaded.is_contiguous() and live.is_contiguous()


def _are_channels_last(loaded: torch.Tensor, live: torch.Tensor) -> bool:
    order = _CHANNELS_LAST.get(loaded.dim())
    return order is not None and all(one.is_contiguous(memory_format=order) for one in (loaded, live))


def _without_overlaps(candidates: list[_Loaded]) -> list[_Loaded]:
    """Drops storages whose target memory overlaps: tensors tied in the live object but not in the file."""
    spans = sorted(candidates, key=lambda one: one.target)
    are_apart = [one.target + one.size_bytes <= after.target for one, after in itertools.pairwise(spans)]
    sides = zip(spans, [True, *are_apart], [*are_apart, True], strict=False)  # of no span there is no side
    return [one for one, before, after in sides if before and after]
