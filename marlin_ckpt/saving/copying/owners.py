"""The tensors that nothing but an optimizer's step changes, and a call before each step."""

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

_PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)
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

    def tensors(self) -> dict[int, list[torch.Tensor]]:
        """The parameters and the state of all known optimizers, by the identity of their storages.

        Excluded are tensors that may change in other ways, or whose changes autograd does not count.
        """
        found: dict[int, list[torch.Tensor]] = {}
        for optimizer in self.known:
            # Its step may be part of a CUDA graph, which is replayed without any hook being called.
            is_capturable = any(group.get("capturable") for group in optimizer.param_groups)
            for tensor in held_by(optimizer):
                local = local_of(tensor)
                if (
                    type(local) in _PLAIN_TENSORS
                    and local.layout is torch.strided
                    and (_is_ours(local) if local.is_cpu else local.is_cuda and not is_capturable)
                    and not local.is_nested
                    and not local.is_inference()
                ):
                    # A step changes the parts of DTensors without autograd's counting it, which is why a copy
                    # is never begun within one; whatever else is counted is counted of one of the two.
                    both = [tensor] if local is tensor else [tensor, local]
                    found.setdefault(local.untyped_storage()._cdata, []).extend(both)  # noqa: SLF001
        return found


def _is_ours(tensor: torch.Tensor) -> bool:
    """Whether its memory is torch's alone, not another process's too, nor of an array or a mapped file."""
    storage = tensor.untyped_storage()
    return storage.resizable() and not storage.is_shared()


def held_by(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """The parameters and the state of an optimizer."""
    return tensors_in([[group["params"] for group in optimizer.param_groups], optimizer.state])


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


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested lists, tuples and mappings."""
    pending = [values]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(value.values() if isinstance(value, Mapping) else value)
