"""What happened in the runs of a directory, as a report has it: runs, checkpoints, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

How = Literal["finished", "stopped", "failed", "killed", "running", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A process of a run: from its start to its end.

    Attributes:
        at: when it started, in UTC in ISO 8601.
        ended_at: when it ended, of one that was killed when it wrote last; None where it runs or that is not
            known.
        how: `finished`, `stopped` by a signal, `failed`, `killed` (it wrote no end), `running`, or `unknown`
            (it wrote no end, and is a process of another machine).
        error: what it failed with; "" otherwise.
        git_commit: of the repository that it was started in; "" where there is none.
        config_sha256: the digest of its configuration; "" where that is not known.
        versions: of marlin-ckpt, torch and Python.
        world_size: how many ranks trained; 0 where that is not known.
        resumed_from: the name of the checkpoint that it continued from; "" where it began anew.
        passed_over: newer checkpoints that it did not take, each with the reason.
    """

    at: str
    ended_at: str | None = None
    how: How = "unknown"
    error: str = ""
    git_commit: str = ""
    config_sha256: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    world_size: int = 0
    resumed_from: str = ""
    passed_over: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training, however often it was stopped and resumed.

    Attributes:
        run_id: its id; "" for all files whose run is not known.
        starts: its processes, the first one first; none of a run without a history.
    """

    run_id: str
    starts: tuple[Start, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A checkpoint, model file or folder that is in the directory, or was.

    Attributes:
        run_id: of the run that wrote it; "" where that is not known.
        name: relative to the directory.
        kind: `checkpoint`, `model`, `other`, or the layout of another tool's folder, such as `trainer`.
        index: that it was saved under; None where that is not known.
        save_number: which save of the run it was, from 1; 0 where that is not known.
        step: global steps that were done; None where that is not known.
        at: when it was written, in UTC in ISO 8601; "" where that is not known.
        size_bytes: its size in bytes.
        own_bytes: how many of these no other file shares on the disk; None where that is not known.
        is_there: whether the directory still has it.
        complete: whether its structure holds and nothing is missing; None where nothing says so, and of what
            is not there. The data is not read for this: only `verify` does that.
        reason: why it is not complete, or cannot be read; "" otherwise.
        metrics: names and numbers that it was saved with.
        stall_s: how long the training waited, in seconds; None, as the next three, where that is not known.
        copy_s: how long the copy in the background took.
        write_s: how long it took to hand the bytes to the system.
        sync_s: how long it then took until they were durable.
        removed_by: what removed it (`keep`, `clean`, or `save` where a later one took its name); "" where
            that is not known, and where it is there.
        removed_reason: why; "" as above.
        removed_at: when; "" as above.
        keeps: whether the rules keep it; None where there are no rules for it.
        reasons: of the rules, for that.
    """

    run_id: str = ""
    name: str = ""
    kind: str = "checkpoint"
    index: int | None = None
    save_number: int = 0
    step: int | None = None
    at: str = ""
    size_bytes: int = 0
    own_bytes: int | None = None
    is_there: bool = True
    complete: bool | None = None
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    stall_s: float | None = None
    copy_s: float | None = None
    write_s: float | None = None
    sync_s: float | None = None
    removed_by: str = ""
    removed_reason: str = ""
    removed_at: str = ""
    keeps: bool | None = None
    reasons: tuple[str, ...] = ()

    @property
    def is_state(self) -> bool:
        """Whether it is the state of a run, and no model file or file of another name."""
        return self.kind not in ("model", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoint:
    """Metrics at the end of an epoch.

    Attributes:
        run_id: of the run.
        epoch: which, from 0.
        step: global steps that were done.
        at: when, in UTC in ISO 8601.
        metrics: names and numbers.
    """

    run_id: str
    epoch: int
    step: int
    at: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that happened in a run beside its saves.

    Attributes:
        kind: `started`, `resumed`, `save failed`, `signal`, `ended`, or `damaged` (a checkpoint is).
        run_id: of the run.
        at: when, in UTC in ISO 8601; of damage when the checkpoint was written.
        what: in a few words; "" where the kind says it all.
        name: of the checkpoint; "" where it is about none.
        index: of the checkpoint; None where it is about none.
        step: global steps that were done; None where that is not known.
    """

    kind: str
    run_id: str
    at: str
    what: str = ""
    name: str = ""
    index: int | None = None
    step: int | None = None
