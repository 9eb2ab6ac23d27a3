"""What retention knows of each checkpoint: whether it counts, how old it is, and whether it is intact."""

from collections.abc import Iterable, Mapping

from marlin_ckpt.directory import catalog
from marlin_ckpt.directory.retention.decide import Candidate
from marlin_ckpt.entries import Entry, Identity
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.formats import layouts, verification
from marlin_ckpt.formats.inspection import inspect
from marlin_ckpt.formats.verdicts import Inspection, Status
from marlin_ckpt.naming import Kind
from marlin_ckpt.storage import space

_Seen = tuple[str, int, Identity]


class Survey:
    """Looks into checkpoints, and does not read again what it knows."""

    def __init__(self) -> None:
        self._inspections: dict[_Seen, Inspection] = {}
        self._verdicts: dict[_Seen, str] = {}  # why it is not intact; "" where it is

    def trust(self, path: str) -> None:
        """Takes a checkpoint for intact as it is now: this process has written and checked it."""
        if entry := catalog.entry(path):
            self._verdicts[_seen(entry)] = ""

    def know(self, found: Inspection) -> None:
        """Takes what a look at a checkpoint has found, so that it is not looked at again."""
        self._inspections[_seen(found.entry)] = found

    def candidate(
        self, entry: Entry, run_id: str | None, stay: Mapping[Identity, str], *, measures: bool
    ) -> Candidate:
        """A checkpoint as the rules see it.

        Args:
            entry: the checkpoint.
            run_id: of the run whose checkpoints count; None: any.
            stay: by device and inode, why something stays whatever the rules say.
            measures: whether the file system is asked what the checkpoint takes, which a file's defragmenting
                changes, so that it is asked each time.
        """
        seen = _seen(entry)
        if seen not in self._inspections:
            self._inspections[seen] = inspect(entry)
        found = self._inspections[seen]
        about = found.manifest
        return Candidate(
            path=entry.path,
            index=entry.index or 0,
            time_s=found.written_s,
            size_bytes=entry.size_bytes,
            metrics=dict(found.metrics),
            run_id=about.run_id if about else "",
            apart=_apart(found, run_id),
            pinned=stay.get(entry.item.same, ""),
            taken=space.taken(entry) if measures else None,
        )

    def why_not_intact(self, entry: Entry) -> str:
        """Reads a checkpoint whole; returns why it is not intact, or "".

        Raises:
            StorageError: it cannot be read.
        """
        seen = _seen(entry)
        if seen not in self._verdicts:
            try:
                verdict = verification.verify(entry)
            except CheckpointNotFoundError:
                return "it has vanished"
            # Nothing proves a folder of another tool, and what is missing or damaged would have been found.
            is_good = verdict.status.is_sound or (
                layouts.is_foreign(entry) and verdict.status is Status.UNVERIFIABLE
            )
            self._verdicts[seen] = "" if is_good else f"{verdict.status}: {verdict.reason}"
        return self._verdicts[seen]

    def forget_all_but(self, entries: Iterable[Entry]) -> None:
        """Keeps what is known of these alone."""
        there = {_seen(one) for one in entries}
        self._inspections = {seen: one for seen, one in self._inspections.items() if seen in there}
        self._verdicts = {seen: one for seen, one in self._verdicts.items() if seen in there}


def _apart(found: Inspection, run_id: str | None) -> str:
    about = found.manifest
    if found.entry.item.is_link:
        return "a symbolic link"
    if found.status is None or not found.status.is_sound:
        return f"corrupt: {found.reason}" if found.status is Status.CORRUPT else found.reason
    if about is not None and about.kind is not Kind.CHECKPOINT:
        return f"it holds a {about.kind}"
    if about is not None and about.lost:
        return "salvaged, with tensors lost"
    if run_id is None or (about is not None and about.run_id == run_id):
        return ""
    return "of no known run" if about is None else f"of another run, {about.run_id}"


def _seen(entry: Entry) -> _Seen:
    return entry.path, entry.size_bytes, entry.item.identity
