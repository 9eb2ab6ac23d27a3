"""The tensors that nothing but an optimizer's step changes, and a call before each step."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

_PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)


class KnownOptimizers:
    """The optimizers that were named, and those that have stepped since this was made.

    torch calls a hook before each step of each optimizer, so that one that has stepped once will be noticed
    again before its parameters change.

    Attributes:
        known: the optimizers.
    """

    def __init__(self, before_step: Callable[[], None]) -> None:
        """Registers the hook.

        Args:
            before_step: called before each step, on the thread that steps.
        """
        self.known: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        known = self.known

        def hook(optimizer: Optimizer, *_: Any) -> None:
            known.add(optimizer)
            before_step()

        self._handle = register_optimizer_step_pre_hook(hook)

    def forget(self) -> None:
        """Removes the hook, and forgets the optimizers."""
        self._handle.remove()
        self.known.clear()

    def tensors(self) -> dict[int, list[torch.Tensor]]:
        """The parameters and the state of all known optimizers, by the identity of their storages.

        Excluded are tensors that may change in other ways, or whose changes autograd does not count.
        """
        found: dict[int, list[torch.Tensor]] = {}
        for optimizer in list(self.known):
            # Its step may be part of a CUDA graph, which is replayed without any hook being called.
            is_capturable = any(group.get("capturable") for group in optimizer.param_groups)
            for tensor in tensors_in(
                [[group["params"] for group in optimizer.param_groups], optimizer.state]
            ):
                if (
                    type(tensor) in _PLAIN_TENSORS
                    and tensor.layout is torch.strided
                    and (tensor.is_cpu or (tensor.is_cuda and not is_capturable))
                    and not tensor.is_nested
                    and not tensor.is_inference()
                ):
                    found.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)  # noqa: SLF001
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
