"""States in files, as torch.save writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def write_state(directory: Path, state: Any, name: str = "source.pt") -> Path:
    """Writes a state to a file of a name."""
    torch.save(state, directory / name)
    return directory / name


def write_states(directory: Path, *states: Any) -> list[Path]:
    """Writes states to files that are numbered."""
    return [write_state(directory, state, f"{number}.pt") for number, state in enumerate(states)]
