"""Removals and links that wait until a save is durable."""

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable

from marlin_ckpt.directory.history.removals import size_of
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.reports import SaveReport
from marlin_ckpt.storage.links import place_link
from marlin_ckpt.storage.local.files import doing
from marlin_ckpt.storage.paths import absolute, open_store
from marlin_ckpt.urls import is_url

_logger = get_logger(__name__)


class Afterwards:
    """What a caller that saves behind a loop wants done next: it waits until the save under way is durable.

    Where that fails, the files that should have gone stay. A file to which a symbolic link leads goes once
    the link leads elsewhere, so that `last.ckpt` always leads to a file.
    """

    def __init__(self, on_removed: Callable[[str, int], None] = lambda *_: None) -> None:
        """Takes what is told of each removal: the path, and the size in bytes."""
        self._on_removed = on_removed
        self._lock = threading.Lock()
        self._begun: deque[tuple[int, str]] = deque()  # numbers and paths of saves that are not durable
        self._number = 0  # of the last save that has begun
        self._doomed: dict[str, int] = {}  # the number of the save that each waits for
        self._links: dict[str, tuple[str, int]] = {}  # by the link, where it leads, and that number

    def begin(self, path: str) -> None:
        """Notes that a save to this path begins."""
        with self._lock:
            self._number += 1
            self._begun.append((self._number, path))
            self._doomed.pop(path, None)

    def durable(self, report: SaveReport) -> None:
        """Does what has waited for a save; those that were begun before it have ended, too.

        Raises:
            StorageError: a file cannot be removed, or a link not be set.
        """
        with self._lock:
            if any(report.path == path for _, path in self._begun):
                while self._begun.popleft()[1] != report.path:
                    pass
            self._do()

    def all_durable(self, *, is_last: bool = False) -> None:
        """Does all that has waited.

        Args:
            is_last: files go even if a link leads to them.

        Raises:
            StorageError: a file cannot be removed, or a link not be set.
        """
        with self._lock:
            self._begun.clear()
            self._do(is_last=is_last)

    def give_up(self) -> None:
        """Keeps all files, since the last save has failed."""
        with self._lock:
            for path in self._doomed:
                _logger.warning("Kept %s, since what was to replace it was not saved.", path)
            self._doomed, self._links = {}, {}
            self._begun.clear()

    def remove(self, path: str, *, after_next: bool = False) -> None:
        """Removes a file or folder, if there is one.

        Args:
            path: of it.
            after_next: wait for the save that begins next, even if none is under way.

        Raises:
            StorageError: it cannot be removed.
        """
        with self._lock:
            self._doomed[path] = self._number + after_next
            self._do()

    def is_going(self, path: str) -> bool:
        """Whether a file, by its absolute path, is to be removed."""
        with self._lock:
            return path in map(absolute, self._doomed)

    def link(self, target: str, path: str) -> None:
        """Sets a symbolic link, in place of a link or a file that has the path.

        Raises:
            StorageError: it cannot be set.
        """
        with self._lock:
            self._links[path] = target, self._number
            self._do()

    def _do(self, *, is_last: bool = False) -> None:
        """Does what waits for no save that is under way."""
        first = self._begun[0][0] if self._begun else self._number + 1
        for path, (target, number) in self._links.copy().items():
            if number < first:
                del self._links[path]
                if os.path.exists(target):
                    place_link(target, path)
        for path, number in self._doomed.copy().items():
            if number < first and (is_last or not _is_linked(path)):
                del self._doomed[path]
                if (size := _remove(path)) is not None:
                    self._on_removed(path, size)


def _remove(path: str) -> int | None:
    """Removes a file, an object or a folder; returns its size in bytes, None where there is nothing."""
    if is_url(path):
        return _remove_object(path)
    if not os.path.lexists(path):
        return None
    size = size_of(path)
    with doing("cannot remove", path):
        is_folder = os.path.isdir(path) and not os.path.islink(path)
        shutil.rmtree(path) if is_folder else os.unlink(path)
    return size


def _remove_object(url: str) -> int | None:
    place, name = os.path.split(url)
    with open_store(place) as store:
        found = store.head(name)
        if found is not None:
            store.remove(name, found.identity)
    return found and found.size_bytes


def _is_linked(path: str) -> bool:
    """Whether a symbolic link beside a file leads to it; there is none in an object store."""
    if is_url(path):
        return False
    real = os.path.realpath(path)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        return False
    with os.scandir(directory) as found:
        return any(
            one.is_symlink() and os.path.realpath(one.path) == real for one in found if one.path != path
        )
