"""Makes a state whose tensors are not read yet, each tensor after the live one that it is for."""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer

from marlin_ckpt.distributed.flat import local_of
from marlin_ckpt.distributed.reads.boxes import Box
from marlin_ckpt.distributed.reads.tensors import Wanted
from marlin_ckpt.formats.torch.placement import Pair, Storages
from marlin_ckpt.formats.values.tensor import contiguous_stride
from marlin_ckpt.loading.live import LIKE, changes_states

_Where = tuple[torch.device, DeviceMesh | None, tuple[Placement, ...]]


@dataclass(frozen=True, slots=True)
class Saved:
    """A tensor of a sharded checkpoint, in its place in the state.

    Attributes:
        name: its flat name.
        dtype: of its elements.
        shape: of the whole.
        place: where it begins; equal for names that stand for one tensor.
        is_split: whether it was saved in several pieces.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    place: Any
    is_split: bool


@dataclass(frozen=True, slots=True)
class Value:
    """What is no tensor, in its place in the state."""

    value: Any


class Placing:
    """Tensors in the places of saved ones: DTensors for live DTensors, and whole ones elsewhere.

    Args:
        path: of the checkpoint, for messages.
        into: the live objects, arranged as the state; None: all is read whole.
        device: of what no live object takes.
        spares: whether tensors that were saved in pieces, and that no live object takes, are left out.

    Attributes:
        left_out: the names of these, which are on the meta device in the state.
    """

    def __init__(self, path: str, into: Any, device: torch.device, *, spares: bool) -> None:
        self._into, self._device = into, device
        self._spares = spares and into is not None
        self._storages = Storages(path)
        self._makes = _Maker()
        self._made: dict[Any, tuple[torch.Tensor, Box]] = {}
        self._names: dict[int, str] = {}  # of one that is made, by its identity
        self.left_out: list[str] = []

    def state(self, saved: Any) -> Any:
        """Puts tensors and values into the places of `Saved` and `Value`, in the same dicts and lists."""
        return self._placed(saved, self._into)

    def move(self, pairs: list[Pair]) -> None:
        """Lets tensors of the state share the memory of live ones where that is safe, before it is read."""
        own = [(local_of(saved), local_of(live)) for saved, live in pairs]
        self._storages.move([(saved, live) for saved, live in own if id(saved) in self._names])

    def wanted(self) -> Iterator[Wanted]:
        """What has to be read of the checkpoint."""
        for made, box in self._made.values():
            local = local_of(made)
            storage = local.untyped_storage()
            if storage.nbytes() < local.nbytes:
                storage.resize_(local.nbytes)
            yield Wanted(self._names[id(local)], box, local)

    def _placed(self, saved: Any, live: Any) -> Any:
        if isinstance(saved, Saved):
            return self._tensor(saved, live if isinstance(live, torch.Tensor) else None)
        if isinstance(saved, Value):
            return saved.value
        live = getattr(live, LIKE, live)
        if isinstance(live, Optimizer) and isinstance(saved, MutableMapping):
            return self._optimizer(saved, live)
        if isinstance(live, torch.nn.Module):
            live = {} if changes_states(live) and not _is_sharded(live) else live.state_dict()
        if isinstance(saved, MutableMapping):
            parts = live if isinstance(live, Mapping) else {}
            for key in saved:
                saved[key] = self._placed(saved[key], parts.get(key))
        elif isinstance(saved, (list, tuple)):
            is_alike = isinstance(live, (list, tuple)) and len(live) == len(saved)
            pairs = zip(saved, live if is_alike else [None] * len(saved), strict=True)
            made = [self._placed(one, part) for one, part in pairs]
            if isinstance(saved, tuple):
                return tuple(made)
            saved[:] = made
        return saved

    def _optimizer(self, saved: MutableMapping[str, Any], live: Optimizer) -> Any:
        """The state of an optimizer, after its own where it has one, else after its parameters."""
        states = saved.pop("state", None)
        self._placed(saved, None)
        groups = saved.get("param_groups")
        parameters = [one for group in live.param_groups for one in group["params"]]
        keys = [key for group in groups or () for key in group["params"]] if _are_groups(groups) else []
        owners = dict(zip(keys, parameters, strict=False))
        if isinstance(states, MutableMapping):
            for key, kept in states.items():
                parameter = owners.get(key)
                own = {} if parameter is None else live.state.get(parameter, {})
                states[key] = self._kept(kept, own, parameter)
        return _with_state(saved, states)

    def _kept(self, kept: Any, own: Mapping[str, Any], parameter: torch.Tensor | None) -> Any:
        if not isinstance(kept, MutableMapping):
            return self._placed(kept, None)
        for what, one in kept.items():
            like = own.get(what, None if what == "step" else parameter)
            kept[what] = (
                self._tensor(one, like, parameter) if isinstance(one, Saved) else self._placed(one, like)
            )
        return kept

    def _tensor(
        self, saved: Saved, live: torch.Tensor | None, parameter: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A tensor after a live one; of an optimizer's that has another shape, where its parameter is."""
        if live is None and parameter is None and self._spares and saved.is_split:
            self.left_out.append(saved.name)
            return torch.empty(saved.shape, dtype=saved.dtype, device="meta")
        if live is not None and tuple(live.shape) != saved.shape:
            live = None
        where = self._where(saved, live, parameter)
        key = saved.place, saved.dtype, saved.shape, where
        if key not in self._made:
            self._made[key] = self._makes(saved, where)
            local = local_of(self._made[key][0])
            self._names[id(local)] = saved.name
            self._storages.add(saved.name, local)
        return self._made[key][0]

    def _where(self, saved: Saved, live: torch.Tensor | None, parameter: torch.Tensor | None) -> _Where:
        if isinstance(live, DTensor) and not any(one.is_partial() for one in live.placements):
            return local_of(live).device, live.device_mesh, tuple(live.placements)
        if live is None and isinstance(parameter, DTensor) and saved.is_split:
            # Such as the rows' means of Adafactor: whole at every rank, which is where torch can use it.
            mesh = parameter.device_mesh
            return local_of(parameter).device, mesh, (Replicate(),) * mesh.ndim
        is_here = live is None or live.is_meta or isinstance(live, DTensor)
        return torch.device("cpu") if is_here else live.device, None, ()  # type: ignore[union-attr]


def _with_state(saved: MutableMapping[str, Any], states: Any) -> Any:
    """Puts the state of an optimizer in front of its groups again, where torch has it."""
    rest = dict(saved)
    saved.clear()
    saved.update({"state": states} if states is not None else {})
    saved.update(rest)
    return saved


class _Maker:
    """Makes tensors that hold nothing yet, and finds once what those of one shape and placement share."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Box, Any]] = {}

    def __call__(self, saved: Saved, where: _Where) -> tuple[torch.Tensor, Box]:
        """A tensor, and which part of the saved one it is."""
        device, mesh, placements = where
        if mesh is None:
            made = _empty(saved.shape, saved.dtype, device)
            return made, Box((0,) * len(saved.shape), saved.shape)
        key = saved.shape, saved.dtype, mesh, placements
        if (known := self._known.get(key)) is not None:
            box, spec = known
            local = _empty(box.shape, saved.dtype, device)
            # As `from_local`, which would find the spec anew.
            return DTensor(local, spec, requires_grad=False), box  # type: ignore[no-untyped-call]
        shape = torch.Size(saved.shape)
        sizes, offsets = compute_local_shape_and_global_offset(shape, mesh, placements)
        box = Box(tuple(offsets), tuple(sizes))
        local = _empty(box.shape, saved.dtype, device)
        stride = contiguous_stride(saved.shape)
        found = DTensor.from_local(local, mesh, placements, run_check=False, shape=shape, stride=stride)
        self._known[key] = box, found._spec  # noqa: SLF001
        return found, box


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    made = torch.empty(shape, dtype=dtype, device=device)
    if device.type != "cpu":  # where memory that is not written to is taken all the same
        made.untyped_storage().resize_(0)
    return made


def _is_sharded(module: torch.nn.Module) -> bool:
    return any(isinstance(one, DTensor) for one in module.parameters())


def _are_groups(groups: Any) -> bool:
    return isinstance(groups, (list, tuple)) and all(
        isinstance(one, Mapping) and isinstance(one.get("params"), (list, tuple)) for one in groups
    )
