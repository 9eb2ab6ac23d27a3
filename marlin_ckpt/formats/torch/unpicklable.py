"""What cannot be pickled, and which part of a state that is."""

from collections.abc import Callable, Iterator
from typing import Any

# Tensors that would be pickled without what other ranks have of them, and what to do in their place.
PARTS = {
    "DTensor": "put sharded tensors into dicts, lists and tuples alone",
    "ShardedTensor": "give FullyShardedDataParallel a device_mesh=, or save by dcp.save with a MarlinWriter",
}

# What FullyShardedDataParallel, say, does between two uses of a tensor.
FREED = "its memory has been freed, and its storage has no bytes"
FREED_HINT = "save where all of the state is in memory: the state_dict of what frees it, or another moment"


def place_of(state: Any, fails: Callable[[Any], bool]) -> str:
    """The path of the innermost part that alone cannot be pickled, such as `module_interface_state.rate.0`.

    Args:
        state: cannot be pickled.
        fails: whether a part of it cannot be pickled.

    Returns:
        "" where no single part fails by itself.
    """
    path: list[str] = []
    seen: set[int] = set()
    pending = _parts(state)
    while (found := next(((name, part) for name, part in pending if fails(part)), None)) is not None:
        name, part = found
        path.append(name)
        if id(part) in seen:
            break
        seen.add(id(part))
        pending = _parts(part)
    return ".".join(path)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if issubclass(kind, dict):
        yield from ((str(key), part) for key, part in value.items())
        yield from ((f"(key) {key!r}", key) for key in value)
    elif issubclass(kind, (list, tuple, set, frozenset)):
        yield from ((str(number), part) for number, part in enumerate(value))
    elif kind.__name__ not in PARTS and not issubclass(kind, type):
        yield from getattr(value, "__dict__", {}).items()
