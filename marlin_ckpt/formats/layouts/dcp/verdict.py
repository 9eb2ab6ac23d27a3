"""The verdict on a folder of torch's Distributed Checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marlin_ckpt.errors import CorruptCheckpointError, NotACheckpointError
from marlin_ckpt.formats.layouts import judgement
from marlin_ckpt.formats.layouts.dcp import checking
from marlin_ckpt.formats.layouts.dcp.faults import Faults, faults_in
from marlin_ckpt.formats.layouts.dcp.saved import METADATA, SHARD, Saved, metadata_files, read_saved
from marlin_ckpt.formats.layouts.parts import Makeup, listed
from marlin_ckpt.formats.verdicts import Status, Verdict

if TYPE_CHECKING:
    from marlin_ckpt.formats.layouts.members import Folder
    from marlin_ckpt.formats.zip.records import OnBytes

_MOST_SAID = 8  # sentences of what is wrong


def verify(folder: Folder, found: Makeup, on_bytes: OnBytes) -> Verdict:
    """Reads a folder whole, and compares it with all that it says of itself.

    Args:
        folder: the checkpoint.
        found: what lies beside its shards.
        on_bytes: told, from several threads, how many more bytes have been read.

    Raises:
        UnsafeCheckpointError: its metadata names what none has.
        StorageError: a file cannot be read.
    """
    files = metadata_files(folder)
    read = {name for name in folder.items if name.endswith((METADATA, SHARD))}
    if not files:
        return judgement.judge(folder, found, on_bytes, read)
    try:
        saved = read_saved(folder)
    except (CorruptCheckpointError, NotACheckpointError) as error:
        found.wrong.insert(0, f"{listed(files)}: {error.what}")
        return judgement.judge(folder, found, on_bytes, read)
    faults = faults_in(saved, folder.items)
    digests = checking.stated_digests(folder, found.wrong)
    summed = _compare_digests(folder, digests or {}, found, on_bytes)
    unreadable = faults.unreadable | {one for one in saved.items if one.place.file in summed}
    read |= summed
    checked = checking.check(folder, saved, unreadable, on_bytes)
    found.missing = _some([*found.missing, *faults.missing])
    found.wrong = _some([*found.wrong, *faults.wrong, *checked.wrong])
    found.notes = _some([*found.notes, *faults.notes])
    verdict = judgement.judge(folder, found, on_bytes, read)
    if verdict.status.is_bad:
        names = (*faults.names, *checked.names, *verdict.tensors)
        return verdict._replace(tensors=tuple(dict.fromkeys(names)))
    if digests is not None and summed >= {*folder.items} - {checking.INTEGRITY}:
        return Verdict(folder.path, Status.INTACT)
    return verdict._replace(reason=_reason(saved, faults, checked.unsummed))


def _compare_digests(folder: Folder, digests: dict[str, str], found: Makeup, on_bytes: OnBytes) -> set[str]:
    """Compares files with their SHA-256; returns those that were."""
    there = {name: one for name, one in digests.items() if name in folder.items}
    if lost := sorted({*digests} - {*there}):
        found.missing.append(f"{listed([one[:100] for one in lost])}, by {checking.INTEGRITY}, is missing")
    bad = checking.differing_files(folder, there, on_bytes)
    if bad:
        found.wrong.append(f"the SHA-256 of {listed(bad)} is not that in {checking.INTEGRITY}")
    return {*there}


def _some(sentences: list[str]) -> list[str]:
    more = len(sentences) - _MOST_SAID
    return [*sentences[:_MOST_SAID], *([f"and {more} more of the kind"] if more > 0 else [])]


def _reason(saved: Saved, faults: Faults, unsummed: int) -> str:
    number = len(saved.tensors)
    held = (
        f"the checksums of all {number:,} tensors hold" if number != 1 else "the checksum of its tensor holds"
    )
    if unsummed:
        held = f"{unsummed:,} of its {len(saved.items):,} items have no checksum that is read here"
    tied = f"{METADATA} has none, and nothing in the shards says which save they are of"
    return "; ".join([f"{held}; {tied}", *faults.notes])
