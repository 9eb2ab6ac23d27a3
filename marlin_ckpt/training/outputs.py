"""Collects what steps return."""

from collections.abc import Iterable
from typing import Any

import torch


class OutputCollector:
    """Gathers the outputs of many steps, a list for each place of the tuples that they return."""

    def __init__(self, collated: Iterable[Any] = ()) -> None:
        """Begins with what another collector has collated."""
        self._places = [[one] if isinstance(one, torch.Tensor) else list(one) for one in collated]

    def collect(self, outputs: Any) -> None:
        """Adds the outputs of one step; tensors are detached and moved to the CPU."""
        for place, output in enumerate(as_tuple(outputs)):
            if place == len(self._places):
                self._places.append([])
            is_tensor = isinstance(output, torch.Tensor)
            self._places[place].append(output.detach().to("cpu") if is_tensor else output)

    def collated(self) -> list[Any]:
        """What was collected: for each place one tensor, concatenated along dimension 0, or a list."""
        return [_collate(values) for values in self._places]


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    """A step's outputs as a tuple, also where it returned a single value."""
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def _collate(values: list[Any]) -> Any:
    if not all(isinstance(value, torch.Tensor) for value in values):
        return values
    return torch.cat([value.reshape(1) if value.dim() == 0 else value for value in values])


def mean_loss(outputs: list[Any]) -> dict[str, float]:
    """The mean of an epoch's losses as `train_loss`; nothing where its steps returned no tensors."""
    if outputs and isinstance(outputs[0], torch.Tensor) and outputs[0].numel():
        return {"train_loss": float(outputs[0].double().mean())}
    return {}
