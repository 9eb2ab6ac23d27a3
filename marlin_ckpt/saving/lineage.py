"""What the files of a run say of it in their manifests: which save, after which, of which parameters."""

import os
import secrets
from collections.abc import Mapping
from typing import Any

from marlin_ckpt import grammars, naming
from marlin_ckpt.checkpoint import plain_metrics
from marlin_ckpt.formats.manifest import Manifest, Parent
from marlin_ckpt.formats.times import now
from marlin_ckpt.formats.torch.parameters import SlotNames
from marlin_ckpt.formats.torch.versions import versions
from marlin_ckpt.naming import Kind
from marlin_ckpt.saving.copying.owners import KnownOptimizers


class Lineage:
    """The saves of one run.

    Attributes:
        run_id: of the run.
        saves: how many there were.
        optimizers: whose parameters the manifests name: those that were named, and those that have stepped
            since this was made.
    """

    def __init__(self) -> None:
        self.run_id = secrets.token_hex(6)
        self.saves = 0
        self._known = KnownOptimizers(lambda: None)
        self._known.watch()
        self.optimizers = self._known.known
        self._parent: Parent | None = None
        self._slot_names = SlotNames()

    def continues(self, manifest: Manifest | None, path: str) -> None:
        """Takes a loaded checkpoint for the run's last one: a resumed run is the same run.

        Args:
            manifest: of the checkpoint; without one nothing changes.
            path: of the checkpoint.
        """
        if manifest is not None:
            self.run_id, self.saves = manifest.run_id, manifest.save_number
            self._parent = Parent(self.run_id, self.saves, os.path.basename(path))

    def manifest(
        self,
        kind: Kind,
        index: int,
        metrics: Mapping[str, Any] | None,
        parts: Mapping[str, Any],
        modules: Any,
    ) -> Manifest:
        """The manifest of the next file, without its records.

        Args:
            kind: of the file.
            index: what it is saved under.
            metrics: names and values.
            parts: in dicts and lists, the states of optimizers among others.
            modules: the states of the modules whose parameters these have.

        Raises:
            ArgumentsError: a metric is no number.
        """
        return Manifest(
            kind=kind,
            index=index,
            created=now(),
            run_id=self.run_id,
            save_number=self.saves + 1,
            metrics=plain_metrics(metrics),
            versions=versions(),
            parent=self._parent,
            optimizers=self._slot_names.of(parts, modules, self.optimizers),
        )


def index_in(path: str) -> int:
    """The index in a name, by our grammar or another tool's; 0 where there is none."""
    name = os.path.basename(path)
    if ours := naming.folder_name(name):  # which may have an extension
        return ours.index
    found = grammars.read(os.path.splitext(name)[0])
    if found is None:
        return 0
    return (found.epoch or 0) if found.step is None else found.step
