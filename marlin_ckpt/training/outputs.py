"""Collects what steps return."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

_MOST_BYTES = 1 << 20  # a quarter of a million losses


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


class EpochOutputs(OutputCollector):
    """The outputs of an epoch, of which a checkpoint within it keeps a limited part.

    An epoch returns any amount (the logits of each batch), and checkpoints are not to grow with it: where the
    outputs to keep exceed 1 MiB, the largest places are left out until the epoch ends, the losses last of
    all. What is left out depends on the outputs alone, so that it is the same in a run that was resumed.
    """

    def __init__(self, state: Iterable[Any] = ()) -> None:
        """Begins with what `state` returned once."""
        places = list(state)
        super().__init__([] if one is None else one for one in places)
        self._left_out = {place for place, one in enumerate(places) if one is None}
        self._bytes = [_size(one) for one in places]

    def collect(self, outputs: Any) -> None:
        """Adds the outputs of one step."""
        super().collect(outputs)
        for place, output in enumerate(as_tuple(outputs)):
            if place == len(self._bytes):
                self._bytes.append(0)
            self._bytes[place] += 0 if place in self._left_out else _size(output)
        while sum(self._bytes) > _MOST_BYTES:
            largest = max(range(len(self._bytes)), key=lambda place: (place > 0) * self._bytes[place])
            self._left_out.add(largest)
            self._bytes[largest] = 0

    def state(self, *, only_losses: bool) -> list[Any]:
        """What a checkpoint keeps: each place collated, or None where it is left out.

        Args:
            only_losses: keep the first place alone.
        """
        places = self._places[:1] if only_losses else self._places
        return [None if place in self._left_out else _collate(one) for place, one in enumerate(places)]

    def lost(self) -> list[str]:
        """What the state that it began with has left out, a sentence each."""
        if not self._left_out:
            return []
        return [
            f"the outputs of the epoch's steps were left out of the checkpoint beyond {_MOST_BYTES >> 20} MiB"
        ]


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    """A step's outputs as a tuple, also where it returned a single value."""
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def _collate(values: list[Any]) -> Any:
    if not all(isinstance(value, torch.Tensor) for value in values):
        return list(values)
    return torch.cat([value.reshape(1) if value.dim() == 0 else value for value in values])


def _size(value: Any) -> int:
    """About how many bytes an output takes in a file."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(key) + _size(one) for key, one in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return sum(map(_size, value))
    return int(getattr(value, "nbytes", 8))


def mean_loss(outputs: list[Any]) -> dict[str, float]:
    """The mean of an epoch's losses as `train_loss`; nothing where its steps returned no tensors."""
    if outputs and isinstance(outputs[0], torch.Tensor) and outputs[0].numel():
        return {"train_loss": float(outputs[0].double().mean())}
    return {}
