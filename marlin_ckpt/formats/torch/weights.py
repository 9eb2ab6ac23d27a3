"""Reads the tensors of a safetensors file, into new memory or straight into that of live ones.

The library's own reader maps the file into memory: where that is truncated or replaced under a tensor, the
process is killed or the tensor changes. Here each byte is read once, on several threads, and the memory is
the tensor's own.
"""

from collections.abc import Iterator

import torch

from marlin_ckpt.errors import CorruptCheckpointError, UnloadableStateError
from marlin_ckpt.formats.safetensors.header import read_header
from marlin_ckpt.formats.torch.placement import FindPairs, MapLocation, Storages
from marlin_ckpt.formats.values.tensor import TensorInfo
from marlin_ckpt.storage.source import Source
from marlin_ckpt.storage.threads import in_order

_TASK_BYTES = 16 << 20  # that a thread takes at once

_Span = tuple[int, memoryview]  # where in the file the bytes start, and where they go


def read_weights(
    source: Source, pairs: FindPairs, map_location: MapLocation = "cpu"
) -> dict[str, torch.Tensor]:
    """Reads all tensors.

    Args:
        source: the file.
        pairs: as for `reader.read_file`. It is given the names, too, that `safetensors.torch.save_model` and
            our `export` left out of the file, since they are of tensors that have another name there.
        map_location: where the tensors go, as for `torch.load`; only to the CPU they are read straight into
            the memory of live ones.

    Raises:
        CorruptCheckpointError: the header does not hold, or the file is too short.
        UnloadableStateError: this torch has no such dtype.
        StorageError: the file cannot be read.
        MarlinError: what `pairs` raised.
        Exception: what torch raises that cannot place a tensor.
    """
    header = read_header(source)
    state = {one.name: torch.empty(one.shape, dtype=_dtype(one, source)) for one in header.tensors}

    def named() -> dict[str, torch.Tensor]:
        return {**{name: state[kept] for name, kept in header.metadata.items() if kept in state}, **state}

    storages = Storages(source.path)
    for name, tensor in state.items():
        storages.add(name, tensor)
    is_to_cpu = map_location == "cpu"
    places = storages.places(pairs(named(), None) if is_to_cpu else ())
    spans = ((one.start, places[one.name]) for one in header.tensors if one.name in places)
    for _ in in_order(lambda span: _fill(source, span), _pieces(spans)):
        pass
    if not is_to_cpu:
        state = {name: _placed(tensor, map_location) for name, tensor in state.items()}
        pairs(named(), None)
    return state


def _placed(tensor: torch.Tensor, map_location: MapLocation) -> torch.Tensor:
    """A tensor where `torch.load` would put one that was saved on the CPU."""
    if map_location is None:
        return tensor
    if isinstance(map_location, (str, torch.device)):
        return tensor.to(map_location)
    if isinstance(map_location, dict):
        return tensor.to(map_location.get("cpu", "cpu"))
    storage = map_location(tensor.untyped_storage(), "cpu")
    if storage is None:
        return tensor
    empty = torch.empty(0, dtype=tensor.dtype, device=storage.device)
    return empty.set_(storage, 0, tensor.size(), tensor.stride())


def _dtype(tensor: TensorInfo, source: Source) -> torch.dtype:
    found = getattr(torch, tensor.dtype, None)
    if not isinstance(found, torch.dtype):
        what = f"tensor {tensor.name} is {tensor.dtype}, which torch {torch.__version__} does not have"
        raise UnloadableStateError(what, source.path, "a newer torch may have it")
    return found


def _pieces(spans: Iterator[_Span]) -> Iterator[_Span]:
    for start, place in spans:
        for at in range(0, len(place), _TASK_BYTES):
            yield start + at, place[at : at + _TASK_BYTES]


def _fill(source: Source, span: _Span) -> None:
    if source.read_into(*span) < len(span[1]):
        raise CorruptCheckpointError("truncated while it was read", source.path)
