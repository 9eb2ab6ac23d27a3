"""What saves took, what loads found and what retention did: values that calls return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveReport:
    """A file that is durable, and how long its save took.

    Attributes:
        path: the file, or the folder of a transaction.
        is_model: whether it is a model file, not a checkpoint.
        index: the index that it was saved under.
        size_bytes: its size in bytes.
        stall_s: how long the caller waited, in seconds: in `save`, and before an optimizer's step for the
            copy.
        copy_s: how long the copy in the background took, in seconds; 0 if there was none.
        write_s: how long it took to hand the bytes to the system, in seconds.
        sync_s: how long it then took until they were durable under the file's name, in seconds.
        metrics: the names and numbers that it was saved with.
    """

    path: str
    is_model: bool
    index: int
    size_bytes: int
    stall_s: float
    copy_s: float
    write_s: float
    sync_s: float
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def bytes_per_s(self) -> float:
        """The rate of writing and syncing, in bytes per second."""
        return self.size_bytes / max(self.write_s + self.sync_s, 1e-9)

    def __str__(self) -> str:
        times = {"stall": self.stall_s, "copy": self.copy_s, "write": self.write_s, "sync": self.sync_s}
        told = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in times.items())
        return f"{self.path}: {self.size_bytes:,} bytes at {self.bytes_per_s / 1e9:.2f} GB/s; {told}"


@dataclass(frozen=True, slots=True)
class FailedSave:
    """A save that failed and that `on_save_error: warn` passed over.

    Attributes:
        path: the file that was to be written.
        error: why it was not, in words.
    """

    path: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What `load(..., into=..., strict=False)` loaded, and what it did not.

    Names are dotted, `model.layer.weight`: first the place of the state in the file, then the name in it. A
    state that is loaded as a whole, such as an optimizer's, is one name.

    Attributes:
        loaded: the names that were loaded.
        missing: names in `into` that the file does not have; they are unchanged.
        unexpected: names in the file that the module does not have.
        mismatched: names that both have but that do not fit, each with the reason; they are unchanged.
        state: what `load` returns without `strict=False`.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, str]
    state: Any = field(repr=False)

    @property
    def is_complete(self) -> bool:
        """Whether the file and the live objects have the same names, and all were loaded."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("missing", "unexpected", "mismatched")}
        return ", ".join([f"{len(self.loaded)} loaded", *(f"{n} {name}" for name, n in counts.items() if n)])


@dataclass(frozen=True, slots=True)
class Pruning:
    """What was removed from a directory, or with `dry_run` would be, and what stays. Keys are paths.

    Attributes:
        kept: the checkpoints that stay, each with the reasons.
        removed: the checkpoints that were removed, each with the reasons.
        failed: the checkpoints that could not be removed, each with the error.
    """

    kept: dict[str, tuple[str, ...]]
    removed: dict[str, tuple[str, ...]]
    failed: dict[str, str]
