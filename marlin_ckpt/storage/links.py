"""Symbolic links that are set in one instant."""

import contextlib
import os

from marlin_ckpt.storage.local.files import absolute, doing
from marlin_ckpt.storage.local.publishing import sync_directory


def place_link(target: str, path: str) -> None:
    """Sets a symbolic link, durably and in one instant, in place of a link or a file that has the path.

    Args:
        target: where it leads; the link itself says it relative to its own directory.
        path: of the link.

    Raises:
        StorageError: a system call failed; what had the path is there unchanged.
    """
    directory, name = os.path.split(absolute(path))
    beside = os.path.join(directory, f".{name}.link")  # of a process that was killed: taken over
    with doing("cannot set the link", path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        os.symlink(os.path.relpath(target, directory), beside)
        try:
            os.replace(beside, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
        sync_directory(directory)
