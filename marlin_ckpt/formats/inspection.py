"""What can be said of files without reading their data."""

import errno
import os
from collections.abc import Iterable
from typing import NamedTuple

from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import BadFileError
from marlin_ckpt.formats import layouts
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.registry import open_format
from marlin_ckpt.formats.verdicts import Status, status_of
from marlin_ckpt.storage.local.files import open_source
from marlin_ckpt.storage.local.store import open_store


class Inspection(NamedTuple):
    """One file of a directory, and what its structure tells.

    Attributes:
        entry: the file.
        status: what is said of it; None where it cannot be read.
        reason: why it is not complete, or cannot be read; "" where it is complete.
        manifest: ours, or None in a file by another tool.
    """

    entry: Entry
    status: Status | None
    reason: str = ""
    manifest: Manifest | None = None

    @property
    def intact(self) -> bool | None:
        """Whether the structure holds; None where it cannot tell, as where nothing proves the data."""
        if self.status is None or self.status is Status.UNVERIFIABLE:
            return None
        return self.status.is_sound

    @property
    def kind(self) -> str:
        """`checkpoint`, `model`, or `other` where neither manifest nor name tell."""
        if self.manifest is not None:
            return self.manifest.kind
        return "other" if self.entry.name is None else self.entry.name.kind


def inspect(entry: Entry) -> Inspection:
    """Looks at the structure of one checkpoint and at its manifest, not at its data."""
    try:
        if layout := layouts.of(entry):
            with open_store(entry.place) as store:
                return layout.inspect(store, entry)
        with open_source(entry.path) as source:
            found = open_format(source).inspect(source)
    except BadFileError as error:
        return Inspection(entry, status_of(error), error.what)
    except OSError as error:
        why = os.strerror(error.errno or errno.ENOENT)  # it has gone, where no system call says otherwise
        return Inspection(entry, None, f"cannot be read: {why}")
    return Inspection(entry, found.status, found.reason, found.manifest)


def survey(entries: Iterable[Entry]) -> list[Inspection]:
    """Inspects files one after the other, in the order given."""
    return [inspect(entry) for entry in entries]
