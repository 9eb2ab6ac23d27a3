"""What a search of a directory has left out, as the options that find it."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from marlin_ckpt import naming
from marlin_ckpt.directory.catalog import readable
from marlin_ckpt.fields import PathText
from marlin_ckpt.naming import EXTENSIONS
from marlin_ckpt.storage.paths import open_store

_MOST_WAYS = 3  # that a hint names
_MOST_FOLDERS = 1000  # that are looked through for the first checkpoint; a hint is worth no more


def options(
    directory: PathText,
    *,
    prefix: str | None,
    extensions: Collection[str],
    recursive: bool,
    most_folders: int = _MOST_FOLDERS,
) -> list[str]:
    """The options under which more would be found, such as `--ext ckpt`.

    Args:
        directory: that was looked through.
        prefix: that was asked for.
        extensions: that were looked for.
        recursive: whether its sub-directories were looked through.
        most_folders: that are looked through.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    with open_store(directory) as store:
        levels = readable(store, recursive=True, on_error=lambda *_: None)
        for level in itertools.islice(levels, most_folders):
            is_seen = recursive or not level.folder
            names = (name.rpartition("/")[2] for name in level.objects)
            found = set(_extensions(names, prefix))
            if not is_seen and (
                found.intersection(extensions) or any(_fits(one.name, prefix) for one in level.checkpoints)
            ):
                return ["--recursive"]
            if others := sorted(found.difference(extensions)):
                return [f"--ext {one}" if is_seen else f"--recursive --ext {one}" for one in others]
    return []


def hint_at_prefixes(directory: PathText, extension: str) -> str:
    """Names the options under which checkpoints with other names would be found; "" where there are none.

    Args:
        directory: that is searched, with its sub-directories.
        extension: that was looked for, of a folder without one.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    import shlex  # noqa: PLC0415 - here, since `list` starts faster without

    from marlin_ckpt.directory.others.kinds import names_of_others  # noqa: PLC0415

    ways = [
        f"--prefix {shlex.quote(one)}" + f" --ext {shlex.quote(its_own)}" * (its_own != extension)
        for one, its_own in names_of_others(directory, extension)
    ]
    more = f", or one of {len(ways) - _MOST_WAYS:,} more" * (len(ways) > _MOST_WAYS)
    return f"there are checkpoints with {' or '.join(ways[:_MOST_WAYS])}{more}" if ways else ""


def extensions_in(directory: PathText) -> list[tuple[str, int]]:
    """The extensions of the files directly in a directory, each with how many have it, the most first.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    with open_store(directory) as store:
        each = (naming.split_extension(name) for name in store.list().objects)
        counted = Counter(extension for stem, extension in each if stem and extension)
    return sorted(counted.items(), key=lambda one: (-one[1], one[0]))


def _extensions(names: Iterable[str], prefix: str | None) -> Iterator[str]:
    for name in names:
        stem, extension = naming.split_extension(name)
        if stem and extension in EXTENSIONS and _fits(naming.parse_any(name, extension), prefix):
            yield extension


def _fits(name: naming.FileName | None, prefix: str | None) -> bool:
    return prefix is None or (name is not None and name.prefix == prefix)
