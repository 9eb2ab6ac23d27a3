"""What lies in a directory: the only discovery."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from marlin_ckpt import naming
from marlin_ckpt.entries import Entry
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.fields import PathText

_logger = logging.getLogger(__name__)


def walk(directory: str, *, recursive: bool) -> Iterator[os.DirEntry[str]]:
    """Everything in a directory that is no directory, in no order; links to directories are not entered.

    Nor is the trash. A sub-directory that cannot be read is told to the log and passed over.

    Raises:
        OSError: the directory itself cannot be read.
    """
    pending = [directory]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        yield entry
                    elif recursive and entry.name != naming.TRASH:
                        pending.append(entry.path)
        except OSError as error:
            if current == directory:
                raise
            _logger.warning("cannot read the directory: %s: %s", error.strerror, current)


def find(
    directory: PathText, *, prefix: str | None = None, extension: str = "pt", recursive: bool = False
) -> list[Entry]:
    """The regular files of one extension, in order of their index.

    Args:
        directory: where to look.
        prefix: only files that fit the grammar with this prefix; None: all files of the extension, those
            that do not fit the grammar last.
        extension: without its dot.
        recursive: look in sub-directories too.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    found = []
    try:
        for file in walk(os.fspath(directory), recursive=recursive):
            if not naming.has_extension(file.name, extension):
                continue
            name = _read_name(file.name, prefix, extension)
            if (name is not None or prefix is None) and (status := _status(file)) is not None:
                found.append(_entry(file.path, name, status, is_link=file.is_symlink()))
    except FileNotFoundError as error:
        raise CheckpointNotFoundError("no such directory", os.fspath(directory)) from error
    except OSError as error:
        raise StorageError.of("cannot read the directory", os.fspath(directory), error) from error
    return sorted(found, key=_order)


def link_targets(directory: PathText, *, recursive: bool = False) -> dict[tuple[int, int], str]:
    """Where symbolic links in a directory lead: by the target's device and inode, the path of a link to it.

    Raises:
        OSError: the directory cannot be read.
    """
    links = sorted(file.path for file in walk(os.fspath(directory), recursive=recursive) if file.is_symlink())
    targets = {}
    for link in reversed(links):
        with contextlib.suppress(OSError):  # it leads nowhere
            status = os.stat(link)
            targets[status.st_dev, status.st_ino] = link
    return targets


def named(paths: Iterable[str], extensions: Iterable[str], *, recursive: bool = False) -> list[Entry]:
    """The files that a command line names: each file itself, of each directory those of some extensions.

    Raises:
        CheckpointNotFoundError: there is no such file or directory.
        StorageError: a directory cannot be read, or a path is neither.
    """
    found: list[Entry] = []
    for path in paths:
        if os.path.isdir(path):
            for extension in extensions:
                found.extend(find(path, extension=extension, recursive=recursive))
        elif one := entry(path):
            found.append(one)
        elif os.path.lexists(path):
            raise StorageError("neither a regular file nor a directory", path)
        else:
            raise CheckpointNotFoundError("no such file or directory", path)
    return found


def prefixes(directory: PathText, extension: str = "pt") -> list[str]:
    """The prefixes of the checkpoints in a directory and those below it, sorted.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    names = [one.name for one in find(directory, extension=extension, recursive=True)]
    return sorted({name.prefix for name in names if name and name.kind is naming.Kind.CHECKPOINT})


def entry(path: PathText) -> Entry | None:
    """One file as `find` would list it; None where there is no regular file."""
    text = os.fspath(path)
    name = os.path.basename(text)
    try:
        status = os.stat(text)
    except (OSError, ValueError):  # no file has a name with a null byte in it
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    parsed = naming.parse_any(name, name.rpartition(".")[2])
    return _entry(text, parsed, status, is_link=os.path.islink(text))


def _entry(path: str, name: naming.FileName | None, status: os.stat_result, *, is_link: bool) -> Entry:
    inode = (status.st_dev, status.st_ino)
    return Entry(path, name, status.st_size, status.st_mtime_ns, inode, is_link)


def _read_name(name: str, prefix: str | None, extension: str) -> naming.FileName | None:
    return naming.parse_any(name, extension) if prefix is None else naming.parse(name, prefix, extension)


def _order(entry: Entry) -> tuple[bool, int, str, str]:
    if entry.name is None:
        return (True, 0, "", entry.path)
    return (False, entry.name.index, entry.name.kind, entry.path)


def _status(file: os.DirEntry[str]) -> os.stat_result | None:
    """The status of a regular file or of the one that a link points to; None for anything else."""
    try:
        return file.stat() if file.is_file() else None
    except OSError:  # gone since the directory was read, or a link that leads nowhere
        return None


def get_latest_file(
    load_dir: PathText, file_prefix: str, file_ext: str = "pt", logger: logging.Logger = _logger
) -> str:
    """The path of the checkpoint with the greatest index, by the names of the files alone.

    Looks in sub-directories too. Where no name fits `{file_prefix}_{index}.{file_ext}`, names that only start
    with the prefix are ordered by the last integer of their stem. Model files are never considered. Of equal
    indices the file changed last wins, then the greater path.

    Args:
        load_dir: the directory to search.
        file_prefix: what the names start with.
        file_ext: the extension, without its dot.
        logger: is told at level INFO when there is none.

    Returns:
        the path, or "" when there is none or no such directory.

    Raises:
        StorageError: the directory cannot be read.
    """
    directory = os.fspath(load_dir)
    latest = ""
    for index_of in (naming.checkpoint_index, naming.loose_index):
        latest = latest or _greatest(directory, index_of, file_prefix, file_ext)
    if not latest:
        logger.info("No checkpoint found under %s.", directory)
    return latest


def _greatest(
    directory: str, index_of: Callable[[str, str, str], int | None], prefix: str, extension: str
) -> str:
    best: list[os.DirEntry[str]] = []
    best_index = -1
    try:
        for file in walk(directory, recursive=True):
            index = index_of(file.name, prefix, extension)
            if index is None or index < best_index or _status(file) is None:
                continue
            if index > best_index:
                best, best_index = [], index
            best.append(file)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StorageError.of("cannot read the directory", directory, error) from error
    return max(best, key=_newest).path if best else ""


def newest_first(directory: PathText, prefix: str, extension: str = "pt") -> list[str]:
    """The paths of all checkpoints that `get_latest_file` chooses from, its choice first.

    Returns:
        them; none where there is no such directory.

    Raises:
        StorageError: the directory cannot be read.
    """
    text = os.fspath(directory)
    for index_of in (naming.checkpoint_index, naming.loose_index):
        try:
            found = [
                (index, *_newest(file))
                for file in walk(text, recursive=True)
                if (index := index_of(file.name, prefix, extension)) is not None and _status(file)
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError.of("cannot read the directory", text, error) from error
        if found:
            return [path for _, _, path in sorted(found, reverse=True)]
    return []


def _newest(file: os.DirEntry[str]) -> tuple[int, str]:
    status = _status(file)
    return (status.st_mtime_ns if status else 0, file.path)
