"""What can be said of files without reading their data."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import BadFileError, UnknownFormatError
from marlin_ckpt.formats.manifest import Manifest
from marlin_ckpt.formats.zip.reader import has_checksums, read_listing, what_it_is
from marlin_ckpt.storage.local.files import open_source


@dataclass(frozen=True, slots=True)
class Inspection:
    """One file of a directory, and what its container tells.

    Attributes:
        entry: the file.
        manifest: ours, or None in a file by another tool.
        intact: whether the container's structure holds; None where it cannot tell (legacy files have none,
            and nothing proves the data of one that was saved without checksums).
        reason: why it is not intact, or cannot be told; "" where it is.
    """

    entry: Entry
    manifest: Manifest | None
    intact: bool | None
    reason: str = ""

    @property
    def kind(self) -> str:
        """`checkpoint`, `model`, or `other` where neither manifest nor name tell."""
        if self.manifest is not None:
            return self.manifest.kind
        return "other" if self.entry.name is None else self.entry.name.kind


def inspect(entry: Entry) -> Inspection:
    """Reads one file's container: its directory and its manifest, not its data."""
    try:
        with open_source(entry.path) as source:
            if what_it_is(source) == "legacy":
                return Inspection(entry, None, None, "a legacy torch file, which has no checksums")
            listing = read_listing(source)
        reason = "" if has_checksums(listing) else "saved without checksums"
        return Inspection(entry, listing.manifest, None if reason else True, reason)
    except UnknownFormatError as error:
        return Inspection(entry, None, None, error.what)
    except BadFileError as error:
        return Inspection(entry, None, intact=False, reason=error.what)
    except OSError as error:
        return Inspection(entry, None, None, f"cannot be read: {os.strerror(error.errno or 0)}")


def survey(entries: Iterable[Entry]) -> list[Inspection]:
    """Inspects files one after the other, in the order given."""
    return [inspect(entry) for entry in entries]
