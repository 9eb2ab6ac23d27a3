"""What the public names are made of: every type in a signature can be imported, every value pickled."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

import marlin_ckpt
from marlin_ckpt import CheckpointDirectory, LoadReport

CALLABLES = [name for name in marlin_ckpt.__all__ if callable(getattr(marlin_ckpt, name))]


def _named(hint: object) -> set[type]:
    """The classes of ours in an annotation, at any depth."""
    parts = set().union(*map(_named, typing.get_args(hint))) if typing.get_args(hint) else set()
    if isinstance(hint, (list, tuple)):  # the arguments of a Callable
        parts |= set().union(*map(_named, hint)) if hint else set()
    is_ours = isinstance(hint, type) and hint.__module__.startswith("marlin_ckpt.")
    return parts | ({hint} if is_ours else set())


def _signatures(thing: object) -> list[object]:
    """What is annotated: the function itself, or the public methods, properties and fields of a class."""
    if not isinstance(thing, type):
        return [thing]
    found: list[object] = [thing] if dataclasses.is_dataclass(thing) or hasattr(thing, "_fields") else []
    for name, value in vars(thing).items():
        if name.startswith("_") and name not in ("__init__", "__iter__"):
            continue
        if isinstance(value, (staticmethod, classmethod)):
            found.append(value.__func__)
        elif isinstance(value, property):
            found.append(value.fget)
        elif inspect.isfunction(value):
            found.append(inspect.unwrap(value))
    return found


@pytest.mark.parametrize("name", CALLABLES)
def test_every_type_of_ours_in_a_public_signature_can_be_imported_from_the_top(name):
    types: set[type] = set()
    for one in _signatures(getattr(marlin_ckpt, name)):
        for hint in typing.get_type_hints(one).values():
            types |= _named(hint)
    public = {getattr(marlin_ckpt, one) for one in marlin_ckpt.__all__}
    assert {one.__qualname__ for one in types if not one.__name__.startswith("_")} <= {
        one.__qualname__ for one in public if isinstance(one, type)
    }


def test_what_calls_return_survives_pickle(tmp_path):
    model = torch.nn.Linear(2, 2)
    directory = CheckpointDirectory(tmp_path / "run", keep=1)
    report = directory.save({"model": model}, 1, metrics={"loss": 1.0})
    assert report is not None
    loaded = directory.load(into={"model": model}, strict=False)
    assert isinstance(loaded, LoadReport)
    values = [
        report,
        dataclasses.replace(loaded, state=None),
        marlin_ckpt.verify(report.path),
        marlin_ckpt.inspect(report.path),
        directory.latest(),
        directory.prune(dry_run=True),
    ]
    # By their texts: the nodes of a tree are equal only to themselves.
    assert [repr(pickle.loads(pickle.dumps(one))) for one in values] == [*map(repr, values)]


def test_a_file_of_uses_passes_the_strictest_check_of_types(repository: Path):
    command = [sys.executable, "-m", "mypy", "--strict", "tests/typing/uses.py"]
    done = subprocess.run(command, cwd=repository, check=False, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "Success: no issues found in 1 source file\n"), done.stderr


def test_the_file_of_uses_names_each_function_and_each_class_of_the_own_api(repository: Path):
    text = (repository / "tests/typing/uses.py").read_text()
    own = ["save", "load", "verify", "inspect", "Saver", "CheckpointDirectory", "SaveReport", "LoadReport"]
    assert [name for name in own if not re.search(rf"\b{name}\b", text)] == []
