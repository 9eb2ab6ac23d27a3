"""The folder that a directory of checkpoints has for our own bookkeeping: the only place that opens it.

Somebody else may be able to write to the directory. So the folder is opened without following a link, and of
what lies in it only regular files, without waiting; a file is replaced by writing another and renaming it.
What was planted is reported once and passed over: a run needs none of this.
"""

import contextlib
import errno
import functools
import os
from collections.abc import Mapping
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.errors import StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.storage.local import descent, temporary
from marlin_ckpt.storage.local.files import FileSource, closing, open_regular
from marlin_ckpt.urls import is_url

_MOST_BYTES = 1 << 20  # of one file
# What opening says where a link, or another kind of file, is in the place of the folder or a file.
PLANTED = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)

_logger = get_logger("marlin_ckpt.directory")


def folder(directory: str) -> contextlib.AbstractContextManager[int]:
    """Opens the folder, for as long as the context lasts, which is its descriptor.

    Raises:
        OSError: it is not there, or is a link.
    """
    return closing(open_folder(directory))


def open_folder(directory: str) -> int:
    """Opens the folder as `folder` does; the caller closes it."""
    return os.open(os.path.join(directory, naming.OWN_DIRECTORY), descent.DIRECTORY)


def why(error: Exception) -> str:
    """Why something of our own was passed over, in a few words."""
    if isinstance(error, StorageError):
        return error.what
    if isinstance(error, OSError):
        is_link = error.errno in (errno.ELOOP, errno.ENOTDIR)
        return "a symbolic link is not followed here" if is_link else error.strerror or str(error)
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def open_to_lock(folder_fd: int, name: str) -> int:
    """Opens a file for locks, made if it is missing; the caller closes it.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    return open_regular(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, dir_fd=folder_fd)


def read(directory: str, name: str, *, most_bytes: int = _MOST_BYTES) -> dict[str, Any]:
    """A JSON object from the folder; an empty one where there is none that can be read, or it is longer."""
    try:
        if is_url(directory):
            from marlin_ckpt.directory.remote import objects  # noqa: PLC0415 - few directories are remote

            return objects.read(directory, name, most_bytes)
        with folder(directory) as folder_fd:
            return _read_object(folder_fd, name, most_bytes)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _say_once("Passed over", os.path.join(directory, naming.OWN_DIRECTORY, name), why(error))
        return {}


def _read_object(folder_fd: int, name: str, most_bytes: int) -> dict[str, Any]:
    import json  # noqa: PLC0415 - here, since `latest` starts faster without, and most folders hold no file

    with closing(open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder_fd)) as fd:
        source = FileSource(fd, name)
        if source.size_bytes > most_bytes:
            raise ValueError(f"is longer than {most_bytes:,} bytes")
        found = json.loads(source.read(0, most_bytes))
    if isinstance(found, dict):
        return found
    raise ValueError("not a JSON object")


def write(directory: str, name: str, values: Mapping[str, Any]) -> None:
    """Replaces a JSON object in the folder, which is there if anybody has held the directory's lease."""
    import json  # noqa: PLC0415 - as above

    try:
        if is_url(directory):
            from marlin_ckpt.directory.remote import objects  # noqa: PLC0415 - as above

            objects.write(directory, name, values)
            return
        data = json.dumps(values).encode()
        with folder(directory) as folder_fd:
            _replace(folder_fd, name, data)
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        _say_once("Did not write", os.path.join(directory, naming.OWN_DIRECTORY, name), why(error))


def _replace(folder_fd: int, name: str, data: bytes) -> None:
    from marlin_ckpt.storage.local.system_calls import write_all  # noqa: PLC0415 - as above

    _sweep(folder_fd, f"{name}.new")
    fd, new = temporary.create(folder_fd, name)
    with closing(fd):  # only after the rename: its lock keeps the sweep of another process from the new file
        try:
            write_all(fd, memoryview(data))
            os.rename(new, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=folder_fd)
            raise


def _sweep(folder_fd: int, of_version_0_1: str) -> None:
    """Removes what dead processes left half written in the folder."""
    with contextlib.suppress(OSError):
        os.unlink(of_version_0_1, dir_fd=folder_fd)
    for name in filter(temporary.is_temporary, os.listdir(folder_fd)):
        with contextlib.suppress(OSError), temporary.claim(folder_fd, name) as is_abandoned:
            if is_abandoned:
                os.unlink(name, dir_fd=folder_fd)


@functools.cache
def _say_once(what: str, path: str, why: str) -> None:
    """Logs a warning; the same one is not repeated at each save."""
    _logger.warning("%s %s: %s", what, path, why)
