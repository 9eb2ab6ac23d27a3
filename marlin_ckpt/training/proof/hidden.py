"""Finds what of a module changes while it trains and is in no state that a checkpoint holds."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from marlin_ckpt.training.resume.leaves import fingerprint

# torch's own attributes of a module; those of its buffers that the state dict leaves out are looked at.
_OF_TORCH = set(vars(nn.Module()))
_LISTS = (list, tuple, set, frozenset, deque)
_NUMBERS = (bool, int, float)
_DEEPEST = 6  # containers in containers


class Hidden:
    """Follows the tensors and numbers of a module that are no parameters and no saved buffers.

    Attributes:
        module: whose attributes are looked at, and those of its submodules.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._matching: dict[str, set[str]] = {}
        self._metrics: set[str] = set()

    def values(self) -> dict[str, str]:
        """Fingerprints of all of them, by the path that leads to each."""
        return {path: fingerprint(value) for path, value in self._found()}

    def _found(self) -> Iterator[tuple[str, Any]]:
        for name, part in self.module.named_modules():
            prefix = f"{name}." if name else ""
            for key in part._non_persistent_buffers_set:  # noqa: SLF001 - torch has no public way
                yield from _leaves(getattr(part, key), prefix + key)
            for key, value in vars(part).items():
                if key not in _OF_TORCH and (prefix or key != "should_stop"):  # which the trainer keeps
                    yield from _leaves(value, prefix + key)

    def follow(self, states: Mapping[str, str]) -> None:
        """Notes after a step which entries of the module's state have been equal to each number so far.

        Args:
            states: fingerprints of the module's state.
        """
        for path, value in self._found():
            if not isinstance(value, torch.Tensor):
                text = fingerprint(value)
                equal = {key for key, one in states.items() if one == text}
                self._matching[path] = self._matching.get(path, equal) & equal

    def measured(self, metrics: Mapping[str, float]) -> None:
        """Notes what was measured: that is not state, but follows from it."""
        self._metrics |= {repr(float(value)) for value in metrics.values()}

    def unheld(self, before: Mapping[str, str], states: Mapping[str, str]) -> list[str]:
        """The paths of what has changed and is not in the module's state.

        Args:
            before: what `values` returned before the first step.
            states: fingerprints of the module's state now.
        """
        held = set(states.values())
        return [
            path
            for path, value in self._found()
            if (text := fingerprint(value)) != before.get(path)
            and not (text in held if isinstance(value, torch.Tensor) else self._matching.get(path))
            and text not in self._metrics
        ]


def _leaves(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (torch.Tensor, *_NUMBERS)):
        yield path, value
    elif isinstance(value, torch.Generator):
        yield path, value.get_state()
    elif isinstance(value, nn.Module):  # in a list, where torch does not see it
        yield from ((f"{path}.{name}", one) for name, one in value.state_dict().items())
    elif depth < _DEEPEST and isinstance(value, Mapping):
        for key, one in value.items():
            yield from _leaves(one, f"{path}[{key!r}]", depth + 1)
    elif isinstance(value, _LISTS) and value and all(isinstance(one, _NUMBERS) for one in value):
        yield path, list(value)
    elif depth < _DEEPEST and isinstance(value, _LISTS):
        for number, one in enumerate(value):
            yield from _leaves(one, f"{path}[{number}]", depth + 1)
