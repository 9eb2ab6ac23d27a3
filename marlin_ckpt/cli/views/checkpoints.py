"""The checkpoints in the documents of `list` and `train`."""

import datetime
from typing import Any

from marlin_ckpt.cli.views.facts import facts
from marlin_ckpt.formats.verdicts import Inspection
from marlin_ckpt.operations.listing.looking import Listing
from marlin_ckpt.storage.space import Taken


def document(listing: Listing) -> dict[str, Any]:
    """The document of `list --json`."""
    return {
        **facts(listing, "directory", "disk_bytes"),
        "checkpoints": [checkpoint(one, listing.taken.get(one.entry.path)) for one in listing.rows],
    }


def checkpoint(one: Inspection, taken: Taken | None) -> dict[str, Any]:
    """One file as the documents of `list` and `train` describe it.

    Args:
        one: the file.
        taken: what it takes on the disk; None where that is not known.
    """
    return {
        **facts(one.entry, "path", "index", "size_bytes"),
        **facts(taken, "own_bytes"),
        **facts(one, "kind", "complete"),
        "layout": one.entry.layout or None,
        "intact": None,  # which only `verify` can tell, since it reads the data
        "modified": _time(one.entry.modified_ns),
        "reason": one.reason or None,
        "metrics": dict(one.metrics) if one.manifest or one.metrics or one.entry.layout else None,
        **facts(one.manifest, "run_id", "save_number", "created", "versions"),
    }


def _time(ns: int) -> str | None:
    try:
        return datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):  # beyond the year 9999, which some file systems hold
        return None
