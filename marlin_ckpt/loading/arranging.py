"""How a file arranges its states, and how a user has arranged the live objects for them."""

import copy
import itertools
import reprlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch.optim import Optimizer

from marlin_ckpt.errors import StateMismatchError

_MOST_DEPTH = 3  # of a state in dicts
_MOST_SHOWN = 3
_MOST_KEYS = 8
_Place = tuple[Any, ...]  # keys, one within the other


def merged(saved: Any, live: Any) -> Any:
    """What was saved, with the live objects in the places of their states; it is not changed itself.

    Args:
        saved: what a file holds.
        live: the objects, arranged as the file has their states; those that the file lacks are added.
    """
    if _is_live(live):
        return live
    if isinstance(live, Mapping) and isinstance(saved, Mapping):
        parts = {key: merged(saved[key], part) if key in saved else part for key, part in live.items()}
        changed = {key: part for key, part in parts.items() if key not in saved or part is not saved[key]}
        return _replaced(saved, changed) if changed else saved
    if isinstance(live, (list, tuple)) and isinstance(saved, (list, tuple)) and len(live) == len(saved):
        listed = [merged(one, part) for one, part in zip(saved, live, strict=True)]
        if all(part is one for part, one in zip(listed, saved, strict=True)):
            return saved
        if hasattr(saved, "_make"):  # a named tuple
            return saved._make(listed)
        return tuple(listed) if isinstance(saved, tuple) else listed
    return saved


def _is_live(live: Any) -> bool:
    if isinstance(live, (torch.Tensor, torch.nn.Module, Optimizer)):
        return True
    return not isinstance(live, (Mapping, list, tuple)) and hasattr(live, "load_state_dict")


def _replaced(saved: Mapping[Any, Any], parts: Mapping[Any, Any]) -> Mapping[Any, Any]:
    if not isinstance(saved, MutableMapping):
        return {**saved, **parts}
    whole = copy.copy(saved)
    whole.update(parts)
    return whole


def stripped(saved: Any, into: Any, prefix: str, path: str) -> Any:
    """What was saved, with a prefix removed from the names of each state that is for a live module.

    Args:
        saved: what the file holds; it is not changed itself.
        into: the live objects; None: the names at the top are stripped.
        prefix: of names. Those without it stay as they are.
        path: of the file, for error messages.

    Raises:
        StateMismatchError: no name has the prefix, or two would become one.
    """
    whole, count = _stripped(saved, into, prefix, path)
    if not count:
        names = _first(saved) if isinstance(saved, Mapping) else ""
        what = f"no name {'of a module ' * (into is not None)}begins with {prefix!r}"
        raise StateMismatchError(what, path, f"the file has {names}" * bool(names))
    return whole


def _first(saved: Mapping[Any, Any]) -> str:
    """The first keys of what was saved, in words."""
    shown = ", ".join(map(reprlib.repr, itertools.islice(saved, _MOST_KEYS)))
    return shown + ", ..." * (len(saved) > _MOST_KEYS)


def _stripped(saved: Any, live: Any, prefix: str, path: str) -> tuple[Any, int]:
    if isinstance(saved, Mapping) and (live is None or isinstance(live, torch.nn.Module)):
        return _without_prefix(saved, prefix, path)
    count = 0
    if isinstance(live, Mapping) and isinstance(saved, Mapping):
        changed = {}
        for key, part in live.items():
            if key in saved and part is not None:
                changed[key], more = _stripped(saved[key], part, prefix, path)
                count += more
        return (_replaced(saved, changed) if count else saved), count
    if isinstance(live, (list, tuple)) and isinstance(saved, (list, tuple)) and len(live) == len(saved):
        listed = []
        for one, part in zip(saved, live, strict=True):
            new, more = (one, 0) if part is None else _stripped(one, part, prefix, path)
            listed.append(new)
            count += more
        return (type(saved)(listed) if type(saved) in (list, tuple) else listed), count
    return saved, 0


def _without_prefix(saved: Mapping[Any, Any], prefix: str, path: str) -> tuple[Mapping[Any, Any], int]:
    names = {
        key: key.removeprefix(prefix) if isinstance(key, str) and key != prefix else key for key in saved
    }
    count = sum(key != name for key, name in names.items())
    if len(set(names.values())) < len(names):
        raise StateMismatchError(f"without the prefix {prefix!r} two names would become one", path)
    if not count:
        return saved, 0
    whole: Any = copy.copy(saved) if isinstance(saved, MutableMapping) else {}
    whole.clear()
    whole.update((names[key], value) for key, value in saved.items())
    if isinstance(versions := getattr(saved, "_metadata", None), Mapping):  # of the modules, by their names
        bare = prefix.removesuffix(".")
        whole._metadata = {  # noqa: SLF001 - as torch's consume_prefix_in_state_dict_if_present
            "" if name == bare else name.removeprefix(prefix): value
            for name, value in versions.items()
            if name or bare not in versions
        }
    return whole, count


def completed(saved: Any, module: torch.nn.Module) -> Any:
    """A module's state with the names that it lacks, where these are of tensors that it has by other names.

    Formats that hold no tensor twice leave out the further names of tied ones, such as `lm_head.weight`.
    """
    if not isinstance(saved, Mapping) or not all(isinstance(one, torch.Tensor) for one in saved.values()):
        return saved
    state = module.state_dict()
    places = {name: _place(one) for name, one in state.items() if isinstance(one, torch.Tensor)}
    there = {place: name for name, place in places.items() if place and name in saved}
    tied = {name: there[place] for name, place in places.items() if name not in saved and place in there}
    return {**saved, **{name: saved[other] for name, other in tied.items()}} if tied else saved


def _place(tensor: torch.Tensor) -> _Place | None:
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # a subclass without memory of its own
        return None
    return (str(tensor.device), address, tensor.shape, tensor.stride()) if address else None


def arrangement_hint(saved: Any, into: Any) -> str:
    """Which arrangement would fit a file better than the one that was given, as an argument; "" for none."""
    if isinstance(into, torch.nn.Module):
        names = into.state_dict().keys()
        return _where(saved, "module", _is_module_state, lambda state: state.keys() == names)
    if isinstance(into, Optimizer):
        return _where(saved, "optimizer", _is_optimizer_state, lambda _: True)
    if isinstance(into, Mapping) and _is_module_state(saved):
        modules = [key for key, part in into.items() if isinstance(part, torch.nn.Module)]
        if len(modules) == 1 and modules[0] not in saved:
            return "the file is the state of one module, and nothing else: load(..., into=module)"
    if isinstance(into, Mapping) and isinstance(saved, Mapping) and into.keys() - saved.keys():
        return f"the file has {_first(saved)}"
    return ""


def _where(
    saved: Any, what: str, is_state: Callable[[Any], bool], fits: Callable[[Mapping[Any, Any]], bool]
) -> str:
    if not isinstance(saved, Mapping) or is_state(saved):
        return ""
    found = list(_states(saved, is_state, ()))
    chosen = [one for one in found if fits(one[1])] or found
    if not chosen:
        return f"no state of {'an' if what == 'optimizer' else 'a'} {what} is in it"
    shown = [f"into={_written(place, what)}" for place, _ in chosen[:_MOST_SHOWN]]
    return f"name the state in the file that is meant: {', or '.join(shown)}"


def _states(
    saved: Mapping[Any, Any], is_state: Callable[[Any], bool], place: _Place
) -> Iterator[tuple[_Place, Mapping[Any, Any]]]:
    for key, part in saved.items():
        if is_state(part):
            yield (*place, key), part
        elif isinstance(part, Mapping) and len(place) + 1 < _MOST_DEPTH and not _is_optimizer_state(part):
            yield from _states(part, is_state, (*place, key))


def _is_module_state(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    return any(isinstance(one, torch.Tensor) for one in value.values()) and all(
        isinstance(one, torch.Tensor) or key.endswith("_extra_state") for key, one in value.items()
    )


def _is_optimizer_state(value: Any) -> bool:
    return isinstance(value, Mapping) and "param_groups" in value and "state" in value


def _written(place: _Place, what: str) -> str:
    key = f'"{place[0]}"' if isinstance(place[0], str) else repr(place[0])
    return f"{{{key}: {_written(place[1:], what) if place[1:] else what}}}"
