"""Paths of files and URLs of objects alike: the one place that knows which of the two it is asked about.

Whoever reads and writes checkpoints asks here, not `os`. A store is imported where a URL is seen.
"""

import contextlib
import errno
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from marlin_ckpt.entries import Item
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.fields import PathText
from marlin_ckpt.storage import hints
from marlin_ckpt.storage.local import files
from marlin_ckpt.storage.local import store as local
from marlin_ckpt.urls import is_bucket, is_url, parse

if TYPE_CHECKING:
    from marlin_ckpt.remote import RemoteArguments
    from marlin_ckpt.storage.local.publishing import Published
    from marlin_ckpt.storage.s3.store import S3Store
    from marlin_ckpt.storage.source import Source
    from marlin_ckpt.storage.store import Store
    from marlin_ckpt.storage.target import Earlier, Fill

_MOST_READ = 1000  # names of a store, which one request has
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


def open_store(directory: PathText, *, follows: bool = True) -> AbstractContextManager["Store"]:
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
def open_source(path: str) -> Iterator["Source"]:
    """Opens a regular file, or an object.

    Raises:
        CheckpointNotFoundError, StorageError: as `local.files.open_source`.
    """
    if not is_url(path):
        with files.open_source(path) as source:
            yield source
        return
    place, name = _split(path)
    with open_remote(place) as store, contextlib.ExitStack() as stack:
        yield _opened(store, name, stack)


def _opened(store: "S3Store", name: str, stack: contextlib.ExitStack) -> "Source":
    try:
        return stack.enter_context(store.open(name))
    except CheckpointNotFoundError as error:
        objects, folders = _names_in(store)
        if name in folders:
            path = f"{store.place}/{name}"
            what, hint = "cannot read: Is a directory", hints.name_one_of(path, _names_in(store, name)[0])
            raise StorageError(what, path, hint, errno=errno.EISDIR) from None
        error.hint = hints.like(store.place, name, sorted((*objects, *folders)))
        raise


def nearby(url: str) -> str:
    """The hint where nothing has a URL: what is in the prefix that it would be in; "" of a bucket."""
    if is_bucket(url):
        return ""
    place, name = _split(url)
    with open_remote(place) as store:
        objects, folders = _names_in(store)
    return hints.like(place, name, sorted((*objects, *folders)))


def _names_in(store: "S3Store", folder: str = "") -> tuple[list[str], list[str]]:
    """Some of the objects and of the folders in a folder, for a hint; none where the store does not say."""
    start = len(folder) + bool(folder)
    objects, folders = set[str](), set[str]()
    with contextlib.suppress(StorageError):
        for one in itertools.islice(store.items(folder), _MOST_READ):
            first, more, _ = one.name[start:].partition("/")
            if first[:1] != ".":
                (folders if more else objects).add(first)
    return sorted(objects), sorted(folders)


def _split(url: str) -> tuple[str, str]:
    """The URL of the directory of an object, and its name there."""
    if is_bucket(url):
        hint = hints.name_one_of(url, ())
        raise StorageError("names a bucket, and no object in it", url, hint, errno=errno.EISDIR)
    return os.path.split(url.rstrip("/"))


def look(path: PathText) -> Item | None:
    """Looks at a file, an object or a folder by its path; None where there is none.

    Raises:
        StorageError: a store does not say.
    """
    text = os.fspath(path).rstrip("/")
    if is_url(text):
        if is_bucket(text):
            return Item(parse(text).bucket, 0, 0, (), is_folder=True)
        place, name = _split(text)
        with open_remote(place) as store:
            return store.head(name)
    place, name = os.path.split(text)
    with contextlib.suppress(CheckpointNotFoundError), local.open_store(place or os.curdir) as directory:
        return directory.head(name)
    return None


def is_folder(path: PathText) -> bool:
    """Whether it is a directory, or a link to one; or a prefix under which there is something."""
    if not is_url(path) or is_bucket(path):
        return is_url(path) or os.path.isdir(path)
    with open_remote(path) as store:
        return store.has_any()
    return False


def exists(path: PathText) -> bool:
    """Whether there is anything of the name, a link that leads nowhere included."""
    if not is_url(path) or is_bucket(path):
        return is_url(path) or os.path.lexists(path)
    place, name = _split(path)
    with open_remote(place) as store:
        return store.what_has(name) is not None
    return False


def existing(directory: str) -> Callable[[str], bool]:
    """Makes what says whether there is anything of a name in a directory.

    Of a store the names of a folder are listed once, the first time that one of them is asked for; what then
    raises StorageError is that listing.
    """
    if not is_url(directory):
        return lambda name: os.path.lexists(os.path.join(directory, name))

    @functools.cache
    def names(folder: str) -> frozenset[str]:
        with contextlib.suppress(CheckpointNotFoundError), open_remote(directory) as store:
            listing = store.list(folder)
            return frozenset((*listing.objects, *listing.folders))
        return frozenset()

    def holds(name: str) -> bool:
        is_name = not any(part in ("", ".", "..") for part in name.split("/"))  # else no store has it
        return is_name and name in names(os.path.dirname(name))

    return holds


def absolute(path: PathText) -> str:
    """A path from the root, raising as `files.absolute` does; a URL as it is."""
    return path if is_url(path) else files.absolute(path)


def real(path: PathText) -> str:
    """A path without symbolic links; a URL without a slash at its end."""
    return path.rstrip("/") if is_url(path) else os.path.realpath(path)


def publish(  # noqa: PLR0913 - keywords
    path: PathText,
    fill: "Fill",
    expected_bytes: int,
    *,
    image: memoryview | None = None,
    shared_bytes: int | None = None,
    earlier: "Earlier | None" = None,
    before_renaming: Callable[[], None] = lambda: None,
    overwrite: bool = True,
    about: str = "",
) -> "Published":
    """Writes a file or an object under its final name, whole and durable, or not at all.

    Args:
        path: as for `publishing.publish`; no object is replaced that comes there meanwhile.
        fill: as for `publishing.publish`.
        expected_bytes: as for `publishing.publish`.
        image: as for `publishing.publish`.
        shared_bytes: as for `publishing.publish`; an object shares none.
        earlier: as for `S3Store.publish`; not of a file.
        before_renaming: called when all is stored, and only the name is not yet there.
        overwrite: as for `publishing.publish`.
        about: that the `Item` of an object will have; a file has none.

    Raises:
        StorageError: as `publishing.publish`; or another writer was faster.
    """
    from marlin_ckpt.storage.local import publishing  # noqa: PLC0415 - commands that only read go without

    if not is_url(path):
        return publishing.publish(
            path, fill, expected_bytes, image=image, shared_bytes=shared_bytes,
            before_renaming=before_renaming, overwrite=overwrite,
        )  # fmt: skip
    began = stored = time.perf_counter()

    def committing() -> None:
        nonlocal stored
        stored = time.perf_counter()
        before_renaming()

    place, name = _split(path)
    with open_remote(place) as store:
        if (found := store.what_has(name)) is not None and not overwrite:
            raise publishing.is_taken(path)
        if found is not None and found.is_folder:
            raise StorageError("a directory has the name", os.fspath(path), errno=errno.EISDIR)
        item = store.publish(
            name, expected_bytes, fill, replaces=found and found.identity,
            about=about, image=image, earlier=earlier, before_commit=committing,
        )  # fmt: skip
    return publishing.Published(item.size_bytes, stored - began, time.perf_counter() - stored)


def remove(path: PathText) -> None:
    """Removes a file, or an object as it is now.

    Raises:
        OSError: it cannot be removed, or has gone.
    """
    if not is_url(path):
        os.unlink(path)
        return
    place, name = _split(path)
    with open_remote(place) as store:
        if found := store.head(name):
            store.remove(name, found.identity)


def make_directory(directory: PathText) -> None:
    """Makes a directory with its parents; a prefix needs none.

    Raises:
        StorageError: as `publishing.make_directory`.
    """
    if not is_url(directory):
        from marlin_ckpt.storage.local import publishing  # noqa: PLC0415 - as above

        publishing.make_directory(directory)


def make_durable(path: str) -> None:
    """Waits until a file that others may have written is on the disk; an object is durable.

    Raises:
        StorageError: as `publishing.make_durable`.
    """
    if not is_url(path):
        from marlin_ckpt.storage.local import publishing  # noqa: PLC0415 - as above

        publishing.make_durable(path)
