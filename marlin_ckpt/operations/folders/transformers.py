"""The folders `checkpoint-N` of the Trainer of Transformers: which is the newest that a run can go on from.

Those that were saved with a manifest of ours are verified by it. The Trainer's own have no checksums as a
whole: of these all files must be there that a run needs, and each file that has checksums must hold them.
"""

import contextlib
import fnmatch
import json
import os
import re
from collections.abc import Collection, Sequence
from typing import Any

from marlin_ckpt.directory import catalog
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.formats import layouts, verification
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.layouts.trainer import STATE, metrics_at
from marlin_ckpt.formats.verdicts import Status, Verdict
from marlin_ckpt.operations.folders import numbered
from marlin_ckpt.operations.folders.numbered import Choice
from marlin_ckpt.storage.local.files import doing

__all__ = [
    "STATE",
    "check",
    "lift",
    "metrics_at",
    "missing",
    "needed",
    "rotate",
    "start",
    "surplus",
    "verify",
]

WEIGHTS = "the weights"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NAME = re.compile(r"checkpoint-([0-9]+)")
_logger = get_logger(__name__)


def needed(*, save_only_model: bool) -> list[str]:
    """Patterns of the files without which a run would not go on as it would have, beside the weights.

    Args:
        save_only_model: whether the run saves no optimizer, as TrainingArguments has it.
    """
    # One for each process; but a run may go on with more processes than it had, or with fewer.
    return [STATE] if save_only_model else [STATE, "optimizer.pt", "scheduler.pt", "rng_state*.pth"]


def missing(names: Collection[str], shards: Collection[str], needed: Collection[str]) -> list[str]:
    """What a run cannot go on without, and a folder does not hold.

    Args:
        names: of the files in the folder, by their paths in it.
        shards: the names that its index of weights lists.
        needed: patterns of what is needed beside the weights.

    Returns:
        the names and patterns, and "the weights" where there are none by any name.
    """
    # Each of several PEFT adapters has a folder of its own.
    weights = {name.rpartition("/")[2] for name in names if name.count("/") < 2}  # noqa: PLR2004 - one deep
    gone = [WEIGHTS] if weights.isdisjoint(_WEIGHTS + _INDEXES) else []
    gone += [name for name in sorted(set(shards)) if name not in names]
    return gone + [pattern for pattern in needed if not fnmatch.filter(names, pattern)]


def verify(path: str, needed: Collection[str]) -> Verdict:
    """Reads a folder whole and compares all checksums that it has.

    Args:
        path: of the folder.
        needed: patterns of the files that a run cannot go on without, beside the weights.

    Raises:
        StorageError: it cannot be read.
    """
    names = numbered.files_in(path)
    entry = catalog.entry(path)
    is_ours = entry is not None and not layouts.is_foreign(entry)
    found = verification.verify(entry) if entry and is_ours else _verify_without_manifest(path, names)
    if found.status.is_bad:
        return found
    shards = {shard for name in _INDEXES if name in names for shard in _shards(os.path.join(path, name))}
    if gone := missing(names, shards, needed):
        return found._replace(status=Status.INCOMPLETE, reason=f"without {', '.join(gone)}")
    return found


def _verify_without_manifest(path: str, names: list[str]) -> Verdict:
    for name in (STATE, *_INDEXES):
        if name in names and _read_json(os.path.join(path, name)) is None:
            return Verdict(path, Status.CORRUPT, f"{name}: not JSON")
    return numbered.verify_files(path, names)


def _shards(path: str) -> list[str]:
    found = _read_json(path)
    weights = found.get("weight_map") if isinstance(found, dict) else None
    return [str(name) for name in weights.values()] if isinstance(weights, dict) else []


def _read_json(path: str) -> Any:
    with doing("cannot read", path), open(path, "rb") as file:
        data = file.read()
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def start(directory: str, named: str, needed: Collection[str]) -> Choice | None:
    """Decides which folder a run goes on from; the log says what is odd about it, and what is passed over.

    Args:
        directory: the run's.
        named: the folder that the user named; "" for the newest one in the directory.
        needed: as for `verify`; a folder that is named may be without all that a run needs but its weights
            and the trainer's state, as those of `save_only_model` are.

    Returns:
        it, and what is passed over for it; None where there is no folder at all.

    Raises:
        CorruptCheckpointError: the one that is named is damaged or incomplete; or all are in the directory.
        CheckpointNotFoundError: there is none of that name.
        StorageError: one cannot be read.
    """
    if named:
        gone = missing(numbered.files_in(named), (), needed)
        is_model = bool(gone) and set(gone) == {*needed} - {STATE}
        if is_model:
            _logger.warning("Only the model is in %s: its optimizer and random numbers begin anew.", named)
        return check(named, [STATE] if is_model else needed)
    if not numbered.folders(directory, _NAME):
        return None
    return numbered.start(directory, _NAME, lambda path: verify(path, needed))


def check(path: str, needed: Collection[str]) -> Choice:
    """Verifies a folder that is to be loaded.

    Returns:
        its path; no other is passed over for it.

    Raises:
        CorruptCheckpointError: it is damaged or incomplete; the hint names the newest one beside it that
            is not.
        CheckpointNotFoundError: there is no such folder.
        StorageError: it cannot be read.
    """
    return numbered.check(path, _NAME, lambda one: verify(one, needed))


def surplus(paths: Sequence[str], limit: int, kept: Collection[str]) -> list[str]:
    """Which folders go so that no more than a number stay.

    Args:
        paths: of all, the oldest first.
        limit: how many stay, if so many are not kept anyway; none goes where it is 0 or less.
        kept: paths of those that stay whatever the limit.
    """
    free = [path for path in paths if path not in kept] if limit > 0 else []
    return free[: max(0, min(len(free), len(paths) - limit))]


def rotate(directory: str, limit: int, kept: Collection[str]) -> list[tuple[str, int]]:
    """Removes the oldest folders of a run, each in one instant; what cannot be removed is in the log.

    Args:
        directory: the run's.
        limit: see `surplus`.
        kept: paths of those that stay whatever the limit.

    Returns:
        the paths of what has gone, with the sizes in bytes.

    Raises:
        StorageError: the directory cannot be read.
    """
    found = sorted(numbered.folders(directory, _NAME), key=lambda path: (_written_s(path), len(path), path))
    stays = {os.path.realpath(path) for path in kept}
    return numbered.remove(surplus(found, limit, [one for one in found if os.path.realpath(one) in stays]))


def lift(folder: str) -> None:
    """Moves all that is in a folder to the one that it is in, and removes it."""
    for name in os.listdir(folder):
        os.rename(os.path.join(folder, name), os.path.join(os.path.dirname(folder), name))
    os.rmdir(folder)


def _written_s(path: str) -> float:
    """When a folder was written, by its manifest, since a copy has another time."""
    entry = catalog.entry(path)
    if entry is not None:
        return inspect(entry).written_s
    with contextlib.suppress(OSError):
        return os.stat(path).st_mtime
    return 0.0
