"""The layout `folder`: files of the user's, or of another tool, that a manifest of ours lists with CRC32s.

`directory.transaction` writes such folders; any name will do. This module is imported by commands that read
names alone, and imports what reads content when it is needed.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from marlin_ckpt.errors import CorruptCheckpointError, UnknownFormatError
from marlin_ckpt.formats.layouts.layout import Layout, foreign_name
from marlin_ckpt.naming import EXTENSIONS, MANIFEST, FileName, folder_name
from marlin_ckpt.storage.store import levels_below

if TYPE_CHECKING:
    from marlin_ckpt.entries import Entry
    from marlin_ckpt.formats.content.contents import Contents
    from marlin_ckpt.formats.layouts.layout import Names
    from marlin_ckpt.formats.manifest import Manifest
    from marlin_ckpt.formats.verdicts import Inspection, Status, Verdict
    from marlin_ckpt.formats.zip.records import OnBytes
    from marlin_ckpt.storage.store import Store

NAME = "folder"
_MANIFESTS = MANIFEST.partition("/")[0]
_MOST_NAMED = 3


class ListedFile(NamedTuple):
    """What a manifest says of one file.

    Attributes:
        name: in the folder.
        size: its length in bytes.
        crc32: of its bytes.
    """

    name: str
    size: int
    crc32: int


class FolderLayout(Layout):
    """Reads such folders; see `Layout`."""

    name = NAME
    content = "a folder of files"
    is_ours = True
    is_flat = False
    hint = "load one of its files"

    def recognises(self, names: Names) -> bool:
        """Whether the folder of a manifest is there."""
        return _MANIFESTS in names.folders

    def read_name(self, folder: str) -> FileName | None:
        """Reads a name by our grammar for folders, or those of other tools: `checkpoint-500`."""
        return folder_name(folder) or foreign_name(folder)

    def members(self, store: Store, folder: str, names: Names) -> tuple[str, ...]:
        """All files in a folder that has a manifest, at any depth."""
        del names
        try:
            found = store.head(os.path.join(folder, MANIFEST))
            if found is None or found.is_folder:
                return ()
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):  # what has that name is not ours
                return ()
            raise
        return tuple(one for _, listing in levels_below(store, folder) for one in listing.objects)

    def inspect(self, store: Store, entry: Entry) -> Inspection:
        """Compares the names and sizes in the folder with those in its manifest."""
        from marlin_ckpt.formats.verdicts import Inspection, Status  # noqa: PLC0415 - see above

        manifest = read_manifest(store, entry, self.name)
        status, reason = compare(entry, files_of(manifest, entry.path))
        return Inspection(entry, status or Status.COMPLETE, reason, manifest)

    def verify(self, store: Store, entry: Entry, on_bytes: OnBytes) -> Verdict:
        """Reads every file that the manifest lists, and compares the CRC32s."""
        from marlin_ckpt.formats.verdicts import Status, Verdict  # noqa: PLC0415 - see above

        files = files_of(read_manifest(store, entry, self.name), entry.path)
        status, reason = compare(entry, files)
        if status is None:
            bad = differing(store, entry, files, on_bytes)
            status = Status.CORRUPT if bad else Status.INTACT
            reason = f"the CRC of {listed(bad)} does not hold" if bad else reason
        return Verdict(entry.path, status, reason, (), entry.size_bytes)

    def contents(self, store: Store, entry: Entry) -> Contents:
        """What the files hold that are checkpoints or weights, each under its own name."""
        from marlin_ckpt.formats.layouts import assembly  # noqa: PLC0415 - see above
        from marlin_ckpt.formats.layouts.members import Folder  # noqa: PLC0415
        from marlin_ckpt.formats.layouts.parts import Makeup, Part  # noqa: PLC0415

        files = files_of(read_manifest(store, entry, self.name), entry.path)
        status, reason = compare(entry, files)
        there = {within(entry, one.name) for one in entry.members}
        readable = [
            one.name for one in files if one.name.rpartition(".")[2] in EXTENSIONS and one.name in there
        ]
        makeup = Makeup([Part(name, name) for name in readable], missing=[reason] if status else [])
        return assembly.assemble(Folder(store, entry), NAME, makeup)


def read_manifest(store: Store, entry: Entry, layout: str) -> Manifest:
    """Reads the manifest of a folder of some layout.

    Raises:
        BadFileError: it is damaged, a link, too large, of a newer version or of another layout.
        StorageError: it cannot be read.
    """
    from marlin_ckpt.formats import manifest  # noqa: PLC0415 - see above
    from marlin_ckpt.formats.budget import ExcessError  # noqa: PLC0415

    if any(one.is_link for one in entry.members if within(entry, one.name) == MANIFEST):
        raise CorruptCheckpointError("the manifest is a symbolic link", entry.path)
    most = manifest.most_bytes(one.name for one in entry.members)

    with store.open(f"{entry.item.name}/{MANIFEST}") as source:
        if source.size_bytes > most:
            raise ExcessError(f"refused as too large: its manifest has {source.size_bytes} bytes", entry.path)
        data = source.read(0, source.size_bytes)
    try:
        found = manifest.Manifest.from_json(data, entry.path)
    except ValueError as error:
        raise CorruptCheckpointError(f"the manifest does not hold: {error}", entry.path) from error
    if found.layout != layout:
        what = f"the manifest is of the layout {found.layout!r}, which this marlin-ckpt does not know"
        raise UnknownFormatError(what, entry.path, "a newer marlin-ckpt wrote it: upgrade")
    return found


def files_of(manifest: Manifest, path: str) -> list[ListedFile]:
    """The files that a manifest lists, none of them outside of its folder.

    Raises:
        CorruptCheckpointError: no transaction has written such a list.
    """
    try:
        found = [ListedFile(row["name"], row["size"], row["crc32"]) for row in manifest.records]
    except (KeyError, TypeError) as error:
        raise CorruptCheckpointError("the manifest does not hold: its list of files", path) from error
    for one in found:
        if (
            type(one.name) is not str
            or type(one.size) is not int
            or type(one.crc32) is not int
            or one.size < 0
        ):
            raise CorruptCheckpointError("the manifest does not hold: its list of files", path)
        is_inside = not any(part in ("", ".", "..") for part in one.name.split("/")) and "\0" not in one.name
        if not is_inside or one.name == MANIFEST:
            raise CorruptCheckpointError(f"the manifest lists what is no file of it: {one.name}", path)
    if len({one.name for one in found}) < len(found):
        raise CorruptCheckpointError("the manifest lists a file twice", path)
    return found


def differing(store: Store, entry: Entry, files: list[ListedFile], on_bytes: OnBytes) -> list[str]:
    """Reads files whole; returns the names of those whose CRC32 or length is not the one that is listed.

    Raises:
        StorageError: one cannot be read.
    """
    from marlin_ckpt.formats.zip.records import holds  # noqa: PLC0415 - see above
    from marlin_ckpt.formats.zip.structures import Record  # noqa: PLC0415
    from marlin_ckpt.storage.sums import sums  # noqa: PLC0415

    opening = ((one.name, store.open(f"{entry.item.name}/{one.name}")) for one in files)
    return [
        one.name
        for one, found in zip(files, sums(opening, on_bytes), strict=True)
        if found.size_bytes != one.size or not holds(Record(*one, 0), found.crc32)
    ]


def compare(entry: Entry, files: list[ListedFile]) -> tuple[Status | None, str]:
    """Compares names and sizes with those that a manifest lists.

    Returns:
        what is wrong, None for nothing, and the reason; files that it does not list are a note there.
    """
    from marlin_ckpt.formats.verdicts import Status  # noqa: PLC0415 - see above

    there = {within(entry, one.name): one for one in entry.members}
    links = [one.name for one in files if one.name in there and there[one.name].is_link]
    missing = [one.name for one in files if one.name not in there]
    short = [one for one in files if one.name in there and there[one.name].size_bytes < one.size]
    long = [one for one in files if one.name in there and there[one.name].size_bytes > one.size]
    if links:
        return Status.CORRUPT, f"a symbolic link is in the place of {listed(links)}"
    if missing:
        return Status.INCOMPLETE, f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    for status, odd in ((Status.INCOMPLETE, short), (Status.CORRUPT, long)):
        for one in odd:
            size = there[one.name].size_bytes
            return status, f"{one.name} has {size:,} bytes and not {one.size:,}"
    others = sorted(there.keys() - {one.name for one in files} - {MANIFEST})
    return None, f"not in its manifest: {listed(others)}" if others else ""


def within(entry: Entry, name: str) -> str:
    """The name of a file in its folder, of its name in the store."""
    return name[len(entry.item.name) + 1 :]


def listed(names: list[str]) -> str:
    """A few of some names, and whether there are more."""
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
