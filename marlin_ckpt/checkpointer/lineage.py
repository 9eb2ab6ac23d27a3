"""What the files of a run say of it in their manifests: which save, after which, of which parameters."""

import os
import weakref
from typing import Any

from torch.optim import Optimizer

from marlin_ckpt.checkpoint import Checkpoint
from marlin_ckpt.formats.manifest import Manifest, Parent
from marlin_ckpt.formats.torch.parameters import names_of_slots
from marlin_ckpt.loading.load import Loaded
from marlin_ckpt.loading.payload import plain_metrics
from marlin_ckpt.naming import Kind
from marlin_ckpt.saving import about
from marlin_ckpt.saving.owners import KnownOptimizers


class Lineage:
    """The saves of one run.

    Attributes:
        saves: how many there were.
        optimizers: whose parameters the manifests name: those that were named, and those that have stepped
            since this was made.
    """

    def __init__(self) -> None:
        self.saves = 0
        self._known = KnownOptimizers(lambda: None)
        self._known.watch()
        self.optimizers: weakref.WeakSet[Optimizer] = self._known.known
        self._parent: Parent | None = None

    def continues(self, loaded: Loaded) -> str | None:
        """Takes a loaded checkpoint for the run's last one; returns its run id, None where it has none."""
        if loaded.manifest is None:
            return None
        self.saves = loaded.manifest.save_number
        self._parent = Parent(loaded.manifest.run_id, self.saves, os.path.basename(loaded.path))
        return loaded.manifest.run_id

    def manifest(self, run_id: str, index: int, state: Any) -> Manifest:
        """The manifest of the next file, without its records.

        Args:
            run_id: of the run.
            index: what it is saved under.
            state: a Checkpoint; anything else is the state of a module.

        Raises:
            ArgumentsError: a metric is no number.
        """
        is_checkpoint = isinstance(state, Checkpoint)
        names = {}
        if is_checkpoint:
            names = names_of_slots(state.payload(), state.module_interface_state, self.optimizers)
        return Manifest(
            kind=Kind.CHECKPOINT if is_checkpoint else Kind.MODEL,
            index=index,
            created=about.now(),
            run_id=run_id,
            save_number=self.saves + 1,
            metrics=plain_metrics(state.metrics) if is_checkpoint else {},
            versions=about.versions(),
            parent=self._parent,
            optimizers=names,
        )
