"""What makes a folder hostile: each function gives a change that is done to a sound folder."""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

INDEX = "model.safetensors.index.json"
MODEL = "model.safetensors"
SECRET = "top_secret"  # in the name of the tensor of a file that is in no folder
DEEP = 1_000
Change = Callable[[Path], object]


class Runs:
    """Unpickling it would leave a file where the commands run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def secret_of(folder: Path) -> Path:
    """A sound file of weights beside a folder, which no link and no name in the folder may reach."""
    path = folder.parent / "outside.safetensors"
    if not path.exists():
        save_file({SECRET: torch.ones(3)}, path)
    return path


def mapped(file: str | Callable[[Path], object]) -> Change:
    """An index that places a tensor in some file."""

    def change(folder: Path) -> None:
        place = file if isinstance(file, str) else str(file(folder))
        secret_of(folder)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": MODEL, "b": place}}))

    return change


def written(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def linked(name: str, target: str | Callable[[Path], object]) -> Change:
    """A link in place of a file or a folder."""

    def change(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            path.rename(folder.parent / "moved out")
        else:
            path.unlink(missing_ok=True)
        os.symlink(target if isinstance(target, str) else str(target(folder)), path)

    return change


def node(name: str, make: Callable[[str], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        before = os.getcwd()
        os.chdir(folder)  # the path of a socket has at most 108 bytes
        make(name)
        os.chdir(before)

    return change


def bound(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(name)


def sparse(name: str) -> Change:
    def change(folder: Path) -> None:
        with open(folder / name, "wb") as file:
            file.truncate(1 << 40)

    return change


def state(**values: Any) -> Change:
    """Other values in the Trainer's state."""

    def change(folder: Path) -> None:
        path = folder / "trainer_state.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}))

    return change


def nested(folder: Path) -> None:
    """Folders in folders, further down than a path may be long."""
    before = os.getcwd()
    os.chdir(folder)
    for _ in range(DEEP):
        os.mkdir("deeper")
        os.chdir("deeper")
    os.chdir(before)


def many(folder: Path) -> None:
    shards = {f"t{number}": f"model-{number:07d}.safetensors" for number in range(1_000_000)}
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))


def named(*names: bytes) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            os.link(folder / MODEL, os.path.join(os.fsencode(folder), name))

    return change


def code(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes(pickle.dumps({"a": Runs()}, protocol=4))


def zipped_code(name: str) -> Change:
    return lambda folder: torch.save({"a": Runs()}, folder / name)
