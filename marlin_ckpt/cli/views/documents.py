"""What `--json` prints: the keys are documented in the README and stable."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marlin_ckpt.directory.removing import Outcome, Removal
from marlin_ckpt.directory.retention.decide import Decision
from marlin_ckpt.directory.trash import Returned
from marlin_ckpt.formats.inspection import Inspection
from marlin_ckpt.formats.verdicts import Verdict
from marlin_ckpt.operations.salvage import Salvage
from marlin_ckpt.reports import SaveReport

if TYPE_CHECKING:  # these read values, with numpy
    from marlin_ckpt.formats.values.distance import Distance
    from marlin_ckpt.formats.values.tensor import Tensor
    from marlin_ckpt.operations.diff import Comparison, Difference
    from marlin_ckpt.operations.export import Exported


def inspection(one: Inspection) -> dict[str, Any]:
    """One file as `list --json` and `train --json` describe it."""
    manifest = one.manifest
    return {
        "path": one.entry.path,
        "index": one.entry.index,
        "kind": str(one.kind),
        "size_bytes": one.entry.size_bytes,
        "modified": _time(one.entry.modified_ns),
        "intact": one.intact,
        "reason": one.reason or None,
        "metrics": manifest.metrics if manifest else None,
        "run_id": manifest.run_id if manifest else None,
        "save_number": manifest.save_number if manifest else None,
        "created": manifest.created if manifest else None,
        "versions": manifest.versions if manifest else None,
    }


def _time(ns: int) -> str | None:
    try:
        return datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):  # beyond the year 9999, which some file systems hold
        return None


def save(one: SaveReport) -> dict[str, Any]:
    """One save as `train --json` describes it; times are in seconds."""
    return {
        "path": one.path,
        "index": one.index,
        "size_bytes": one.size_bytes,
        "stall_s": round(one.stall_s, 6),
        "copy_s": round(one.copy_s, 6),
        "write_s": round(one.write_s, 6),
        "sync_s": round(one.sync_s, 6),
        "bytes_per_s": round(one.bytes_per_s),
    }


def verdict(one: Verdict) -> dict[str, Any]:
    """One file as `verify --json` describes it."""
    return {
        "path": one.path,
        "status": str(one.status),
        "reason": one.reason or None,
        "tensors": list(one.tensors),
        "size_bytes": one.size_bytes,
    }


def salvage(found: Salvage, output: str) -> dict[str, Any]:
    """The document of `salvage --json`."""
    return {
        "path": found.path,
        "output": output,
        "records": len(found.intact),
        "lost": [{"record": one.record, "tensors": list(one.tensors)} for one in found.lost],
    }


def outcome(directory: str, done: Outcome, *, dry_run: bool, to_trash: bool = False) -> dict[str, Any]:
    """The document of `clean --json`."""
    return {
        "directory": directory,
        "dry_run": dry_run,
        "to_trash": to_trash,
        "removed": [removal(one) for one in done.removed],
        "failed": [{"path": one.path, "error": one.error} for one in done.failures],
        "bytes_freed": 0 if to_trash else done.bytes_freed,
    }


def removal(one: Removal) -> dict[str, Any]:
    """One file that has gone, or would."""
    return {"path": one.path, "size_bytes": one.size_bytes, "reason": one.reason}


def decision(one: Decision) -> dict[str, Any]:
    """One checkpoint as `clean --json` with rules describes it."""
    return {
        "path": one.candidate.path,
        "index": one.candidate.index,
        "size_bytes": one.candidate.size_bytes,
        "run_id": one.candidate.run_id or None,
        "keep": one.keep,
        "reasons": list(one.reasons),
    }


def returned(directory: str, done: Returned, *, dry_run: bool) -> dict[str, Any]:
    """The document of `clean --undo --json`."""
    return {
        "directory": directory,
        "dry_run": dry_run,
        "returned": [{"path": one.path, "size_bytes": one.size_bytes} for one in done.files],
        "failed": [{"path": one.path, "error": one.error} for one in done.failures],
    }


def comparison(paths: tuple[str, str], found: Comparison, *, with_same: bool) -> dict[str, Any]:
    """The document of `diff --json`."""
    told = [one for one in found.tensors if with_same or one.change != "same"]
    return {
        "paths": list(paths),
        "states": [state or None for state in found.states],
        "same": found.is_same,
        "counts": found.counts,
        "tensors": [_difference(one) for one in told],
        "layers": [
            {"name": one.name, "tensors": one.tensors, "changed": one.changed, **_distance(one.distance)}
            for one in found.layers
        ],
        "values": [
            {"name": one.name, "before": one.before or None, "after": one.after or None}
            for one in found.values
        ],
    }


def _difference(one: Difference) -> dict[str, Any]:
    told = {
        "name": one.name,
        "change": str(one.change),
        "before": _tensor(one.before),
        "after": _tensor(one.after),
    }
    return told if one.distance is None else {**told, **_distance(one.distance)}


def _tensor(one: Tensor | None) -> dict[str, Any] | None:
    return None if one is None else {"dtype": one.dtype, "shape": list(one.shape)}


def _distance(one: Distance) -> dict[str, Any]:
    return {
        "relative": one.relative,
        "maximum": one.maximum,
        "cosine": one.cosine,
        "differing": one.differing,
        "not_finite": one.not_finite,
    }


def exported(paths: Sequence[str], done: Exported) -> dict[str, Any]:
    """The document of `export --json` and `average --json`."""
    return {
        "paths": list(paths),
        "output": done.path,
        "state": done.state or None,
        "tensors": done.tensors,
        "size_bytes": done.size_bytes,
        "shared": done.shared,
        "left_out": list(done.left_out),
        "values_left_out": done.values_left_out,
        "became_infinite": done.became_infinite,
    }
