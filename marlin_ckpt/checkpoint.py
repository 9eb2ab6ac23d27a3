"""The value that a checkpointer saves and loads, and what its metrics and its index may be."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marlin_ckpt.errors import ArgumentsError, Fault

PAYLOAD_KEYS = ("module_interface_state", "trainer_state", "trainer_backend_state")


@dataclass
class Checkpoint:
    """The three states of a run, and its metrics.

    Attributes:
        module_interface_state: what `ModuleInterface.get_state` returned.
        trainer_state: what `Trainer.get_state` returned.
        trainer_backend_state: what `TrainerBackend.get_state` returned.
        metrics: names and numbers. They are stored in the file's manifest and not beside the three states, so
            that PyMarlin can read the file.
    """

    module_interface_state: Any = None
    trainer_state: Any = None
    trainer_backend_state: Any = None
    metrics: dict[str, float] | None = None

    def payload(self) -> dict[str, Any]:
        """The dict that the file holds: exactly the three states."""
        return {key: getattr(self, key) for key in PAYLOAD_KEYS}


def plain_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Metrics as plain numbers: a tensor or NumPy scalar of one element becomes its value.

    Raises:
        ArgumentsError: naming every one that is no number.
    """
    numbers: dict[str, float] = {}
    faults = []
    for name, value in (metrics or {}).items():
        try:
            # torch warns where float() is given a tensor that needs a gradient, such as a loss.
            numbers[str(name)] = float(value.detach() if hasattr(value, "detach") else value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            faults.append(Fault(f"metrics[{name!r}]", f"expected a number, not {value!r}"))
    if faults:
        raise ArgumentsError(faults)
    return numbers


def checked_index(index: int) -> int:
    """An index as a plain integer.

    Raises:
        ArgumentsError: it is none, or below 0.
    """
    try:
        number = operator.index(index)
    except TypeError:
        number = -1
    if number < 0:
        raise ArgumentsError([Fault("index", f"expected an integer of 0 or more, not {index!r}")])
    return number
