"""What to type instead of a path that leads nowhere, or to a directory where a file is wanted."""

import contextlib
import itertools
import os
from collections.abc import Collection

from marlin_ckpt import naming

_MOST_NAMED = 5
_MOST_READ = 1000  # names of a directory


def instead_of_missing(path: str, *, is_directory: bool) -> str:
    """The hint where nothing has a path: a name like it, or what is in the nearest directory there is.

    Args:
        path: as a person typed it.
        is_directory: whether a directory is wanted, so that files are not named.

    Returns:
        the hint; "" where there is nothing to say.
    """
    with contextlib.suppress(OSError):  # it is no link, or has gone
        return f"it is a symbolic link to {os.readlink(path)}, which is not there"
    place, last = os.path.split(path.rstrip("/"))
    while place and not os.path.isdir(place):
        place, last = os.path.split(place)
    if not last:
        return ""
    names = _names_in(place or os.curdir, folders_alone=is_directory or last != os.path.basename(path))
    return like(place, last, names)


def like(place: str, last: str, names: Collection[str]) -> str:
    """The hint where a directory has no such name: one like it, or what it has.

    Args:
        place: the directory; "" is the working directory.
        last: the name that it lacks.
        names: those that it has, sorted.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - here, since commands start faster without

    if near := get_close_matches(last, names, n=1):
        return f"did you mean {os.path.join(place, near[0])}?"
    if not names:
        return ""
    return f"{place} has {_some(names)}" if place else f"here are {_some(names)}"


def _names_in(directory: str, *, folders_alone: bool) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(directory) as found:
        listed = [one for one in itertools.islice(found, _MOST_READ) if not one.name.startswith(".")]
        return sorted(one.name for one in listed if one.is_dir() or not folders_alone)
    return []


def instead_of_directory(path: str) -> str:
    """The hint where a directory was named in place of a file: what is in it; "" where it is none."""
    with contextlib.suppress(OSError), os.scandir(path) as found:
        listed = list(found)
        sizes = {one.name: one.stat().st_size for one in listed if one.is_file(follow_symlinks=False)}
        names = sorted(sizes, key=lambda name: (-sizes[name], name))
        return name_one_of(path, names) if listed else "it is empty"
    return ""


def name_one_of(path: str, names: Collection[str]) -> str:
    """The hint where a directory that holds something was named in place of one of the files in it."""
    import shlex  # noqa: PLC0415 - as above

    if not names:
        return f"marlin-ckpt list {shlex.quote(path)} --recursive shows the checkpoints in it"
    hint = f"name a file in it: {_some(names)}"
    if any(naming.parse_any(name, name.rpartition(".")[2]) for name in names):
        hint += f"; marlin-ckpt latest {shlex.quote(path)} prints the newest"
    return hint


def of_file(path: str) -> str:
    """The hint where a file was named in place of a directory."""
    import shlex  # noqa: PLC0415 - as above

    return f"it is a file; marlin-ckpt show {shlex.quote(path)} looks into it"


def _some(names: Collection[str]) -> str:
    return ", ".join(itertools.islice(names, _MOST_NAMED)) + ", ..." * (len(names) > _MOST_NAMED)
