"""A prefix in a bucket as a store."""

import contextlib
import errno
import uuid
from collections.abc import Callable, Iterable, Iterator

from botocore.exceptions import BotoCoreError, ClientError

from marlin_ckpt.entries import Identity, Item
from marlin_ckpt.errors import CheckpointNotFoundError, StorageError
from marlin_ckpt.escaping import get_logger
from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage.s3 import answers, conditions, keys, moving, uploads
from marlin_ckpt.storage.s3.client import Client, client, now_s
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.reading import ABOUT, S3Reading, identity_of
from marlin_ckpt.storage.s3.retrying import Retrying
from marlin_ckpt.storage.s3.uploading import copying
from marlin_ckpt.storage.s3.uploading.parts import NONCE, Upload
from marlin_ckpt.storage.target import Earlier, Fill
from marlin_ckpt.urls import Place, parse

_logger = get_logger(__name__)


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
    except (BotoCoreError, ValueError) as error:  # the latter of an endpoint that is no URL
        raise answers.error_for(error, "cannot reach the store", str(place)) from None


class S3Store(S3Reading):
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
        super().__init__(client, place)
        self.guard: Callable[[], None] | None = None
        self._patience_s: float | None = None

    def publish(  # noqa: PLR0913 - of which all but three are seldom given
        self,
        name: str,
        size_bytes: int,
        fill: Fill,
        *,
        replaces: Identity | None = None,
        about: str = "",
        image: memoryview | None = None,
        earlier: Earlier | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> Item:
        """Uploads an object whole, or not at all; see `Store.publish`.

        That something else has the name already is found out by the commit, where the store knows conditions:
        who does not look before may send all of it for nothing.

        Args:
            name: of the object.
            size_bytes: how long it will be, roughly.
            fill: as for `Store.publish`.
            replaces: as for `Store.publish`.
            about: that its `Item` will have; ASCII, at most 2 KB with all else.
            image: memory for the whole object; see `Upload`.
            earlier: the object that was written before this, of which the store copies what is the same where
                it can; remembers this one.
            before_commit: called when all is in the store but the commit; may raise.

        Where another request to the object ends an upload, or the store does not copy what it was to, the
        object is uploaded anew: then `fill` and `before_commit` are called again.

        Returns:
            what `head` would say, its time by the server's clock as `now_s` knows it.
        """
        key = self._key(name)
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": str(replaces[0])}
        if self._client.settings.conditional != "require":
            condition = {}
        if not condition:
            self._check_expected(key, replaces)
        metadata = {NONCE: uuid.uuid4().hex, **({ABOUT: about} if about else {})}
        for _ in range(keys.MOST_UPLOADS):
            about_it = (key, size_bytes, metadata, image, self._patience_s)
            upload = copying.copies_from(earlier, self._key, *about_it) or Upload(*about_it)
            try:
                etag, stored_bytes = self._uploaded(upload, fill, before_commit, condition)
                break
            except answers.OvertakenError:
                _logger.info("Uploading %s anew: the store says that it met another request.", key.path)
            except answers.CopyRefusedError as error:
                copying.give_up(earlier, key, error)
            except (answers.RefusedError, ClientError) as error:
                raise self._not_committed(error, key, replaces) from None
        else:
            raise answers.overtaken("cannot write", key.path)
        if not upload.is_proven:
            self._check_length(key, etag, stored_bytes)
        if earlier is not None:
            earlier.last = upload.blocks(name, etag)
        return Item(name, stored_bytes, int(self.now_s() * 1e9), (etag, name), about=about)

    def _uploaded(
        self, upload: Upload, fill: Fill, before_commit: Callable[[], None], condition: dict[str, str]
    ) -> tuple[str, int]:
        """Fills an upload and commits it, and returns the ETag and the length of the object."""
        try:
            writer = upload.writer()
            fill(writer)
            stored_bytes = writer.finish()
            before_commit()
            if self.guard is not None:
                upload.fence()
                self.guard()
                upload.guard = self.guard
            return upload.commit(condition), stored_bytes
        except StorageError as error:
            if upload.copies and error.errno in copying.REFUSED:
                raise answers.CopyRefusedError(error.what, is_lasting=True, is_of_lengths=True) from None
            raise
        finally:
            upload.stop()
            upload.abort()

    def _check_length(self, key: Key, etag: str, stored_bytes: int) -> None:
        """Looks how long an object is of which no sum proves it."""
        try:
            found = keys.head(key, self._retrying)
        except StorageError as error:
            raise answers.unsure(error, "all of it is stored") from None
        if found is not None and str(found["ETag"]) == etag and found["ContentLength"] != stored_bytes:
            what = f"the store has {found['ContentLength']:,} of {stored_bytes:,} bytes"
            raise StorageError(what, key.path, errno=errno.EIO)

    def check_conditions(self, name: str) -> None:
        """Finds out whether the store obeys conditions; see `conditions.check`.

        Args:
            name: of an object that is there.
        """
        conditions.check(self._key(name))

    def hurry(self, patience_s: float) -> None:
        """Gives up sooner than the settings say, where the store does not answer.

        Args:
            patience_s: after how many seconds.
        """
        self._patience_s = min(patience_s, self._client.settings.patience_s)
        self._retrying = Retrying(self._client, self._patience_s)

    def now_s(self) -> float:
        """What the server's clock shows, in seconds since 1970; to about a second."""
        return now_s() + self._client.offset_s

    @property
    def doubt_s(self) -> float:
        """By how much the server's clock may be ahead of what `now_s` says, in seconds."""
        return self._client.doubt_s

    def _check_expected(self, key: Key, replaces: Identity | None) -> None:
        """Refuses what a store would refuse at the commit that knows conditions."""
        found = keys.head(key, self._retrying)
        if found is None and replaces is not None:
            raise moving.another(key.path)
        if found is not None and replaces is None:
            raise _taken(key.path)
        if found is not None and replaces is not None and found["ETag"] != replaces[0]:
            raise moving.another(key.path)

    def _not_committed(
        self, error: BaseException, key: Key, replaces: Identity | None
    ) -> StorageError | CheckpointNotFoundError:
        answer = answers.answer_of(error)
        # The bucket, or the upload; AWS says so of the object, too, where it is to be replaced and has gone.
        if answer is not None and answer.status == answers.MISSING and answer.code != "NoSuchKey":
            return answers.error_for(error, "cannot write", key.path)
        return _taken(key.path) if replaces is None else moving.another(key.path)

    def move(self, name: str, to: str, identity: Identity) -> None:
        """Copies and removes an object, or all in a folder; see `Store.move`."""
        self._check_guard()
        source, target = self._key(name), self._key(to)
        if _is_of_object(identity):
            if any(True for _ in self.items(to)):
                raise _taken(target.path, "cannot move")
            etag = str(identity[0])
            moving.copy(source, target, etag, ends_others=self.guard is not None)
            self._check_guard()  # a copy may take longer than a lease
            moving.remove(source, etag)
            return
        members = self._members(name, identity)
        if keys.head(target, self._retrying) is not None or self._holds_others(to, name, members):
            raise _taken(target.path, "cannot move")
        for one in members:
            target = self._key(to + one.name[len(name) :])
            moving.copy(self._key(one.name), target, str(one.identity[0]), ends_others=self.guard is not None)
        for one in members:
            self._check_guard()
            moving.remove(self._key(one.name), str(one.identity[0]))

    def _holds_others(self, to: str, name: str, members: Iterable[Item]) -> bool:
        """Whether a folder has an object that is not of the one that moves there."""
        expected = {to + one.name[len(name) :] for one in members}
        return any(one.name not in expected for one in self.items(to))

    def remove(self, name: str, identity: Identity) -> None:
        """Removes an object if it is unchanged, or all in a folder; see `Store.remove`."""
        self._check_guard()
        if uploads.MARK in name:
            key, _, upload_id = name.partition(uploads.MARK)
            keys.abort(self._key(key), upload_id, self._retrying)
            return
        if _is_of_object(identity):
            moving.remove(self._key(name), str(identity[0]), self._patience_s)
            return
        for one in self._members(name, identity):
            self._check_guard()
            moving.remove(self._key(one.name), str(one.identity[0]), self._patience_s)

    def _check_guard(self) -> None:
        """Looks whether this process may still change what is here: a run that was stopped may not."""
        if self.guard is not None:
            self.guard()

    def _members(self, name: str, identity: Identity) -> list[Item]:
        """The objects of a folder that is as it was."""
        members = list(self.items(name))
        if not members:
            raise CheckpointNotFoundError("no such object", self._path(name))
        if identity_of(members) != identity:
            raise moving.another(self._path(name))
        return members

    def remove_empty(self, folder: str) -> None:
        """Does nothing: a folder without an object is none."""

    def free_space(self) -> int | None:
        """None: a store has no end."""
        return None

    def unfinished(self, folder: str = "") -> tuple[str, ...]:
        """The uploads under way to a folder; see `Store.unfinished`."""
        return tuple(one.name for one in self.uploads(folder))

    def is_unfinished(self, name: str) -> bool:
        """Whether it is one of `unfinished`."""
        return uploads.MARK in name

    def is_abandoned(self, name: str) -> bool:
        """Whether whoever uploads is known to be dead: with the lease in our hands all others are."""
        return uploads.MARK in name and self.guard is not None

    def append(self, name: str, data: bytes) -> None:
        """Refuses: objects do not grow.

        Raises:
            StorageError: always.
        """
        raise StorageError(
            f"cannot append {len(data):,} bytes to an object", self._path(name), errno=errno.ENOTSUP
        )


def _is_of_object(identity: Identity) -> bool:
    """Whether an identity is one of an object; that of a folder begins with a number."""
    return isinstance(identity[0], str)


def _taken(path: str, action: str = "cannot write") -> StorageError:
    return StorageError.of(action, path, FileExistsError(errno.EEXIST, "an object of this name exists"))
