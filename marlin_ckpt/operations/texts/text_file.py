"""Writes a text that a person asked for to a file of its own."""

import os

from marlin_ckpt.errors import StorageError
from marlin_ckpt.storage.paths import publish
from marlin_ckpt.storage.target import Target


def check(path: str, *, force: bool) -> None:
    """Checks that a file may be written.

    Raises:
        StorageError: it is there, and is not to be replaced.
    """
    if not force and os.path.lexists(path):
        raise StorageError("is already there", path, "choose another path, or replace it with --force")


def write(path: str, text: str, *, force: bool) -> None:
    """Writes a file whole and durable, or not at all.

    Args:
        path: the file.
        text: its content, which is encoded as UTF-8.
        force: whether a file that is there is replaced.

    Raises:
        StorageError: it cannot be written, or is there.
    """
    check(path, force=force)
    data = text.encode()

    def fill(target: Target) -> None:
        target.put(data)

    publish(path, fill, len(data), before_renaming=lambda: check(path, force=force))
