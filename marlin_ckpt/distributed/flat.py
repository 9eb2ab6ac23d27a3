"""What of a live state is stored under which flat name in a sharded checkpoint; see `shards.nesting`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.storage import UntypedStorage

from marlin_ckpt.errors import UnsavableStateError
from marlin_ckpt.formats.shards.nesting import KINDS, OWN, Flattening, Kinds, Path, merged, unflatten
from marlin_ckpt.formats.torch.memory import is_freed
from marlin_ckpt.formats.torch.unpicklable import FREED, FREED_HINT, PARTS

__all__ = [
    "KINDS", "OWN", "Flat", "Kinds", "Path", "beyond", "flatten", "local_of", "merged", "unflatten"
]  # fmt: skip


_KNOWN = (torch.Tensor, torch.nn.Parameter)


@dataclass(frozen=True, slots=True)
class Flat:
    """A state by flat names.

    Attributes:
        tensors: the strided tensors, DTensors among them.
        values: all else that is stored, each pickled as a whole.
        paths: what leads to each: keys of mappings as strings, places in sequences as integers.
        ties: names whose tensor is that of an earlier name, in the same memory.
        kinds: of containers, by their paths, what the paths do not say: `like` (one of its kind, empty),
            `keys` that are no strings (`int`: all of them), and the `order` of all where one has nothing in
            it.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    kinds: Kinds = field(default_factory=dict)


def flatten(state: Mapping[Any, Any]) -> Flat:
    """Gives each part of a state its flat name.

    Mappings are walked down to what is none; lists and tuples where a tensor or a mapping is in them, and of
    tuples only a tensor counts; all else is a value. Two parts of one name get different ones, by `~2`.

    Args:
        state: a dict, or of a class derived from it.

    Raises:
        UnsavableStateError: it is no dict, or is nested too deeply; a DTensor is in an object of a class that
            is not walked; the memory of a tensor has been freed.
    """
    if not isinstance(state, dict):
        hint = "put it into a dict: {'model': ...}"
        raise UnsavableStateError(f"a {type(state).__name__} has no names to shard it by", "", hint)
    found = _Flattening()
    try:
        found.walk((), state)
    except RecursionError as error:
        raise UnsavableStateError("the state is nested too deeply to be saved") from error
    _check_memory(found.tensors)
    return Flat(found.tensors, found.values, found.paths, _ties(found.tensors), found.kinds)


class _Flattening(Flattening):
    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor)

    def is_plain(self, tensor: Any) -> bool:
        # Sparse, quantized and nested ones are values, and those of classes that may have more in them. What
        # is asked of a DTensor goes a long way.
        local = local_of(tensor)
        is_known = type(local) in _KNOWN or isinstance(tensor, DTensor)
        return is_known and local.layout is torch.strided and not local.is_quantized and not local.is_nested

    def check_value(self, path: Path, value: Any) -> None:
        kind, name = type(value).__name__, ".".join(map(str, path))
        if _has_dtensor(value):
            raise UnsavableStateError(f"the {kind} at {name} holds a DTensor", "", PARTS["DTensor"])
        if kind in PARTS:
            raise UnsavableStateError(f"this process has only a part of the {kind} {name}", "", PARTS[kind])


def _check_memory(tensors: Mapping[str, torch.Tensor]) -> None:
    storages = map(torch.Tensor.untyped_storage, map(local_of, tensors.values()))
    with contextlib.suppress(RuntimeError):  # one without memory of its own
        if all(map(UntypedStorage.nbytes, storages)):
            return
    for name, tensor in tensors.items():
        if is_freed(local_of(tensor)):
            raise UnsavableStateError(f"{name}: {FREED}", "", FREED_HINT)


def _ties(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The names of tensors that an earlier name has, too."""
    memory: dict[int, list[str]] = {}
    ties = {}
    for name, tensor in tensors.items():
        # 0 is that of tensors without elements, and of those that are on no device.
        if address := local_of(tensor).data_ptr():
            there = memory.setdefault(address, [])
            first = next((one for one in there if _place(tensors[one]) == _place(tensor)), None)
            if first is None:
                there.append(name)
            else:
                ties[name] = first
    return ties


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    local = local_of(tensor)
    whole = () if local is tensor else (*tensor.shape, *tensor.placements)  # type: ignore[attr-defined]
    return (local.dtype, local.device, local.shape, local.stride(), whole)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this rank has; a tensor that is no DTensor itself."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor  # noqa: SLF001 - without autograd


def _has_dtensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_dtensor, value.values()))
    return isinstance(value, DTensor) or (
        isinstance(value, (list, tuple, set, frozenset)) and any(map(_has_dtensor, value))
    )


def beyond(kinds: Kinds, common: Kinds) -> Kinds:
    """What some kinds say that others do not."""
    return dict(_beyond(kinds, common))


def _beyond(kinds: Kinds, common: Kinds) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, kind in kinds.items():
        known = common.get(path)
        if (
            known is None
            or known.keys() != kind.keys()
            or any(kind[key] != known[key] for key in kind if key != "like")
        ):
            yield path, kind
