"""Checkpoints that are folders of the user's files, and what is in a directory of them."""

from __future__ import annotations

import os
from pathlib import Path

from marlin_ckpt.directory.transaction import Transaction
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.naming import Kind
from marlin_ckpt.storage.local import temporary


def about(index: int = 500, run_id: str = "run", **fields) -> Manifest:
    """A manifest without its records."""
    created = "2026-11-01T00:00:00.000Z"
    return Manifest(
        kind=Kind.CHECKPOINT,
        index=index,
        created=created,
        run_id=run_id,
        **{"save_number": 1, "metrics": {"loss": 0.5}, **fields},
    )


def fill(folder: str | Path, files: dict[str, bytes]) -> None:
    """Writes files, by their paths in a folder."""
    for name, data in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def save(directory: str | Path, name: str, files: dict[str, bytes], index: int = 500) -> Transaction:
    """Saves files as a folder."""
    transaction = Transaction(directory, name, manifest=about(index))
    with transaction as folder:
        fill(folder, files)
    return transaction


def read_all(directory: str | Path) -> dict[str, bytes]:
    """The bytes of all files below a directory, by their paths in it."""
    found = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def staged(directory: str | Path) -> list[str]:
    """The temporary names in a directory."""
    return [name for name in os.listdir(directory) if temporary.is_temporary(name)]
