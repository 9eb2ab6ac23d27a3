"""What files say of their large records; each is looked at once."""

import contextlib
import os
from collections import OrderedDict

from marlin_ckpt.entries import Identity
from marlin_ckpt.errors import MarlinError
from marlin_ckpt.formats import digests
from marlin_ckpt.formats.shared import Held
from marlin_ckpt.formats.zip.reader import read_saved
from marlin_ckpt.saving.sharing.decide import Records
from marlin_ckpt.storage.local.files import FileSource, closing, open_regular

_MOST_KNOWN = 16  # files; a save asks for two or three


class Looks:
    """Looks into files, and does not read again what has not changed."""

    def __init__(self) -> None:
        """Knows no file yet."""
        self._known: OrderedDict[str, tuple[Identity, Records]] = OrderedDict()

    def at(self, path: str) -> Records:
        """What a file says; nothing where it cannot be read, or has no digests."""
        with contextlib.suppress(OSError), closing(opened(path)) as fd:
            identity = identity_of(fd)
            if self._known.get(path, ((), {}))[0] != identity:
                found: Records | None = None
                with contextlib.suppress(MarlinError), contextlib.closing(FileSource(fd, path)) as source:
                    found = digests.read(source)
                self.know(path, identity, found or {})
            self._known.move_to_end(path)
            return self._known[path][1]
        return {}

    def know(self, path: str, identity: Identity, records: Records) -> None:
        """Takes what a file holds, which then is not read."""
        self._known[path] = identity, records
        self._known.move_to_end(path)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)


def opened(path: str) -> int:
    """Opens a regular file for reading, and no link.

    Raises:
        OSError: it cannot be opened.
    """
    return open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)


def identity_of(fd: int) -> Identity:
    """Changes when an open file does, and is another one's never.

    Raises:
        OSError: the system does not tell.
    """
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def is_unchanged(fd: int, identity: Identity) -> bool:
    """Whether an open file still has an identity; not where the system does not tell."""
    with contextlib.suppress(OSError):
        return identity_of(fd) == identity
    return False


def held_in(path: str, identity: Identity) -> tuple[str, dict[str, Held]]:
    """The run and the large records of a file that still has an identity, as the file itself has them.

    Their bytes are not read: whether they have these checksums, the caller has to know.

    Returns:
        no records where the file is another one, cannot be read, or has no digests or checksums.
    """
    with contextlib.suppress(OSError, MarlinError), closing(opened(path)) as fd:
        with contextlib.closing(FileSource(fd, path)) as source:
            found, container = digests.read(source) or {}, read_saved(source)
        records = {label: one for label, one in container.by_label.items() if not one.deflated_bytes}
        places = container.data_offsets
        held = {
            label: Held(digested, records[label].crc32, places[records[label].name], records[label].size)
            for label, digested in found.items()
            if label in records
        }
        if container.manifest and container.has_checksums and is_unchanged(fd, identity):
            return container.manifest.run_id, held
    return "", {}
