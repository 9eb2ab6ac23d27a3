"""Asks `torch.save` what a state must come back as, and our writer and reader what it comes back as."""

from __future__ import annotations

import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import torch

import marlin_ckpt
from marlin_ckpt import MarlinError, UnsavableStateError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.torch import writer as torch_writer
from marlin_ckpt.naming import Kind
from tests.support.descriptions import describe

MANIFEST = Manifest(
    kind=Kind.CHECKPOINT, index=7, created="2026-11-24T00:00:00Z", run_id="0123456789ab", save_number=1
)
# Every save syncs its file, which a disk takes some time for.
DIRECTORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
Writer = Callable[[str, Any], tuple[str, ...]]


def write(path: str, state: Any) -> tuple[str, ...]:
    """Writes with our writer; returns what `weights_only` will refuse."""
    return torch_writer.write_file(path, state, MANIFEST).refused


def read(path: str, *, weights_only: bool) -> Any:
    """Loads with the public function."""
    return marlin_ckpt.load(path, weights_only=weights_only)


LOADS: dict[str, Callable[[str], Any]] = {
    "torch": lambda path: torch.load(path, weights_only=False),
    "torch, weights_only": lambda path: torch.load(path, weights_only=True),
    "torch, to the CPU": lambda path: torch.load(path, map_location="cpu", weights_only=False),
    "torch, mmap": lambda path: torch.load(path, weights_only=False, mmap=True),
    "ours": lambda path: read(path, weights_only=False),
    "ours, weights_only": lambda path: read(path, weights_only=True),
}


def _outcome(load: Callable[[str], Any], path: str) -> tuple[str, Any]:
    try:
        state = load(path)
    except Exception as error:  # noqa: BLE001 - whatever torch raises for its own file is what must come
        return type(error).__name__, None
    return "loaded", describe(state)


def record_sizes(path: str) -> list[int]:
    """The sizes of the records that hold storages, in their order."""
    with zipfile.ZipFile(path) as archive:
        return [info.file_size for info in archive.infolist() if "/data/" in info.filename]


def differences(state: Any, writer: Writer = write) -> list[str]:
    """How what `writer` does with a state differs from what `torch.save` does with it; empty is well."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
        warnings.simplefilter("ignore")
        ours, theirs = os.path.join(directory, "ours.pt"), os.path.join(directory, "theirs.pt")
        try:
            torch.save(state, theirs)
        except Exception as error:  # noqa: BLE001 - a __reduce__ raises what it likes
            os.unlink(theirs)
            return _faults_of_refusal(state, writer, ours, error)
        try:
            refused = writer(ours, state)
        except MarlinError as error:
            return [f"torch.save takes it, we do not: {error}"]
        return _faults_of_file(ours, theirs, refused)


def _faults_of_refusal(state: Any, writer: Writer, path: str, reason: Exception) -> list[str]:
    try:
        writer(path, state)
    except UnsavableStateError:
        left = os.listdir(os.path.dirname(path))
        return [f"a refusal left {left}"] if left else []
    except Exception as error:  # noqa: BLE001 - the wrong one, which is to be told
        return [f"refused with {error!r}, torch.save with {reason!r}"]
    return [f"torch.save refuses it with {reason!r}, we take it"]


def _faults_of_file(ours: str, theirs: str, refused: tuple[str, ...]) -> list[str]:
    faults = []
    outcomes: dict[str, tuple[str, Any]] = {}
    for way, load in LOADS.items():
        outcomes[way], expected = _outcome(load, ours), _outcome(load, theirs)
        if outcomes[way] != expected:
            faults.append(f"{way}: {_first_difference(outcomes[way], expected)}")
        whole = outcomes["torch, to the CPU" if way.startswith("ours") else "torch"]
        if way == "torch, to the CPU":
            whole = on_the_cpu(*whole)
        if expected[0] == "loaded" == whole[0] and expected != whole:
            faults.append(f"{way} brings something else: {_first_difference(expected, whole)}")
    for way in ("", ", weights_only"):
        theirs_loads, ours_loads = (outcomes[name + way][0] == "loaded" for name in ("torch", "ours"))
        if theirs_loads != ours_loads:
            faults.append(f"torch loads it{way}: {theirs_loads}, our reader: {outcomes['ours' + way][0]}")
    # torch.save writes some states that nothing loads again; no name explains that.
    if outcomes["torch"][0] == "loaded" and bool(refused) == (outcomes["torch, weights_only"][0] == "loaded"):
        faults.append(f"weights_only: {outcomes['torch, weights_only'][0]}, but refused is {refused}")
    if record_sizes(ours) != record_sizes(theirs):
        faults.append(f"storages of {record_sizes(ours)} bytes, not {record_sizes(theirs)}")
    return faults


def on_the_cpu(how: str, lines: list[Any] | None) -> tuple[str, list[Any] | None]:
    """The outcome of a load, with the CPU in place of the devices that tensors and storages are on."""
    if lines is None:
        return how, lines
    return how, [tuple(map(_moved, line)) if isinstance(line, tuple) else line for line in lines]


def _moved(part: Any) -> Any:
    return torch.device("cpu") if isinstance(part, torch.device) and part.type != "meta" else part


def _first_difference(found: tuple[str, Any], expected: tuple[str, Any]) -> str:
    if found[0] != expected[0]:
        return f"{found[0]}, expected {expected[0]}"
    for number, (one, other) in enumerate(zip(found[1], expected[1], strict=False)):
        if one != other:
            return f"line {number}: {one}, expected {other}"
    return f"{len(found[1])} lines, expected {len(expected[1])}"
