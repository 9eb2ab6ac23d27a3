"""A module of a user's own, which a YAML file names by its import path."""

from __future__ import annotations

from pathlib import Path

import pytest


def run_of_its_own(
    directory: Path, monkeypatch: pytest.MonkeyPatch, source: str, trainer: str, args: str = "{}"
) -> None:
    """Goes to a directory and writes `run.yaml` there, which trains the class `Own` of a source, into `out`.

    Args:
        directory: an empty one; the module is named after it, since Python imports each name once.
        monkeypatch: which undoes the change of directory and of `sys.path`.
        source: of the module.
        trainer: the section of the YAML.
        args: of the class.
    """
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(directory)
    name = f"own_{directory.name}"
    Path(f"{name}.py").write_text(source)
    Path("run.yaml").write_text(
        f"module: {{name: '{name}:Own', args: {args}}}\n"
        f"trainer: {trainer}\n"
        "checkpointer: {save_dir: out, model_state_save_dir: null}\n"
    )
