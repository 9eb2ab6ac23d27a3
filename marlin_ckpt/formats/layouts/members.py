"""Opens the files of a folder that is one checkpoint, and never one outside of it.

A link in the folder may lead to a file in it, or to a blob of the Hugging Face repository that the folder is
a snapshot of; see `hub`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from marlin_ckpt.errors import BadFileError, CheckpointNotFoundError, CorruptCheckpointError
from marlin_ckpt.formats.budget import check_json
from marlin_ckpt.formats.layouts import hub
from marlin_ckpt.storage.paths import open_source

if TYPE_CHECKING:
    from marlin_ckpt.entries import Entry, Item
    from marlin_ckpt.storage.source import Source
    from marlin_ckpt.storage.store import Store

# The index of a model of 10^6 tensors takes some 100 MB; the largest that are published take 10 MB.
_LONGEST_JSON = 128 << 20


class Folder:
    """The files of one folder.

    Args:
        store: that the folder is in.
        entry: the folder.
        within: a folder in it whose files alone count, by its name in the folder.

    Attributes:
        path: of the folder, for messages.
        items: its files, by their names in it, at any depth; links count as what they lead to, and those that
            lead to a folder do not count.
        parsed: the names of the files of JSON that were read, and are JSON.
    """

    def __init__(self, store: Store, entry: Entry, within: str = "") -> None:
        self._store = store
        self._entry = entry
        self._name = f"{entry.item.name}/{within}" if within else entry.item.name
        self.path = os.path.join(entry.path, within) if within else entry.path
        self._dangling: list[str] | None = None
        self.parsed: set[str] = set()
        start = len(self._name) + 1
        before = f"{self._name}/"
        members = {one.name[start:]: one for one in entry.members if one.name.startswith(before)}
        self.items: dict[str, Item] = {name: one for name, one in members.items() if not one.is_folder}
        self._to_folders = members.keys() - self.items.keys()

    @property
    def name(self) -> str:
        """The last part of the folder's own name."""
        return os.path.basename(os.path.abspath(self.path))

    @property
    def fetched_by(self) -> str:
        """What to type so that the Hugging Face hub fetches what is missing; "" where it is no snapshot."""
        return hub.fetching(os.path.abspath(self.path))

    def below(self, name: str) -> Folder:
        """A folder in it."""
        within = os.path.relpath(self.path, self._entry.path)
        return Folder(self._store, self._entry, name if within == os.curdir else f"{within}/{name}")

    def dangling(self) -> list[str]:
        """The links directly in it that lead nowhere, sorted."""
        if self._dangling is None:
            links = (os.path.basename(one) for one in self._store.list(self._name).links)
            self._dangling = sorted(
                one for one in links if one not in self.items and one not in self._to_folders
            )
        return self._dangling

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Source]:
        """Opens one of its files.

        Raises:
            CheckpointNotFoundError: there is none of that name.
            CorruptCheckpointError: it is a link that leads elsewhere.
            StorageError: it cannot be read.
        """
        item = self.items.get(name)
        if item is None:
            raise CheckpointNotFoundError("no such file", os.path.join(self.path, name))
        if not item.is_link:
            with self._store.open(item.name) as source:
                yield source
            return
        with open_source(self._target(name)) as source:
            yield source

    def _target(self, name: str) -> str:
        path = os.path.join(self.path, name)
        target, top = os.path.realpath(path), os.path.realpath(self._entry.path)
        if not target.startswith(os.path.join(top, "")) and not hub.is_blob(path, target):
            raise CorruptCheckpointError("refused: a link that leads out of the folder", path)
        return target

    def read_json(self, name: str) -> Any:
        """Reads a small file of JSON.

        Raises:
            CorruptCheckpointError: it is no JSON, or nested too deep.
            ExcessError: it is larger than any that a tool wrote.
            CheckpointNotFoundError, StorageError: as `open` raises them.
        """
        found = parsed(self.read_text(name), os.path.join(self.path, name))
        self.parsed.add(name)
        return found

    def read_text(self, name: str) -> bytes:
        """Reads a small file of JSON as it is; raises as `read_json`."""
        with self.open(name) as source:
            if source.size_bytes > _LONGEST_JSON:
                raise CorruptCheckpointError(f"{source.size_bytes:,} bytes are no such JSON", source.path)
            return source.read(0, source.size_bytes)

    def json_object(self, name: str, wrong: list[str]) -> dict[str, Any]:
        """A JSON object; an empty one where there is none, and what is wrong with it is added to a list."""
        try:
            found = self.read_json(name)
        except BadFileError as error:
            wrong.append(f"{name}: {error.what}")
            return {}
        if isinstance(found, dict):
            return found
        wrong.append(f"{name}: not a JSON object")
        return {}


def parsed(text: bytes, path: str) -> Any:
    """What JSON says; raises as `Folder.read_json`."""
    check_json(text, path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError("not JSON", path) from error
