"""What can be asked of a prefix in a bucket."""

import contextlib
import datetime
import errno
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from marlin_ckpt import naming
from marlin_ckpt.entries import Identity, Item
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.storage import hints
from marlin_ckpt.storage.s3 import answers, keys, uploads
from marlin_ckpt.storage.s3.client import Client
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.retrying import Retrying
from marlin_ckpt.storage.s3.source import S3Source
from marlin_ckpt.storage.store import Listing
from marlin_ckpt.urls import Place

ABOUT = "marlin-about"  # in the metadata of an object: `Item.about`


class S3Reading:
    """A prefix that is read; see `S3Store`.

    Attributes:
        place: its URL.
    """

    def __init__(self, client: Client, place: Place) -> None:
        """Takes what talks to the bucket."""
        self.place = str(place)
        self._client, self._bucket, self._prefix = client, place.bucket, place.prefix
        self._retrying = Retrying(client)

    def list(self, folder: str = "") -> Listing:
        """The names in a folder; see `Store.list`."""
        before = f"{folder}/" if folder else ""
        if folder:
            self._key(folder)
        objects: list[str] = []
        folders: list[str] = []
        for page in self._pages(before, "/"):
            found = (self._name(one["Prefix"].removesuffix("/")) for one in page.get("CommonPrefixes", ()))
            folders += filter(_is_name, found)
            objects += filter(_is_name, (self._name(one["Key"]) for one in page.get("Contents", ())))
        if folder and not (objects or folders):
            raise CheckpointNotFoundError("no such folder", self._path(folder))
        if self._prefix and not (folder or objects or folders):
            self._check_no_object()
        return Listing(tuple(objects), tuple(folders))

    def _check_no_object(self) -> None:
        """Refuses what is the name of an object in the place of a prefix under which there is nothing."""
        place = Key(self._client, self._bucket, self._prefix.rstrip("/"), self.place)
        if keys.head(place, self._retrying) is not None:
            what = "cannot read the directory: Not a directory"
            raise StorageError(what, self.place, hints.of_file(self.place), errno=errno.ENOTDIR)

    def names_like(self, start: str) -> Sequence[str]:
        """The names that begin so, as many as one request has; those of folders end with "/"."""
        page = next(self._pages(start, "/"))
        objects = [self._name(one["Key"]) for one in page.get("Contents", ())]
        folders = [self._name(one["Prefix"]) for one in page.get("CommonPrefixes", ())]
        folders = [one for one in folders if _is_name(one.removesuffix("/"))]
        return sorted((*filter(_is_name, objects), *folders))

    def has_any(self) -> bool:
        """Whether there is an object anywhere in the store."""
        return any(page.get("Contents") or page.get("CommonPrefixes") for page in self._pages("", "/"))

    def items(self, folder: str = "") -> Iterator[Item]:
        """The objects in a folder and below, with their sizes: what `list` and `head` say, in one go."""
        for page in self._pages(f"{folder}/" if folder else "", ""):
            for one in page.get("Contents", ()):
                if _is_name(name := self._name(one["Key"])):
                    yield _item(name, one["Size"], one["LastModified"], one["ETag"])

    def head(self, name: str) -> Item | None:
        """Looks at one object or folder; see `Store.head`."""
        if uploads.MARK in name:
            return next((one for one in self.uploads("") if one.name == name), None)
        return self.head_object(name) or self._folder(name)

    def head_object(self, name: str) -> Item | None:
        """Looks at one object; None where there is none, be it a folder."""
        found = keys.head(self._key(name), self._retrying)
        if found is None:
            return None
        item = _item(name, found["ContentLength"], found["LastModified"], found["ETag"])
        return item._replace(about=found["Metadata"].get(ABOUT, ""))

    def what_has(self, name: str) -> Item | None:
        """What has a name, an object or a folder, by one listing: without `about`, or a folder's identity."""
        key = self._key(name).key
        for page in self._pages(name, "/"):
            for one in page.get("Contents", ()):
                if one["Key"] == key:
                    return _item(name, one["Size"], one["LastModified"], one["ETag"])
            folders = [one["Prefix"] for one in page.get("CommonPrefixes", ())]
            if f"{key}/" in folders:
                return Item(name, 0, 0, (), is_folder=True)
            if any(one > f"{key}/" for one in folders):  # names come in their order
                return None
        return None

    def _folder(self, name: str) -> Item | None:
        newest_ns = 0

        def told() -> Iterator[Item]:
            nonlocal newest_ns
            for one in self.items(name):
                newest_ns = max(newest_ns, one.modified_ns)
                yield one

        identity = identity_of(told())
        return Item(name, 0, newest_ns, identity, is_folder=True) if identity[0] else None

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[S3Source]:
        """Opens an object for reading; see `Store.open`."""
        key = self._key(name)
        yield S3Source(self._client, self._bucket, key.key, key.path)

    def orphans(self) -> tuple[str, ...]:
        """The uploads that an earlier holder of the lease can have left: to it, its trash and bookkeeping.

        An undo brings back from the trash what was in a folder, too. So an upload to a folder is one of these
        where an object of that name is in the trash, unless somebody saves in that folder.
        """
        found = list(uploads.under_way(self._place(""), "", self._retrying, lambda _: True))
        names = [one.name.partition(uploads.MARK)[0] for one in found]
        below = [one for one in names if "/" in one and not _is_own(one)]
        trashed = {one.name.split("/", 2)[-1] for one in self.items(naming.TRASH)} if below else set()
        return tuple(
            one.name
            for one, name in zip(found, names, strict=True)
            if uploads.is_checkpoint(name) or _is_own(name) or name in trashed
        )

    def uploads(self, folder: str) -> Iterator[Item]:
        """The uploads under way to a folder, as items; to those that are all ours at any depth."""
        before, place = f"{folder}/" if folder else "", self._place(folder)
        if _is_own(before):
            return uploads.under_way(place, before, self._retrying, lambda _: True)
        return uploads.in_folder(place, before, self._retrying)

    def _place(self, folder: str) -> Key:
        before = f"{folder}/" if folder else ""
        return Key(self._client, self._bucket, self._prefix + before, self._path(folder))

    def _pages(self, before: str, delimiter: str) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            request = partial(self._page, before, delimiter, more)
            page = self._retrying.do(request, "cannot list the store", self._path(before.removesuffix("/")))
            yield page
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == more.get("ContinuationToken"):
                raise answers.endless("cannot list the store", self._path(before.removesuffix("/")))
            more = {"ContinuationToken": token}

    def _page(self, before: str, delimiter: str, more: dict[str, str]) -> dict[str, Any]:
        # Asked for anew each time: the client that has failed may have had credentials that were renewed.
        found: dict[str, Any] = self._client.control.list_objects_v2(
            Bucket=self._bucket, Prefix=self._prefix + before, Delimiter=delimiter, **more
        )
        return found

    def _key(self, name: str) -> Key:
        if not _is_name(name):
            raise StorageError("not a name in a store", self._path(name), errno=errno.EINVAL)
        return Key(self._client, self._bucket, self._prefix + name, self._path(name))

    def _name(self, key: str) -> str:
        return key[len(self._prefix) :]

    def _path(self, name: str) -> str:
        return f"{self.place}/{name}" if name else self.place


def _is_name(name: str) -> bool:
    """Whether a store of ours can have an object or a folder of a name.

    Buckets can have others: of tools that put an empty object `folder/` there to have a folder shown, or that
    have joined names by two slashes.
    """
    return not any(part in ("", ".", "..") for part in name.split("/"))


def _is_own(name: str) -> bool:
    """Whether a name is in a folder of which everything is ours, and in those below."""
    return name.split("/", maxsplit=1)[0] in (naming.TRASH, naming.OWN_DIRECTORY) and "/" in name


def identity_of(members: Iterable[Item]) -> Identity:
    """The identity of a folder: how many objects it has, and which."""
    hashed, count = hashlib.blake2b(digest_size=16), 0
    for one in members:
        hashed.update(repr((one.name, one.identity)).encode())
        count += 1
    return count, hashed.hexdigest()


def _item(name: str, size_bytes: int, modified: datetime.datetime, etag: str) -> Item:
    return Item(name, size_bytes, int(modified.timestamp() * 1e9), (etag, name))
