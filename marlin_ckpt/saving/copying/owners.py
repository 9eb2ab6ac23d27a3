"""The tensors that nothing but an optimizer's step changes, and a call before each step."""

import itertools
import operator
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.storage import UntypedStorage

from marlin_ckpt.formats.torch.memory import identity
from marlin_ckpt.saving.copying.staging import Watched, version_of

_PLAIN_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})
_is_nested = operator.attrgetter("is_nested")
_is_shared: Callable[[UntypedStorage], bool] = UntypedStorage.is_shared
# torch wraps the `step` of every optimizer in a function of this one code, which also calls the hooks. Hooks
# alone would not tell who is inside a step: none is called after one that raised, and one that is set during
# a step has missed its beginning.
_STEP = Optimizer.profile_hook_step(lambda *_: None).__code__


class Optimizers:
    """Optimizers, each for as long as others hold it; threads may add some while one goes through them.

    A WeakSet would raise there, and end the save of one model for the first step of another.
    """

    def __init__(self) -> None:
        self._held: weakref.WeakKeyDictionary[Optimizer, None] = weakref.WeakKeyDictionary()

    def update(self, optimizers: Iterable[Optimizer]) -> None:
        """Adds optimizers."""
        for one in optimizers:
            self._held[one] = None

    def clear(self) -> None:
        """Removes all."""
        self._held.clear()

    def __iter__(self) -> Iterator[Optimizer]:
        return (one for held in self._held.keyrefs() if (one := held()) is not None)


_watchers: dict[int, tuple[Optimizers, Callable[[], None]]] = {}


def _hook(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Calls the watchers before the step changes anything: after its closure where that comes first."""
    for known, _ in _watchers.copy().values():  # a collection in the midst may remove one
        known.update([optimizer])
    closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
    # Steps of others may change parameters before they call the closure, as that of SAM does.
    if not callable(closure) or not type(optimizer).step.__module__.startswith("torch.optim."):
        _before_change()
        return None
    pending = [_FirstCall(closure)]

    def evaluate() -> Any:
        return pending.pop()() if pending else closure()

    if kwargs.get("closure"):
        return args, {**kwargs, "closure": evaluate}
    return (args[0], evaluate, *args[2:]), kwargs


class _FirstCall:
    """The first evaluation of a closure, which optimizers of torch begin their steps with."""

    def __init__(self, closure: Callable[[], Any]) -> None:
        self._closure = closure

    def __call__(self) -> Any:
        loss = self._closure()
        _before_change()
        return loss


def _before_change() -> None:
    for _, before_step in tuple(_watchers.values()):
        before_step()


class _Hook:
    """The one hook of this process: torch keeps a hook for ever, and with it whatever it holds.

    It is never removed. torch goes through its hooks while it calls them, and one that another thread removes
    or adds meanwhile would end that thread's step with an error.
    """

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> bool:
        """Sets it, unless that has been done or a step is under way; returns whether it is set."""
        if not self._is_set and not stepping():
            register_optimizer_step_pre_hook(_hook)
            self._is_set = True
        return self._is_set


_BEFORE_STEPS = (_hook.__code__, _FirstCall.__call__.__code__)
_the_hook = _Hook()


class KnownOptimizers:
    """The optimizers that were named, and those that have stepped since this was made.

    torch calls a hook before each step of each optimizer, so that one that has stepped once will be noticed
    again before its parameters change.

    Attributes:
        known: the optimizers.
    """

    def __init__(self, before_step: Callable[[], None]) -> None:
        """Takes what to do.

        Args:
            before_step: called before each step, on the thread that steps: after its closure, if that is the
                first that the step does.
        """
        self.known = Optimizers()
        self._before_step = before_step
        self._forget: Callable[[], object] | None = None

    def watch(self) -> bool:
        """Begins to watch for steps; returns whether they are watched from now on."""
        if not _the_hook.set():
            return False
        if self._forget is None:
            _watchers[id(self.known)] = self.known, self._before_step
            self._forget = weakref.finalize(self, _watchers.pop, id(self.known), None)
        return True

    def forget(self) -> None:
        """Watches no more, and forgets the optimizers."""
        if self._forget is not None:
            self._forget()
            self._forget = None
        self.known.clear()

    def tensors(self, kinds: Collection[str]) -> Watched:
        """The parameters and the state of all known optimizers, as they are now.

        Excluded are tensors that may change in other ways, or whose changes autograd does not count.

        Args:
            kinds: the types of devices of which those are asked for, or more.
        """
        found: list[Watched] = []
        for optimizer in self.known:
            held = held_by(optimizer)
            found.append((_all_of(held) if {"cpu"}.issuperset(kinds) else None) or _some_of(held, optimizer))
        return found[0] if len(found) == 1 else Watched(*map(_joined, zip(*found, strict=True)))


def _all_of(tensors: list[torch.Tensor]) -> Watched | None:
    """Tensors, if all that are on the CPU are plain ones: as `_some_of`, several times as fast."""
    parts, are_wholes = tensors, [False]
    if not _PLAIN_TENSORS.issuperset(map(type, tensors)):
        parts = list(map(local_of, tensors))
        if not _PLAIN_TENSORS.issuperset(map(type, parts)):
            return None
        are_wholes = list(
            map(operator.is_not, tensors, parts)
        )  # DTensors, which are counted beside their parts
    try:
        storages = list(map(torch.Tensor.untyped_storage, parts))  # sparse ones have none
        versions = list(map(version_of, parts))  # nor do those of inference
        others = list(itertools.compress(tensors, are_wholes))
        versions += map(version_of, others)
    except RuntimeError:
        return None
    are_ours = all(map(UntypedStorage.resizable, storages)) and not any(map(_is_shared, storages))
    if not are_ours or any(map(_is_nested, parts)):
        return None
    identities = list(map(identity, storages))
    return Watched([*parts, *others], versions, [*identities, *itertools.compress(identities, are_wholes)])


def _some_of(tensors: Iterable[torch.Tensor], optimizer: Optimizer) -> Watched:
    """Those tensors of an optimizer that only its step changes, and whose changes are counted."""
    # Its step may be part of a CUDA graph, which is replayed without any hook being called.
    is_capturable = any(group.get("capturable") for group in optimizer.param_groups)
    kept: list[torch.Tensor] = []
    storages: list[int] = []
    for tensor in tensors:
        local = local_of(tensor)
        if (
            type(local) in _PLAIN_TENSORS
            and local.layout is torch.strided
            and (_is_ours(local) if local.is_cpu else local.is_cuda and not is_capturable)
            and not local.is_nested
            and not local.is_inference()
        ):
            # A step changes the parts of DTensors without autograd's counting it, which is why a copy is
            # never begun within one; whatever else is counted is counted of one of the two.
            both = [tensor] if local is tensor else [tensor, local]
            kept += both
            storages += [identity(local.untyped_storage())] * len(both)
    return Watched(kept, list(map(version_of, kept)), storages)


def _joined(columns: Iterable[Sequence[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(columns))


def _is_ours(tensor: torch.Tensor) -> bool:
    """Whether its memory is torch's alone, not another process's too, nor of an array or a mapped file."""
    storage = tensor.untyped_storage()
    return storage.resizable() and not storage.is_shared()


def held_by(optimizer: Optimizer) -> list[torch.Tensor]:
    """The parameters and the state of an optimizer."""
    states = list(optimizer.state.values())
    if {dict}.issuperset(map(type, states)):  # to look into each of many in turn takes twice as long
        states = list(itertools.chain.from_iterable(map(list, map(dict.values, states))))
    found = [*itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups), *states]
    return found if _PLAIN_TENSORS.issuperset(map(type, found)) else tensors_in(found)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a DTensor that this rank has; another tensor itself.

    Without an import of DTensor, which takes longer than many a save.
    """
    local = getattr(tensor, "_local_tensor", None)
    return local if isinstance(local, torch.Tensor) else tensor


def is_part(value: Any) -> bool:
    """Whether a value is a DTensor."""
    return isinstance(value, torch.Tensor) and local_of(value) is not value


def stepping() -> dict[int, list[Optimizer]]:
    """The optimizers that are inside their step now, by the thread that they are on.

    A thread that is in our hook, or calls the closure for the first time, has not begun: it is going to wait
    for what it must wait for.
    """
    found: dict[int, list[Optimizer]] = {}
    frame: FrameType | None
    for thread, frame in sys._current_frames().items():  # noqa: SLF001 - the documented way to others' stacks
        has_begun = True
        while frame is not None:
            if frame.f_code in _BEFORE_STEPS:
                has_begun = False
            elif frame.f_code is _STEP:
                if has_begun:
                    found.setdefault(thread, []).append(frame.f_locals["args"][0])
                has_begun = True
            frame = frame.f_back  # noqa: PLW2901 - a second name could hold this frame, and with it the state
    return found


def tensors_in(values: Any) -> list[torch.Tensor]:
    """All tensors in nested lists, tuples and mappings, level by level."""
    found: list[torch.Tensor] = []
    level = [values]
    seen: set[int] = set()
    while level:
        kinds = list(map(type, level))
        tensors = {kind for kind in set(kinds) if issubclass(kind, torch.Tensor)}
        containers = {kind for kind in set(kinds) if issubclass(kind, (Mapping, list, tuple))}
        found += itertools.compress(level, map(tensors.__contains__, kinds))
        inner: list[Any] = []
        for one in itertools.compress(level, map(containers.__contains__, kinds)):
            if id(one) not in seen:
                seen.add(id(one))
                inner += one.values() if isinstance(one, Mapping) else one
        level = inner
    return found
