"""What differs between the ranks of a run, in a checkpoint: random numbers, positions of loaders, outputs.

It is under `ranks` in the trainer's state, by the number of the rank as a string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.training.parallel import names
from marlin_ckpt.training.resume import rng

_KEY = "ranks"
_OF_EPOCH = ("rng", "loader")  # of a position within an epoch
State = dict[str, Any]


def split(position: Mapping[str, Any], backend: Mapping[str, Any]) -> tuple[State, State]:
    """Splits a rank's position into what all ranks have in common, and what is its own.

    Args:
        position: what `Position.state` returned.
        backend: what the backend's `get_state` returned.
    """
    mine: State = {"rng": position["rng"]}
    common: State = {}
    if epoch := position.get("epoch"):
        common["epoch"] = {name: value for name, value in epoch.items() if name not in _OF_EPOCH}
        mine["epoch"] = {name: epoch[name] for name in _OF_EPOCH if name in epoch}
    if outputs := (backend.get("epoch") or {}).get("outputs"):
        mine["outputs"] = outputs
    return common, mine


def buffers(module: nn.Module) -> State:
    """The buffers of a module that its state has: copies, since theirs in the module's state are rank 0's."""
    saved = module.state_dict().keys()
    return {name: one.detach().clone() for name, one in _named_buffers(module).items() if name in saved}


def _named_buffers(module: nn.Module) -> State:
    return {names.plain(name): one for name, one in module.named_buffers()}


def restore_buffers(module: nn.Module, state: Any, rank: int, world_size: int) -> None:
    """Gives a module the buffers that its rank had, where as many ranks have saved them.

    Args:
        module: of this rank, with the state that all have in common.
        state: of the trainer, as a checkpoint holds it.
        rank: this one.
        world_size: of the run that goes on.
    """
    parts = of_ranks(state) or {}
    saved = (parts.get(str(rank)) or {}).get("buffers") if _size_of(state) == world_size else None
    live = _named_buffers(module) if saved else {}
    for name, one in (saved or {}).items():
        if name in live:
            live[name].detach().copy_(one)


def _size_of(state: Any) -> int:
    """How many ranks have saved a trainer's state, of which a rank that loads may have its own part alone."""
    found = (state.get("conditions") or {}).get("world_size") if isinstance(state, Mapping) else None
    return found if isinstance(found, int) else len(of_ranks(state) or {})


def in_state(rank: int, mine: State) -> State:
    """A rank's own part, as the trainer's state has it."""
    return {_KEY: {str(rank): mine}}


def backend_in_common(state: Mapping[str, Any]) -> State:
    """A backend's state without the outputs of this rank."""
    if not (epoch := state.get("epoch")):
        return dict(state)
    return {**state, "epoch": {name: value for name, value in epoch.items() if name != "outputs"}}


def of_ranks(state: Any) -> Any:
    """The part of a trainer's state that differs between ranks."""
    return state.get(_KEY) if isinstance(state, Mapping) else None


def with_ranks(state: Any, parts: Sequence[Any]) -> Any:
    """A trainer's state with the parts of all ranks.

    Args:
        state: of one rank.
        parts: what `of_ranks` returned at each.
    """
    if not isinstance(state, Mapping):
        return state
    return {**state, _KEY: {rank: mine for part in parts for rank, mine in (part or {}).items()}}


def mine(state: Any, rank: int, world_size: int) -> Any:
    """A trainer's state as one rank goes on from it, with its own position.

    Where as many ranks have saved it, that is exact. Else a rank that was not there draws other random
    numbers, and no loader gets the position of another.

    Args:
        state: what a checkpoint holds, or None.
        rank: that goes on.
        world_size: of the run that goes on.
    """
    parts = of_ranks(state)
    if parts is None:
        is_other = rank > 0 and isinstance(state, Mapping) and "position" in state
        return {**state, "position": _of_another(state, state["position"], rank)} if is_other else state
    position = dict(state.get("position") or {})
    is_same = _size_of(state) == world_size
    own_part = parts.get(str(rank))
    if own_part is None:
        return {**state, "position": _of_another(state, position, rank)}
    position["rng"] = own_part["rng"]
    if epoch := position.get("epoch"):
        of_epoch = dict(own_part.get("epoch") or {})
        if not is_same:
            of_epoch.pop("loader", None)
        position["epoch"] = {**epoch, **of_epoch}
    return {**state, "position": position}


def _of_another(state: Mapping[str, Any], position: Mapping[str, Any], rank: int) -> State:
    """A position with random numbers that no other rank draws."""
    with rng.preserved():
        done = (position.get("epoch") or {}).get("samples", 0)
        rng.seed_all(rng.derived(state.get("seed", 0), "rank", rank, state.get("last_epoch", -1), done))
        drawn = rng.states()
    found = {**position, "rng": drawn}
    if epoch := position.get("epoch"):
        found["epoch"] = {**{name: value for name, value in epoch.items() if name != "loader"}, "rng": drawn}
    return found


def checkpoint_of(loaded: Checkpoint, rank: int, world_size: int) -> Checkpoint:
    """A checkpoint as one rank goes on from it.

    Args:
        loaded: what a checkpoint holds, of whatever number of ranks.
        rank: that goes on.
        world_size: of the run that goes on.
    """
    state = loaded.trainer_state
    if not isinstance(state, Mapping) or (world_size == 1 and _KEY not in state):
        return loaded
    return replace(
        loaded,
        trainer_state=mine(state, rank, world_size),
        trainer_backend_state=backend_of(loaded.trainer_backend_state, state, rank, world_size),
    )


def backend_of(state: Any, trainer_state: Any, rank: int, world_size: int) -> Any:
    """A backend's state as one rank goes on from it, with its own outputs of the epoch.

    Args:
        state: of the backend, as a checkpoint holds it.
        trainer_state: of the trainer, as the same one holds it.
        rank: that goes on.
        world_size: of the run that goes on.
    """
    parts = of_ranks(trainer_state)
    epoch = state.get("epoch") if isinstance(state, Mapping) else None
    if epoch is None or (parts is None and (rank == 0 or "outputs" not in epoch)):
        return state
    by_rank = {int(of): (part or {}).get("outputs") or [] for of, part in (parts or {}).items()}
    is_same = _size_of(trainer_state) == world_size
    whole = _merged([one for _, one in sorted(by_rank.items())]) if rank == 0 and not is_same else []
    outputs = by_rank.get(rank, []) if is_same else whole
    return {**state, "epoch": {**epoch, "outputs": outputs}}


def _merged(by_rank: Sequence[Sequence[Any]]) -> list[Any]:
    """The outputs of all ranks as those of one."""
    places: list[Any] = []
    for place in range(max(map(len, by_rank), default=0)):
        parts = [one[place] for one in by_rank if place < len(one)]
        if any(one is None for one in parts):
            places.append(None)
        elif all(isinstance(one, torch.Tensor) for one in parts):
            places.append(torch.cat(parts))
        else:
            places.append([row for one in parts for row in one])
    return places
