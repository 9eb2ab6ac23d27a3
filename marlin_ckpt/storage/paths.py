"""Paths of files and URLs of objects alike: the one place that knows which of the two it is asked about.

What reads and writes checkpoints asks here in the place of `os`. An object store is imported where a URL is
seen, and not before.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from marlin_ckpt.entries import Item
from marlin_ckpt.errors import CheckpointNotFoundError
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage.local import files, publishing
from marlin_ckpt.storage.local import store as local
from marlin_ckpt.storage.local.publishing import Published
from marlin_ckpt.storage.source import Source
from marlin_ckpt.storage.store import Store
from marlin_ckpt.storage.target import Fill
from marlin_ckpt.urls import is_url, parse

if TYPE_CHECKING:
    from marlin_ckpt.remote import RemoteArguments
    from marlin_ckpt.storage.s3.store import S3Store

# By the URL of a directory, how a run says that its store is reached; all others as boto3 is set up.
_settings: dict[str, "RemoteArguments"] = {}
_guards: dict[str, Callable[[], None]] = {}  # by the URL of a directory whose lease this process holds


def use(url: str, settings: "RemoteArguments") -> None:
    """Says how what is below a URL is reached, for the rest of this process."""
    _settings[str(parse(url))] = settings


def guard(url: str, check: Callable[[], None]) -> None:
    """Has all that is written to a directory checked before it is committed; see `S3Store.guard`."""
    _guards[str(parse(url))] = check


def unguard(url: str) -> None:
    """Ends what `guard` began."""
    _guards.pop(str(parse(url)), None)


def open_store(directory: PathText, *, follows: bool = True) -> AbstractContextManager[Store]:
    """A directory, or a prefix in a bucket, as a store.

    Args:
        directory: its path or URL.
        follows: as for `local.store.open_store`.

    Raises:
        ArgumentsError: it is a URL that leads nowhere.
        CheckpointNotFoundError, StorageError: as `local.store.open_store`.
    """
    return open_remote(directory) if is_url(directory) else local.open_store(directory, follows=follows)


@contextlib.contextmanager
def open_remote(url: str) -> Iterator["S3Store"]:
    """A prefix in a bucket as a store, reached as `use` has said."""
    from marlin_ckpt.storage.s3.store import open_store as open_prefix  # noqa: PLC0415 - see above

    above = (one for one in _settings if f"{url.rstrip('/')}/".startswith(f"{one}/"))
    with open_prefix(url, _settings.get(max(above, key=len, default=""))) as store:
        store.guard = _guards.get(store.place)
        yield store


@contextlib.contextmanager
def open_source(path: str) -> Iterator[Source]:
    """Opens a regular file, or an object.

    Raises:
        CheckpointNotFoundError, StorageError: as `local.files.open_source`.
    """
    if not is_url(path):
        with files.open_source(path) as source:
            yield source
        return
    place, name = os.path.split(path.rstrip("/"))
    with open_remote(place) as store, store.open(name) as found:
        yield found


def look(path: PathText) -> Item | None:
    """Looks at a file, an object or a folder by its path; None where there is none.

    Raises:
        StorageError: a store does not say.
    """
    text = os.fspath(path).rstrip("/")
    place, name = os.path.split(text)
    if is_url(text):
        if place.endswith(":/"):  # the bucket itself
            return Item(name, 0, 0, (), is_folder=True)
        with open_remote(place) as store:
            return store.head(name)
    with contextlib.suppress(CheckpointNotFoundError), local.open_store(place or os.curdir) as directory:
        return directory.head(name)
    return None


def is_folder(path: PathText) -> bool:
    """Whether it is a directory, or a link to one; or a prefix under which there is something."""
    if not is_url(path):
        return os.path.isdir(path)
    if str(parse(path)).count("/") == 2:  # noqa: PLR2004 - s3://bucket
        return True
    with open_remote(path) as store:
        return store.has_any()
    return False


def exists(path: PathText) -> bool:
    """Whether there is anything of the name, a link that leads nowhere included."""
    return look(path) is not None if is_url(path) else os.path.lexists(path)


def absolute(path: PathText) -> str:
    """A path from the root; a URL as it is.

    Raises:
        StorageError: as `files.absolute`.
    """
    return path if is_url(path) else files.absolute(path)


def real(path: PathText) -> str:
    """A path without symbolic links; a URL without a slash at its end."""
    return path.rstrip("/") if is_url(path) else os.path.realpath(path)


def publish(  # noqa: PLR0913 - keywords
    path: PathText,
    fill: Fill,
    expected_bytes: int,
    *,
    image: memoryview | None = None,
    before_renaming: Callable[[], None] = lambda: None,
    overwrite: bool = True,
    about: Mapping[str, str] | None = None,
) -> Published:
    """Writes a file or an object under its final name, whole and durable, or not at all.

    Args:
        path: as for `publishing.publish`; of an object what has the name now may be replaced, and nothing
            that comes there meanwhile.
        fill: as for `publishing.publish`.
        expected_bytes: as for `publishing.publish`.
        image: as for `publishing.publish`.
        before_renaming: called when all is stored, and only the name is not yet there.
        overwrite: as for `publishing.publish`.
        about: what `S3Store.about` says of an object; a file has none.

    Raises:
        StorageError: as `publishing.publish`; or another writer was faster.
    """
    if not is_url(path):
        return publishing.publish(
            path, fill, expected_bytes, image=image, before_renaming=before_renaming, overwrite=overwrite
        )
    place, name = os.path.split(path)
    began = time.perf_counter()
    stored = began

    def committing() -> None:
        nonlocal stored
        stored = time.perf_counter()
        before_renaming()

    with open_remote(place) as store:
        found = store.head(name)
        if found is not None and not overwrite:
            raise publishing.is_taken(path)
        item = store.publish(
            name, expected_bytes, fill,
            replaces=found and found.identity, metadata=about, image=image, before_commit=committing,
        )  # fmt: skip
    return publishing.Published(item.size_bytes, stored - began, time.perf_counter() - stored)


def make_directory(directory: PathText) -> None:
    """Makes a directory with its parents; a prefix needs none.

    Raises:
        StorageError: as `publishing.make_directory`.
    """
    if not is_url(directory):
        publishing.make_directory(directory)


def make_durable(path: str) -> None:
    """Waits until a file that others may have written is on the disk; an object is durable.

    Raises:
        StorageError: as `publishing.make_durable`.
    """
    if not is_url(path):
        publishing.make_durable(path)
