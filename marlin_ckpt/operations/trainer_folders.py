"""The folders `checkpoint-N` of the Trainer of Transformers: which is the newest that a run can go on from.

Those that were saved with a manifest of ours are verified by it. The Trainer's own have no checksums as a
whole: of these all files must be there that a run needs, and each file that has checksums must hold them.
"""

import contextlib
import fnmatch
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.newest import is_passed_over
from marlin_ckpt.errors import CheckpointNotFoundError, CorruptCheckpointError, MarlinError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.formats import verification
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.verdicts import Status, Verdict
from marlin_ckpt.storage.local.files import doing
from marlin_ckpt.storage.local.store import open_store

STATE = "trainer_state.json"  # which the Trainer writes last
WEIGHTS = "the weights"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NAME = re.compile(r"checkpoint-([0-9]+)")
_CHECKED = (".bin", ".pt", ".pth", ".safetensors")
_logger = get_logger(__name__)


def folders(directory: str) -> list[str]:
    """The paths of the folders `checkpoint-N` in a run's directory, the greatest step first.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    with doing("cannot read", directory, "no such directory"):
        found = {name: int(match[1]) for name in os.listdir(directory) if (match := _NAME.fullmatch(name))}
    paths = (
        os.path.join(directory, name) for name in sorted(found, key=lambda one: found[one], reverse=True)
    )
    return [path for path in paths if os.path.isdir(path)]


def needed(*, save_only_model: bool) -> list[str]:
    """Patterns of the files without which a run would not go on as it would have, beside the weights.

    Args:
        save_only_model: whether the run saves no optimizer, as TrainingArguments has it.
    """
    # One for each process; but a run may go on with more processes than it had, or with fewer.
    return [STATE] if save_only_model else [STATE, "optimizer.pt", "scheduler.pt", "rng_state*.pth"]


def metrics_at(step: int, history: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What a Trainer has logged at a step, evaluations included.

    Args:
        step: the number of steps that were trained.
        history: `log_history` of the trainer's state.
    """
    rows = [row for row in history if row.get("step") == step]
    found = {key: value for row in rows for key, value in row.items() if key != "step"}
    return {key: value for key, value in found.items() if isinstance(value, (int, float))}


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
        CheckpointNotFoundError: there is no such folder.
        StorageError: it cannot be read.
    """
    if not os.path.isdir(path):
        raise CheckpointNotFoundError("no such checkpoint", path)
    names = _names(path)
    entry = catalog.entry(path)
    found = verification.verify(entry) if entry else _verify_without_manifest(path, names)
    if found.status.is_bad:
        return found
    shards = {shard for name in _INDEXES if name in names for shard in _shards(os.path.join(path, name))}
    if gone := missing(names, shards, needed):
        return found._replace(status=Status.INCOMPLETE, reason=f"without {', '.join(gone)}")
    return found


def _names(path: str) -> list[str]:
    """Of the files in a folder, their paths in it."""
    found = ((above, name) for above, _, files in os.walk(path) for name in files)
    return [os.path.relpath(os.path.join(above, name), path) for above, name in found]


def _verify_without_manifest(path: str, names: list[str]) -> Verdict:
    for name in sorted(names):
        member = os.path.join(path, name)
        if name.endswith(_CHECKED):
            found = verification.verify(member)
            if found.status.is_bad or found.status is Status.NOT_A_CHECKPOINT:
                return Verdict(path, Status.CORRUPT, f"{name}: {found.reason}", found.tensors)
        elif name in (STATE, *_INDEXES) and _read_json(member) is None:
            return Verdict(path, Status.CORRUPT, f"{name}: not JSON")
    return Verdict(path, Status.UNVERIFIABLE, "its files were saved without a manifest of checksums")


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


def newest(
    directory: str, needed: Collection[str], on_passed_over: Callable[[str, str], None]
) -> Verdict | None:
    """The newest folder that a run can go on from: intact, or, without a manifest, complete.

    Args:
        directory: the run's.
        needed: as for `verify`.
        on_passed_over: called with the path of each newer one, and the reason.

    Returns:
        the verdict on it; None where there is none.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it, or a folder, cannot be read; see `is_passed_over`.
    """
    for path in folders(directory):
        try:
            found = verify(path, needed)
        except MarlinError as error:
            if not is_passed_over(error) and not isinstance(error, CheckpointNotFoundError):
                raise
            on_passed_over(path, error.what)
            continue
        if not found.status.is_bad:
            return found
        on_passed_over(path, f"{found.status}: {found.reason}")
    return None


def start(directory: str, named: str, needed: Collection[str]) -> str | None:
    """Decides which folder a run goes on from; the log says what is odd about it, and what is passed over.

    Args:
        directory: the run's.
        named: the folder that the user named; "" for the newest one in the directory.
        needed: as for `verify`; a folder that is named may be without all that a run needs but its weights
            and the trainer's state, as those of `save_only_model` are.

    Returns:
        its path; None where there is no folder at all.

    Raises:
        CorruptCheckpointError: the one that is named is damaged or incomplete.
        CheckpointNotFoundError: there is none of that name, or none in the directory is intact.
        StorageError: one cannot be read.
    """
    if named:
        gone = missing(_names(named), (), needed)
        is_model = bool(gone) and set(gone) == {*needed} - {STATE}
        if is_model:
            _logger.warning("Only the model is in %s: its optimizer and random numbers begin anew.", named)
        found: Verdict | None = check(named, [STATE] if is_model else needed)
    elif not os.path.isdir(directory) or not folders(directory):
        return None
    else:
        found = newest(directory, needed, partial(_logger.warning, "Passed over %s: %s"))
    if found is None:
        what = "no checkpoint here can be resumed from"
        raise CheckpointNotFoundError(
            what, directory, "the log says why; without resuming, a run begins anew"
        )
    if found.status is Status.UNVERIFIABLE:
        _logger.warning("Nothing proves that %s is intact: %s", found.path, found.reason)
    return found.path


def check(path: str, needed: Collection[str]) -> Verdict:
    """Verifies a folder that is to be loaded.

    Raises:
        CorruptCheckpointError: it is damaged or incomplete; the hint names the newest one beside it that
            is not.
        CheckpointNotFoundError: there is no such folder.
        StorageError: it cannot be read.
    """
    found = verify(path, needed)
    if found.status.is_bad:
        other = newest(os.path.dirname(path.rstrip("/")) or os.curdir, needed, lambda *_: None)
        hint = f"resume from the newest that is not: {other.path}" if other else ""
        raise CorruptCheckpointError(f"{found.status}: {found.reason}", path, hint)
    return found


def manifest(path: str) -> Manifest | None:
    """What the manifest of a folder says; None where it has none."""
    entry = catalog.entry(path)
    return None if entry is None else inspect(entry).manifest


def surplus(paths: Sequence[str], limit: int, kept: Collection[str]) -> list[str]:
    """Which folders go so that no more than a number stay.

    Args:
        paths: of all, the oldest first.
        limit: how many stay, if so many are not kept anyway; none goes where it is 0 or less.
        kept: paths of those that stay whatever the limit.
    """
    free = [path for path in paths if path not in kept] if limit > 0 else []
    return free[: max(0, min(len(free), len(paths) - limit))]


def rotate(directory: str, limit: int, kept: Collection[str]) -> None:
    """Removes the oldest folders of a run, each in one instant; what cannot be removed is in the log.

    Args:
        directory: the run's.
        limit: see `surplus`.
        kept: paths of those that stay whatever the limit.

    Raises:
        StorageError: the directory cannot be read.
    """
    found = sorted(folders(directory), key=lambda path: (_written_s(path), len(path), path))
    stays = {os.path.realpath(path) for path in kept}
    with open_store(directory) as store:
        for path in surplus(found, limit, [one for one in found if os.path.realpath(one) in stays]):
            name = os.path.basename(path)
            try:
                if item := store.head(name):
                    store.remove(name, item.identity)
            except OSError as error:
                _logger.warning("Could not remove %s: %s", path, error.strerror or error)


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
