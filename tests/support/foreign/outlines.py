"""How a checkpoint is built, whatever its weights are called: to compare hand-made ones with real ones."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .made import Made

_WEIGHT = re.compile(r"(\.|^)(weight|bias|running_\w+|num_batches_tracked)$|^\d+$")
_ANYTHING = "anything"


def files(made: Made) -> set[str]:
    """The names of its files, with `N` for each number: there may be more shards, ranks and steps."""
    return {numbered(name) for name in made.files}


def numbered(name: str) -> str:
    """The name of a file with `N` for each number."""
    return re.sub(r"\d+", "N", name)


def outline(value: Any) -> Any:
    """The keys of a value and the types of what they hold, one for all weights and one for all of a list."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, one in value.items():
            name = "<weight>" if _WEIGHT.search(str(key)) else re.sub(r"\d+", "N", str(key))
            found[name] = _united(found.get(name), outline(one))
        return found
    if isinstance(value, (list, tuple)):
        kind: Any = None
        for one in value[:20]:
            kind = _united(kind, outline(one))
        return [kind]
    return None if value is None else type(value).__name__


def _united(one: Any, other: Any) -> Any:
    """What both have; None, which may stand for a value of any type, gives way."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _united(one.get(key), other.get(key)) for key in {**one, **other}}
    if isinstance(one, list) and isinstance(other, list):
        return [_united(one[0], other[0])]
    return one if one == other else _ANYTHING


def strange(ours: Any, real: Any, at: str = "") -> list[str]:
    """Where an outline has what the real one has not.

    Args:
        ours: Of the hand-made one.
        real: Of the real one.
        at: The keys that lead here.

    Returns:
        A line for each place.
    """
    if None in (ours, real) or _ANYTHING in (ours, real):
        return []
    if isinstance(ours, dict) and isinstance(real, dict):
        lines = [f"{at}: no {key!r} in {sorted(real)}" for key in ours.keys() - real.keys()]
        both = ours.keys() & real.keys()
        return lines + [line for key in both for line in strange(ours[key], real[key], f"{at}.{key}")]
    if isinstance(ours, list) and isinstance(real, list):
        return strange(ours[0], real[0], f"{at}[]")
    return [] if ours == real else [f"{at}: {ours} for {real}"]


def of_file(path: Path) -> Any:
    """The outline of one file by its kind; None of a text or a program."""
    if path.suffix == ".json":
        return outline(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as opened:
            return dict.fromkeys(opened.metadata() or {}, "str")
    if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt"):
        content = torch.load(path, weights_only=False)
        return outline(content if isinstance(content, Mapping) else vars(content))
    return None


class _Naming(pickle.Unpickler):
    """Reads a pickle and remembers what it names."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.named: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.named.add(f"{module}.{name}")
        return super().find_class(module, name)


def of_metadata(path: Path) -> dict[str, Any]:
    """Of a `.metadata` of DCP: what its pickle names, its fields, and what is said of each kind of entry."""
    reader = _Naming(path.read_bytes())
    metadata = reader.load()
    planned = (metadata.planner_data or {}).values()
    kinds = {name: type(one).__name__ for name, one in metadata.state_dict_metadata.items()}
    fields = vars(metadata)
    return {
        "names": {one for one in reader.named if not one.startswith(("torch.float", "torch.int"))},
        "fields": set(fields),
        "storage_meta": set(vars(fields["storage_meta"])) if fields.get("storage_meta") else None,
        "entries": {(_entry(name.split(".")), kind) for name, kind in kinds.items()},
        "paths": {tuple(_entry(str(one).split(".")) for one in path) for path in planned},
        "indices": {(kinds[one.fqn], one.offset is None, one.index is None) for one in metadata.storage_data},
        "stored": {key for one in metadata.storage_data.values() for key in one.__getstate__()},
    }


def _entry(parts: list[str]) -> str:
    """A name of DCP without the names of weights and numbers: `optimizer.state.<weight>.exp_avg`."""
    known = ("model", "state_dict", "optimizer", "optimizer_0", "state", "param_groups")
    ends = [number for number, part in enumerate(parts) if _WEIGHT.search(part) and not part.isdigit()]
    if not ends:
        return ".".join("N" if part.isdigit() else re.sub(r"_\d+$", "_N", part) for part in parts)
    begin = next(number for number, part in enumerate(parts) if part not in known)
    return ".".join([*parts[:begin], "<weight>", *parts[ends[-1] + 1 :]])
