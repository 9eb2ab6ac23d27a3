"""The statistics of tensors, from their values."""

from __future__ import annotations

from pathlib import Path

from marlin_ckpt import Statistics
from marlin_ckpt.formats.values.distribution import checked_distributions
from marlin_ckpt.operations.one import opened


def computed(path: Path) -> dict[str, Statistics]:
    """Those of all tensors of a checkpoint, by their names."""
    with opened(str(path)) as file:
        return {one.tensor.name: one.statistics for one in checked_distributions(file, file.contents.tensors)}
