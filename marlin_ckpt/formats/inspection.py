"""What can be said of files without reading their data."""

import contextlib
import errno
import os
from collections.abc import Iterable

from marlin_ckpt import naming
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import BadFileError, drop_frames
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.registry import open_format
from marlin_ckpt.formats.verdicts import Inspection, Status, status_of
from marlin_ckpt.storage.paths import open_source, open_store


def inspect(entry: Entry) -> Inspection:
    """Looks at the structure of one checkpoint and at its manifest, not at its data.

    An object of which a store has its manifest, in brief, is not opened for that: it is there as a whole, or
    not at all, and the store has compared its checksum.
    """
    if entry.item.about:
        with contextlib.suppress(BadFileError, ValueError):
            manifest = Manifest.from_json(entry.item.about.encode(), entry.path)
            return Inspection(entry, Status.COMPLETE, "", manifest)
    try:
        if layout := layouts.of(entry):
            with open_store(entry.place or os.curdir) as store:
                return layout.inspect(store, entry)
        with open_source(entry.path) as source:
            found = open_format(source).inspect(source)
    except BadFileError as error:
        drop_frames(error)
        return Inspection(entry, status_of(error), error.what, error=error)
    except OSError as error:
        why = os.strerror(error.errno or errno.ENOENT)  # it has gone, where no system call says otherwise
        return Inspection(entry, None, f"cannot be read: {why}")
    return Inspection(
        entry, found.status, found.reason, found.manifest,
        tools_metrics=None if found.manifest else _metrics_in_name(entry),
    )  # fmt: skip


def _metrics_in_name(entry: Entry) -> dict[str, float] | None:
    from marlin_ckpt import grammars  # noqa: PLC0415 - files of ours go without

    return grammars.metrics(naming.split_extension(os.path.basename(entry.item.name))[0]) or None


def metric_names(found: Iterable[Inspection]) -> list[str]:
    """The names of the metrics that any of these checkpoints has, sorted."""
    return sorted({name for one in found for name in one.metrics})
