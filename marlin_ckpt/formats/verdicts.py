"""What can be said of a file: the verdicts, and what a look at it found."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import BadFileError, CorruptCheckpointError, UnknownFormatError
from marlin_ckpt.formats.manifest import Manifest


class Status(StrEnum):
    """The verdict on a file.

    `verify` reads the file in full and gives any of these but COMPLETE: INTACT (all checksums hold),
    UNVERIFIABLE (the structure holds, but the format has no checksums), REPACKED (undamaged, but packed in
    another way than its writer does), CORRUPT, INCOMPLETE, NOT_A_CHECKPOINT. COMPLETE means that only the
    structure was read, and nothing is missing.
    """

    INTACT = "intact"
    UNVERIFIABLE = "unverifiable"
    REPACKED = "repacked"
    CORRUPT = "corrupt"
    INCOMPLETE = "incomplete"
    NOT_A_CHECKPOINT = "not a checkpoint"
    COMPLETE = "complete"

    @property
    def is_sound(self) -> bool:
        """Whether nothing that was read is damaged or missing, and the format has checksums."""
        return self in (Status.INTACT, Status.REPACKED, Status.COMPLETE)

    @property
    def is_bad(self) -> bool:
        """Whether the file is a checkpoint that is damaged or has parts missing."""
        return self in (Status.CORRUPT, Status.INCOMPLETE)


def status_of(error: BadFileError) -> Status:
    """What is said of a file that cannot be read for such a reason."""
    if isinstance(error, UnknownFormatError):
        return Status.UNVERIFIABLE
    return Status.CORRUPT if isinstance(error, CorruptCheckpointError) else Status.NOT_A_CHECKPOINT


class Finding(NamedTuple):
    """What a format found of a file that is not bad.

    Attributes:
        status: INTACT, COMPLETE, REPACKED or UNVERIFIABLE.
        reason: why it is neither of the first two; "" where it is.
        manifest: ours, or None in a file by another tool.
    """

    status: Status
    reason: str = ""
    manifest: Manifest | None = None


class Inspection(NamedTuple):
    """One file of a directory, and what its structure tells.

    Attributes:
        entry: the file.
        status: what is said of it; None where it cannot be read.
        reason: why it is not complete, or cannot be read; "" where it is complete.
        manifest: ours, or None in a file by another tool.
        error: for which it is not complete; None where it is, or where that is another's verdict.
        tools_metrics: those that another tool keeps in its folder.
    """

    entry: Entry
    status: Status | None
    reason: str = ""
    manifest: Manifest | None = None
    error: BadFileError | None = None
    tools_metrics: Mapping[str, float] | None = None

    @property
    def metrics(self) -> Mapping[str, float]:
        """The names and numbers that it was saved with."""
        return (self.tools_metrics or {}) if self.manifest is None else self.manifest.metrics

    @property
    def complete(self) -> bool | None:
        """Whether the structure holds and nothing is missing; None where the structure cannot tell."""
        if self.status is None or self.status is Status.UNVERIFIABLE:
            return None
        return self.status.is_sound

    @property
    def written_s(self) -> float:
        """When it was written, in seconds since 1970: by its manifest, since a copy has another file time."""
        created_s = None if self.manifest is None else self.manifest.created_s()
        return self.entry.modified_ns / 1e9 if created_s is None else created_s

    @property
    def kind(self) -> str:
        """`checkpoint`, `model`, or `other` where neither manifest nor name tell."""
        if self.manifest is not None:
            return self.manifest.kind
        return "other" if self.entry.name is None else self.entry.name.kind


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One checkpoint of a directory, as its name and its manifest describe it.

    Attributes:
        path: the file or folder.
        index: the index in its name; None if there is none.
        kind: `checkpoint`, `model`, or `other` if neither manifest nor name says it.
        status: COMPLETE if its structure was read and nothing is missing, INTACT if all of it was read and is
            undamaged; None if it cannot be read.
        reason: why the status is another one, or why it cannot be read; else `""`.
        metrics: the names and numbers that it was saved with.
        created: when it was written, in UTC in ISO 8601; `""` without a manifest.
        run_id: the id of the run that wrote it; `""` without a manifest.
        size_bytes: its size in bytes; of a folder, of all its files together.
    """

    path: str
    index: int | None
    kind: str
    status: Status | None
    reason: str
    metrics: dict[str, float]
    created: str
    run_id: str
    size_bytes: int


def info_of(found: Inspection) -> CheckpointInfo:
    """What a look at a checkpoint found, as one value without the rest."""
    about, entry = found.manifest, found.entry
    created, run_id = ("", "") if about is None else (about.created, about.run_id)
    return CheckpointInfo(
        entry.path, entry.index, found.kind, found.status, found.reason, dict(found.metrics), created,
        run_id, entry.size_bytes,
    )  # fmt: skip


class Verdict(NamedTuple):
    """What was found by reading one file in full.

    Attributes:
        path: the file.
        status: the verdict.
        reason: where it is corrupt, why it is unverifiable, or what it is instead of a checkpoint; `""` if it
            is intact.
        tensors: the names of the tensors whose bytes are damaged, as far as the file still has names.
        size_bytes: its size in bytes.
        hint: what to do about it, or `""`.
    """

    path: str
    status: Status
    reason: str = ""
    tensors: tuple[str, ...] = ()
    size_bytes: int = 0
    hint: str = ""
