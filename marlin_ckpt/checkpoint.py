"""The value that a checkpointer saves and loads."""

from dataclasses import dataclass
from typing import Any

PAYLOAD_KEYS = ("module_interface_state", "trainer_state", "trainer_backend_state")


@dataclass
class Checkpoint:
    """The three states of a run, and what was measured when they were taken.

    Attributes:
        module_interface_state: what `ModuleInterface.get_state` returned.
        trainer_state: what `Trainer.get_state` returned.
        trainer_backend_state: what `TrainerBackend.get_state` returned.
        metrics: names and values; they lie in the file's manifest and never in its payload, so that
            PyMarlin's `Checkpoint(**payload)` can read the file.
    """

    module_interface_state: Any = None
    trainer_state: Any = None
    trainer_backend_state: Any = None
    metrics: dict[str, float] | None = None

    def payload(self) -> dict[str, Any]:
        """The dict that the file holds: exactly the three states."""
        return {key: getattr(self, key) for key in PAYLOAD_KEYS}
