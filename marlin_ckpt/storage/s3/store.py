"""A prefix in a bucket as a store."""

import contextlib
import datetime
import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from marlin_ckpt import naming
from marlin_ckpt.entries import Identity, Item
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage.s3 import answers, moving, parts
from marlin_ckpt.storage.s3.client import Client, client, now_s
from marlin_ckpt.storage.s3.parts import Key, Upload
from marlin_ckpt.storage.s3.retrying import Retrying
from marlin_ckpt.storage.s3.source import S3Source
from marlin_ckpt.storage.store import Listing
from marlin_ckpt.storage.target import Fill
from marlin_ckpt.storage.writer import Writer
from marlin_ckpt.urls import Place, parse

# Between the name of an object and the upload that will be it. No name of ours holds it: S3's own URLs of an
# upload do.
_UPLOAD = "?uploadId="


@contextlib.contextmanager
def open_store(url: str, settings: RemoteArguments | None = None) -> Iterator["S3Store"]:
    """A prefix as a store.

    Args:
        url: `s3://bucket/prefix`.
        settings: how to talk to it; None: as boto3 is set up.

    Raises:
        ArgumentsError: it is no such URL.
        StorageError: boto3 cannot be set up.
    """
    place = parse(url)
    yield S3Store(_client_of(place, settings or RemoteArguments()), place)


def _client_of(place: Place, settings: RemoteArguments) -> Client:
    try:
        return client(settings)
    except BotoCoreError as error:
        raise answers.error_for(error, "cannot reach the store", str(place)) from None


class S3Store:
    """A prefix as a `Store`; `open_store` makes one.

    The identity of an object is its ETag and its name, of a folder all its objects' names and ETags. A folder
    is moved and removed object by object.

    Attributes:
        guard: called before each commit; None: nobody else may save here, or none asks. With it every object
            is committed by an upload that another process can end, however short it is: whoever takes over a
            directory ends all uploads, also those of a run that was stopped after it had looked at its lease.
    """

    has_append = False

    def __init__(self, client: Client, place: Place) -> None:
        """Takes what talks to the bucket."""
        self.place = str(place)
        self.guard: Callable[[], None] | None = None
        self._client, self._bucket, self._prefix = client, place.bucket, place.prefix
        self._retrying = Retrying(client)

    def list(self, folder: str = "") -> Listing:
        """The names in a folder; see `Store.list`."""
        before = f"{folder}/" if folder else ""
        if folder:
            self._key(folder)
        objects, folders = [], []
        for page in self._pages(before, "/"):
            folders += [self._name(one["Prefix"].removesuffix("/")) for one in page.get("CommonPrefixes", ())]
            # Some tools put an empty object there to have the folder shown.
            objects += [self._name(one["Key"]) for one in page.get("Contents", ()) if one["Key"][-1:] != "/"]
        if folder and not (objects or folders):
            raise CheckpointNotFoundError("no such folder", self._path(folder))
        return Listing(tuple(objects), tuple(folders))

    def has_any(self) -> bool:
        """Whether there is an object anywhere in the store."""
        return any(page.get("Contents") or page.get("CommonPrefixes") for page in self._pages("", "/"))

    def items(self, folder: str = "") -> Iterator[Item]:
        """The objects in a folder and below, with their sizes: what `list` and `head` say, in one go."""
        for page in self._pages(f"{folder}/" if folder else "", ""):
            for one in page.get("Contents", ()):
                if one["Key"][-1:] != "/":
                    yield _item(self._name(one["Key"]), one["Size"], one["LastModified"], one["ETag"])

    def head(self, name: str) -> Item | None:
        """Looks at one object or folder; see `Store.head`."""
        if _UPLOAD in name:
            return next((one for one in self._uploads("") if one.name == name), None)
        found = parts.head(self._key(name), self._retrying)
        if found is not None:
            return _item(name, found["ContentLength"], found["LastModified"], found["ETag"])
        return self._folder(name)

    def about(self, name: str) -> dict[str, str] | None:
        """What the writer of an object has said of it; None where there is none."""
        found = parts.head(self._key(name), self._retrying)
        return None if found is None else dict(found["Metadata"])

    def _folder(self, name: str) -> Item | None:
        hashed, newest_ns, count = hashlib.blake2b(digest_size=16), 0, 0
        for one in self.items(name):
            hashed.update(repr((one.name, one.identity)).encode())
            newest_ns, count = max(newest_ns, one.modified_ns), count + 1
        return Item(name, 0, newest_ns, (count, hashed.hexdigest()), is_folder=True) if count else None

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[S3Source]:
        """Opens an object for reading; see `Store.open`."""
        key = self._key(name)
        yield S3Source(self._client, self._bucket, key.key, key.path)

    def publish(  # noqa: PLR0913 - of which all but three are seldom given
        self,
        name: str,
        size_bytes: int,
        fill: Fill,
        *,
        replaces: Identity | None = None,
        metadata: Mapping[str, str] | None = None,
        image: memoryview | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> Item:
        """Uploads an object whole, or not at all; see `Store.publish`.

        Args:
            name: of the object.
            size_bytes: how long it will be, roughly.
            fill: as for `Store.publish`.
            replaces: as for `Store.publish`.
            metadata: what `about` will say of it; ASCII, at most 2 KB.
            image: memory for the whole object; see `Upload`.
            before_commit: called when all is in the store but the commit; may raise.
        """
        key = self._key(name)
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": str(replaces[0])}
        if self._client.settings.conditional != "require":
            condition = {}
        self._check_expected(key, replaces)
        upload = Upload(key, size_bytes, metadata or {}, image)
        try:
            writer = Writer(upload)
            fill(writer)
            writer.finish()
            before_commit()
            if self.guard is not None:
                upload.fence()
                self.guard()
            upload.commit(condition)
        except (answers.RefusedError, ClientError) as error:
            raise self._not_committed(error, key, replaces) from None
        finally:
            upload.stop()
            upload.abort()
        found = self.head(name)
        if found is None:
            raise moving.another(key.path)
        return found

    def check_conditions(self, name: str, data: bytes) -> None:
        """Finds out whether the store obeys conditions: writes an object again, over nothing.

        Args:
            name: of an object that is there.
            data: what is in it.

        Raises:
            StorageError: it does not.
        """
        if self._client.settings.conditional != "require":
            return
        upload = Upload(self._key(name), len(data), {})
        try:
            writer = Writer(upload)
            writer.put(data)
            writer.finish()
            upload.commit({"IfNoneMatch": "*"})
        except (answers.RefusedError, ClientError) as error:
            answer = answers.answer_of(error)
            if answer is not None and answer.status in (answers.CHANGED, answers.CONFLICT):
                return
            raise answers.error_for(error, "cannot write", self._path(name)) from None
        finally:
            upload.stop()
        what = "the store ignores conditions, so that nothing keeps two runs from overwriting each other"
        hint = "use another store, or checkpointer.remote.conditional: allow-without with one run alone"
        raise StorageError(what, self.place, hint, errno=errno.ENOTSUP)

    def now_s(self) -> float:
        """What the server's clock shows, in seconds since 1970; to about a second."""
        return now_s() + self._client.offset_s

    def _check_expected(self, key: Key, replaces: Identity | None) -> None:
        """Refuses what the commit would refuse, before anything is sent."""
        found = parts.head(key, self._retrying)
        if found is None and replaces is not None:
            raise moving.another(key.path)
        if found is not None and replaces is None:
            raise _taken(key.path)
        if found is not None and replaces is not None and found["ETag"] != replaces[0]:
            raise moving.another(key.path)

    def _not_committed(self, error: BaseException, key: Key, replaces: Identity | None) -> StorageError:
        answer = answers.answer_of(error)
        if answer is not None and answer.code == "NoSuchUpload":
            hint = "look which run saves there: marlin-ckpt log shows it"
            what = "not saved: another run has taken the directory over, and ended this upload"
            return StorageError(what, key.path, hint, errno=errno.ESTALE)
        return _taken(key.path) if replaces is None else moving.another(key.path)

    def move(self, name: str, to: str, identity: Identity) -> None:
        """Copies and removes an object, or all in a folder; see `Store.move`."""
        source, target = self._key(name), self._key(to)
        found = self._unchanged(name, identity)
        if not found.is_folder:
            if self._folder(to) is not None:
                raise _taken(target.path, "cannot move")
            etag = str(identity[0])
            moving.copy(source, target, etag)
            moving.remove(source, etag)
            return
        members = list(self.items(name))
        if parts.head(target, self._retrying) is not None or self._holds_others(to, name, members):
            raise _taken(target.path, "cannot move")
        for one in members:
            moving.copy(self._key(one.name), self._key(to + one.name[len(name) :]), str(one.identity[0]))
        for one in members:
            moving.remove(self._key(one.name), str(one.identity[0]))

    def _holds_others(self, to: str, name: str, members: Iterable[Item]) -> bool:
        """Whether a folder has an object that is not of the one that moves there."""
        expected = {to + one.name[len(name) :] for one in members}
        return any(one.name not in expected for one in self.items(to))

    def remove(self, name: str, identity: Identity) -> None:
        """Removes an object if it is unchanged, or all in a folder; see `Store.remove`."""
        if _UPLOAD in name:
            key, _, upload_id = name.partition(_UPLOAD)
            parts.abort(self._key(key), upload_id, self._retrying)
            return
        found = self._unchanged(name, identity)
        members = list(self.items(name)) if found.is_folder else [found]
        for one in members:
            moving.remove(self._key(one.name), str(one.identity[0]))

    def _unchanged(self, name: str, identity: Identity) -> Item:
        found = self.head(name)
        if found is None:
            raise CheckpointNotFoundError("no such object", self._path(name))
        if found.identity != identity:
            raise moving.another(self._path(name))
        return found

    def remove_empty(self, folder: str) -> None:
        """Does nothing: a folder without an object is none."""

    def free_space(self) -> int | None:
        """None: a store has no end."""
        return None

    def unfinished(self, folder: str = "") -> tuple[str, ...]:
        """The uploads under way to a folder; see `Store.unfinished`."""
        return tuple(one.name for one in self._uploads(folder))

    def _uploads(self, folder: str) -> Iterator[Item]:
        before = f"{folder}/" if folder else ""
        more: dict[str, str] = {}
        while True:
            page = self._retrying.do(
                partial(
                    self._client.control.list_multipart_uploads,
                    Bucket=self._bucket,
                    Prefix=self._prefix + before,
                    Delimiter="/",
                    **more,
                ),
                "cannot list the uploads",
                self._path(folder),
            )
            for one in page.get("Uploads", ()):
                rest = one["Key"][len(self._prefix + before) :]
                if "/" in rest or not naming.parse_any(rest, naming.split_extension(rest)[1]):
                    continue  # SeaweedFS does not obey the delimiter; and others upload other names
                name = f"{before}{rest}{_UPLOAD}{one['UploadId']}"
                yield _item(name, 0, one["Initiated"], one["UploadId"])
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def is_unfinished(self, name: str) -> bool:
        """Whether it is one of `unfinished`."""
        return _UPLOAD in name

    def is_abandoned(self, name: str) -> bool:
        """Whether whoever uploads is known to be dead: with the lease in our hands all others are."""
        return _UPLOAD in name and self.guard is not None

    def append(self, name: str, data: bytes) -> None:
        """Refuses: objects do not grow.

        Raises:
            StorageError: always.
        """
        raise StorageError(
            f"cannot append {len(data):,} bytes to an object", self._path(name), errno=errno.ENOTSUP
        )

    def _pages(self, before: str, delimiter: str) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            page: dict[str, Any] = self._retrying.do(
                partial(
                    self._client.control.list_objects_v2,
                    Bucket=self._bucket,
                    Prefix=self._prefix + before,
                    Delimiter=delimiter,
                    **more,
                ),
                "cannot list the store",
                self._path(before.removesuffix("/")),
            )
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _key(self, name: str) -> Key:
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise StorageError("not a name in a store", self._path(name), errno=errno.EINVAL)
        return Key(self._client, self._bucket, self._prefix + name, self._path(name))

    def _name(self, key: str) -> str:
        return key[len(self._prefix) :]

    def _path(self, name: str) -> str:
        return f"{self.place}/{name}" if name else self.place


def _item(name: str, size_bytes: int, modified: datetime.datetime, etag: str) -> Item:
    return Item(name, size_bytes, int(modified.timestamp() * 1e9), (etag, name))


def _taken(path: str, action: str = "cannot write") -> StorageError:
    return StorageError.of(action, path, FileExistsError(errno.EEXIST, "an object of this name exists"))
