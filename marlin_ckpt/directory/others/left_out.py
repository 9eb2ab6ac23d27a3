"""What a listing of a directory leaves out, as the options that show it."""

import itertools
from collections.abc import Iterable, Iterator

from marlin_ckpt import grammars, naming
from marlin_ckpt.directory.catalog import readable
from marlin_ckpt.fields import PathText
from marlin_ckpt.formats import layouts
from marlin_ckpt.naming import EXTENSIONS
from marlin_ckpt.storage.local.store import open_store
from marlin_ckpt.storage.store import Store

_MOST_FOLDERS = 1000  # that are looked through for the first checkpoint; a hint is worth no more


def options(
    directory: PathText, *, prefix: str | None, extension: str, recursive: bool, has_found: bool
) -> list[str]:
    """The options under which more would be found, such as `--ext ckpt`.

    Args:
        directory: that was looked through.
        prefix: that was asked for.
        extension: that was asked for.
        recursive: whether its sub-directories were looked through.
        has_found: whether anything was found: then files count whose names some tool gives to checkpoints,
            and sub-directories are not looked through.

    Raises:
        CheckpointNotFoundError: there is no such directory.
        StorageError: it cannot be read.
    """
    with open_store(directory) as store:
        if has_found and not recursive:
            return [f"--ext {one}" for one in sorted(_directly_in(store, prefix) - {extension})]
        levels = readable(store, recursive=True, on_error=lambda *_: None)
        for level in itertools.islice(levels, _MOST_FOLDERS):
            is_seen = recursive or not level.folder
            names = (name.rpartition("/")[2] for name in level.objects)
            found = set(_extensions(names, prefix, any_name=not has_found))
            if not is_seen and (
                extension in found or any(_fits(one.name, prefix) for one in level.checkpoints)
            ):
                return ["--recursive"]
            if others := sorted(found - {extension}):
                return [f"--ext {one}" if is_seen else f"--recursive --ext {one}" for one in others]
    return []


def _directly_in(store: Store, prefix: str | None) -> set[str]:
    """The extensions of the files directly in a directory that are checkpoints by their names."""
    listing = store.list()
    if layouts.layout_of(store, "", listing):  # its files are parts of it
        return set()
    return set(_extensions(listing.objects, prefix, any_name=False))


def _extensions(names: Iterable[str], prefix: str | None, *, any_name: bool) -> Iterator[str]:
    for name in names:
        stem, extension = naming.split_extension(name)
        if stem and extension in EXTENSIONS:
            ours = naming.parse_any(name, extension)
            if _fits(ours, prefix) and (any_name or ours or grammars.read(stem)):
                yield extension


def _fits(name: naming.FileName | None, prefix: str | None) -> bool:
    return prefix is None or (name is not None and name.prefix == prefix)
