"""Reads a sharded checkpoint into a state: each rank its part, straight into live tensors where it can."""

from collections.abc import Mapping, MutableMapping
from typing import Any

from marlin_ckpt.distributed.flat import KINDS, OWN, Kinds, merged, unflatten
from marlin_ckpt.distributed.loading import agreed
from marlin_ckpt.distributed.ranks import Ranks
from marlin_ckpt.distributed.reads.folder import Sharded, hint_at, opened
from marlin_ckpt.distributed.reads.tensors import dtype_of, read_tensors, values_of
from marlin_ckpt.errors import CorruptCheckpointError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.loading.placing import Placing, Saved, Value
from marlin_ckpt.loading.together import How

_OF_RANKS = ("trainer_state", "ranks")  # below which each rank has what is its own


def read_sharded(path: str, ranks: Ranks, how: How, into: Any) -> tuple[Any, Manifest | None]:
    """Reads a sharded checkpoint as `read_together` does a file; all ranks call this.

    Args:
        path: of the folder, of ours or of `torch.distributed.checkpoint`.
        ranks: which load together.
        how: to read it.
        into: the live objects, arranged as the state is: for a live DTensor each rank reads its part. Of
            several ranks none reads a tensor that was saved in pieces and that no live object takes; that is
            then on the meta device.

    Returns:
        the state, and the manifest; None of a folder that another tool wrote.

    Raises:
        MarlinError: as `read_file` does; the same at all ranks.
    """
    with opened(path, ranks) as sharded:
        placing = Placing(path, into, how.device(), spares=ranks.world_size > 1)

        def read() -> Any:
            try:
                state = placing.state(how.arrange(_skeleton(sharded, ranks, weights_only=how.weights_only)))
                placing.move(list(how.pairs(state, sharded.manifest)))
                read_tensors(sharded, placing.wanted())
            except CorruptCheckpointError as error:
                error.hint = error.hint or hint_at(path)
                raise
            return state

        state = agreed(ranks, read)
        if placing.left_out and ranks.is_main:
            number = len(placing.left_out)
            how.log(f"Not read, since no live object takes them: {number:,} tensors of {path}")
        return state, sharded.manifest


def _skeleton(sharded: Sharded, ranks: Ranks, *, weights_only: bool) -> Any:
    """The state with `Saved` in the places of tensors, and `Value` in those of values."""
    index = sharded.index
    own = sharded.manifest.sharded if sharded.manifest else None
    is_same = own is None or own.world_size == ranks.world_size
    foreign = {name for name, path in index.paths.items() if is_same and _is_of_another(path, ranks)}
    values = values_of(
        sharded, [name for name in index.values if name not in foreign], weights_only=weights_only
    )
    kinds = _kinds(values, ranks if is_same else Ranks.alone())
    leaves: dict[str, Any] = {}
    for name in dict.fromkeys((*index.paths, *index.tensors, *values)):  # of the paths' order is the state's
        if name in values:
            leaves[name] = Value(values[name])
        elif name in index.tensors and name not in foreign:
            leaves[name] = _saved(sharded, name)
    state = unflatten(leaves, index.paths, kinds)
    return state if kinds is not None else _mended(state)


def _kinds(values: dict[str, Any], ranks: Ranks) -> Kinds | None:
    """Takes out of the values what is not of the state: the kinds of containers, of all ranks and of each."""
    own = {name: values.pop(name) for name in [*values] if name.startswith(OWN)}
    found = [one for name, one in own.items() if name.startswith(KINDS)]
    if not found:
        return None
    return {path: kind for path, kind in merged(found).items() if not _is_of_another(path, ranks)}


def _saved(sharded: Sharded, name: str) -> Saved:
    index = sharded.index
    chunks = iter(index.chunks(name))
    first = next(chunks, None)
    place = None if first is None else index.item(name, first).place
    own = name if place is None else (place.file, place.start)
    return Saved(
        name, dtype_of(sharded, name), index.shape(name), own, is_split=next(chunks, None) is not None
    )


def _is_of_another(path: tuple[str | int, ...], ranks: Ranks) -> bool:
    start = len(_OF_RANKS)
    is_of_one = ranks.world_size > 1 and path[:start] == _OF_RANKS and len(path) > start
    return is_of_one and str(path[start]) != str(ranks.rank)


def _mended(state: Any) -> Any:
    """Gives states of optimizers what torch's own flat names lose: integers as keys, and an empty state."""
    if isinstance(state, MutableMapping):
        groups = state.get("param_groups")
        if isinstance(groups, list) and all(isinstance(one, Mapping) and "params" in one for one in groups):
            params = [key for one in groups for key in _keys(one["params"])]
            kept = state.setdefault("state", {})
            if isinstance(kept, dict) and all(type(one) is int for one in params):
                state["state"] = {int(key) if str(key).isdecimal() else key: kept[key] for key in kept}
    parts = (
        state.values() if isinstance(state, Mapping) else state if isinstance(state, (list, tuple)) else ()
    )
    for one in () if isinstance(state, (Saved, Value)) else parts:
        _mended(one)
    return state


def _keys(params: Any) -> list[Any]:
    found = params.value if isinstance(params, Value) else params
    return found if isinstance(found, list) else []
