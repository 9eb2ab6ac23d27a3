"""What happens in a run, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from marlin_ckpt.formats.manifest import json_ready
from marlin_ckpt.formats.times import now, seconds_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a run.

    Attributes:
        kind: what, as the line has it.
        run_id: of the run.
        at: when, in UTC in ISO 8601, to the millisecond.
    """

    kind: ClassVar[str] = ""

    run_id: str = ""
    at: str = field(default_factory=now)

    def at_s(self) -> float | None:
        """`at` in seconds since 1970; None if it is not a time."""
        return seconds_of(self.at)

    def facts(self) -> dict[str, Any]:
        """All but the kind, the time and the run, by name, as JSON has them."""
        own = (one.name for one in fields(self) if one.name not in ("at", "run_id"))
        return {name: json_ready(_plain(getattr(self, name))) for name in own}


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """A process began to train, or to save.

    Attributes:
        by: what trains or saves: `Trainer`, which also writes how the run ended; `CheckpointDirectory`,
            `Saver`, `save`, or the adapter to another tool, by the tool's name.
        config_sha256: the digest of what the run was configured by; "" where that is not known.
        git_commit: the commit of the repository that the working directory is in; "" where it is in none.
        versions: the versions of marlin-ckpt, torch and Python.
        world_size: how many ranks train.
        keep: the rules of retention, as YAML has them.
    """

    kind: ClassVar[str] = "started"

    by: str = ""
    config_sha256: str = ""
    git_commit: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    world_size: int = 1
    keep: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """A process took a checkpoint up.

    Attributes:
        name: the name of the checkpoint, relative to the directory, or its path where it is elsewhere.
        index: the index of the checkpoint.
        parent_run_id: the run that wrote it; "" where that is not known.
        parent_save_number: which save of that run it was; 0 where that is not known.
        passed_over: newer checkpoints that were not taken, each with the reason.
    """

    kind: ClassVar[str] = "resumed"

    name: str = ""
    index: int = 0
    parent_run_id: str = ""
    parent_save_number: int = 0
    passed_over: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Event):
    """Metrics at the end of an epoch.

    Attributes:
        epoch: which epoch, from 0.
        step: the global steps that were done.
        metrics: names and numbers.
    """

    kind: ClassVar[str] = "measured"

    epoch: int = 0
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Event):
    """A checkpoint or model file became durable.

    Attributes:
        name: the name of the file or folder, relative to the directory, or its path where it is elsewhere.
        is_model: whether it is a model file.
        index: the index that it was saved under.
        save_number: which save of the run it was, from 1; 0 where that is not known.
        step: the global steps that were done; -1 where that is not known.
        size_bytes: its size in bytes.
        stall_s: how long the caller waited, in seconds.
        copy_s: how long the copy in the background took, in seconds.
        write_s: how long it took to hand the bytes to the system, in seconds.
        sync_s: how long it then took until they were durable, in seconds.
        metrics: names and numbers that it was saved with.
    """

    kind: ClassVar[str] = "saved"

    name: str = ""
    is_model: bool = False
    index: int = 0
    save_number: int = 0
    step: int = -1
    size_bytes: int = 0
    stall_s: float = 0.0
    copy_s: float = 0.0
    write_s: float = 0.0
    sync_s: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveFailed(Event):
    """A save failed; what had the name before stands.

    Attributes:
        name: the name that it was to have, relative to the directory, or its path where it is elsewhere.
        index: the index that it was to be saved under.
        error: why, in words.
    """

    kind: ClassVar[str] = "save failed"

    name: str = ""
    index: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed(Event):
    """A checkpoint was removed.

    The run is the one that removed it; "" where no run did.

    Attributes:
        name: the name of the checkpoint, relative to the directory.
        index: the index of the checkpoint; -1 where its name has none.
        size_bytes: its size in bytes.
        reason: why it went.
        by: what removed it: `keep` in a run, `overwrite` where a run began anew, `clean`,
            `clean --to-trash`, `prune`, or another tool, by its name.
    """

    kind: ClassVar[str] = "removed"

    name: str = ""
    index: int = -1
    size_bytes: int = 0
    reason: str = ""
    by: str = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtBack(Event):
    """A checkpoint that `clean --to-trash` removed has its name again.

    Attributes:
        name: the name of the checkpoint, relative to the directory.
        index: the index of the checkpoint; -1 where its name has none.
        size_bytes: its size in bytes.
    """

    kind: ClassVar[str] = "brought back"

    name: str = ""
    index: int = -1
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled(Event):
    """A signal asked the run to save, or to save and stop.

    Attributes:
        signal: the name of the signal, such as SIGTERM.
        step: the global steps that were done; -1 where that is not known.
    """

    kind: ClassVar[str] = "signal"

    signal: str = ""
    step: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Event):
    """A trainer of ours stopped. A run that was killed, and one of another loop, has no such event.

    Attributes:
        how: `finished`, `stopped` by a signal, or `failed`.
        error: what it failed with, in words; "" otherwise.
        epochs: how many epochs are finished.
        step: the global steps that were done.
    """

    kind: ClassVar[str] = "ended"

    how: str = "finished"
    error: str = ""
    epochs: int = 0
    step: int = 0


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


KINDS: dict[str, type[Event]] = {
    one.kind: one
    for one in (Started, Resumed, Measured, Saved, SaveFailed, Removed, BroughtBack, Signalled, Ended)
}
