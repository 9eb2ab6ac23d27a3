"""What saves took, what loads found and what retention did: values that calls return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveReport:
    """A file that is durable, and what it took, in seconds.

    Attributes:
        path: its path.
        is_model: whether it is a model file, not a checkpoint.
        index: what it was saved under.
        size_bytes: its length.
        stall_s: how long the caller waited: for `save`, and before an optimizer's step for the copy.
        copy_s: how long the copy took that was made in the background; 0 where there was none.
        write_s: how long it took to hand the bytes to the system.
        sync_s: how long it then took until they were durable under the file's name.
        metrics: names and values that it was saved with.
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
        """The rate from the first byte written to durable."""
        return self.size_bytes / max(self.write_s + self.sync_s, 1e-9)

    def __str__(self) -> str:
        times = {"stall": self.stall_s, "copy": self.copy_s, "write": self.write_s, "sync": self.sync_s}
        told = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in times.items())
        return f"{self.path}: {self.size_bytes:,} bytes at {self.bytes_per_s / 1e9:.2f} GB/s; {told}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What `load(..., into=..., strict=False)` has loaded, and what it has not.

    Names are dotted, `model.layer.weight`: where the file has the state, then the name in it. A state that is
    loaded as a whole, such as an optimizer's, is one name.

    Attributes:
        loaded: what the live objects hold now.
        missing: in `into`, but not in the file; it is as it was.
        unexpected: in the file's state of a module, but not in the module.
        mismatched: in both, but it does not fit; it is as it was. The reason by the name.
        state: what the strict call would have returned: the live objects in their places, and all else as it
            was saved.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, str]
    state: Any = field(repr=False)

    @property
    def is_complete(self) -> bool:
        """Whether the file and the live objects have the same names, and all was loaded."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("missing", "unexpected", "mismatched")}
        return ", ".join([f"{len(self.loaded)} loaded", *(f"{n} {name}" for name, n in counts.items() if n)])


@dataclass(frozen=True, slots=True)
class Pruning:
    """What became of the checkpoints of a directory, or with `dry_run` would become, by their paths.

    Attributes:
        kept: those that stay, each with the reasons.
        removed: those that have gone, each with the reasons.
        failed: those that could not be removed, each with what went wrong.
    """

    kept: dict[str, tuple[str, ...]]
    removed: dict[str, tuple[str, ...]]
    failed: dict[str, str]
