"""One object by its key: what the store says of it, and the uploads that will be it."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import ClientError

from marlin_ckpt.storage.s3 import answers
from marlin_ckpt.storage.s3.client import Client
from marlin_ckpt.storage.s3.retrying import Retrying
from marlin_ckpt.storage.s3.sums import Sums, checked, learn
from marlin_ckpt.storage.s3.unreached import NotOfStoreError

_BEGUN_WITH = {
    Sums.WHOLE: {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"},
    Sums.PARTS: {"ChecksumAlgorithm": "CRC32"},
    Sums.MD5: {},
}

MOST_UPLOADS = 3  # of one object, of which others end each
_MOST_CONFLICTS = 4  # of one commit, which may have met an earlier request of its own that is still under way

_T = TypeVar("_T")


class Key(NamedTuple):
    """Where an object is.

    Attributes:
        client: that reaches it.
        bucket: its bucket.
        key: its key.
        path: its URL.
    """

    client: Client
    bucket: str
    key: str
    path: str


def head(key: Key, retrying: Retrying) -> dict[str, Any] | None:
    """What the store says of an object; None where there is none.

    Raises:
        StorageError: the store refuses to say, or does not answer.
        CheckpointNotFoundError: there is no such bucket.
    """

    def request() -> dict[str, Any]:
        how = {"Bucket": key.bucket, "Key": key.key, "ChecksumMode": "ENABLED"}
        found: dict[str, Any] = key.client.control.head_object(**how)
        answers.etag_in(found)
        if "ContentLength" not in found:
            raise NotOfStoreError("the answer names no length of the object")
        # They are names of headers, of which some servers and proxies change the case.
        found["Metadata"] = {name.lower(): value for name, value in found.get("Metadata", {}).items()}
        return found

    try:
        return retrying.do(request, "cannot look at", key.path, passes=(answers.MISSING,))
    except ClientError:
        return None


def begin(key: Key, metadata: Mapping[str, str], retrying: Retrying, action: str) -> tuple[str, Sums]:
    """Begins an upload in parts.

    Returns:
        its id, and what it is checked by.

    Raises:
        StorageError: the store refuses, or does not answer.
    """

    def request(sums: Sums) -> tuple[str, Sums]:
        answer = key.client.control.create_multipart_upload(
            Bucket=key.bucket, Key=key.key, Metadata=metadata, **_BEGUN_WITH[sums]
        )
        # A store that has never heard of it answers as if it had not been asked.
        if sums is Sums.WHOLE and answer.get("ChecksumType") != "FULL_OBJECT":
            sums = Sums.PARTS
        return str(answer["UploadId"]), sums

    upload_id, sums = retrying.do(lambda: checked(key.client, request), action, key.path)
    learn(key.client, sums)
    return upload_id, sums


def complete(key: Key, request: Callable[[], _T], retrying: Retrying, action: str) -> _T:
    """Makes the request that commits an upload in parts.

    Args:
        key: of the object.
        request: commits it.
        retrying: makes the request.
        action: for messages.

    Raises:
        OvertakenError: other requests to the object have ended the upload.
        ClientError: a condition does not hold, or there is no such upload.
        StorageError: the store refuses, or does not answer.
    """
    conflicts = 0

    def once() -> _T:
        nonlocal conflicts
        try:
            return request()
        except ClientError as error:
            answer = answers.answer_of(error)
            status = 0 if answer is None else answer.status
            conflicts += status == answers.CONFLICT
            if conflicts > _MOST_CONFLICTS or (conflicts and status == answers.MISSING):
                raise answers.OvertakenError from None
            raise

    return retrying.do(once, action, key.path, passes=answers.OF_CONDITIONS)


def abort(key: Key, upload_id: str, retrying: Retrying) -> None:
    """Ends an upload that is not to be committed; one that has ended stays ended.

    Raises:
        StorageError: the store refuses, or does not answer.
    """

    def request() -> None:
        key.client.control.abort_multipart_upload(Bucket=key.bucket, Key=key.key, UploadId=upload_id)

    with contextlib.suppress(ClientError):
        retrying.do(request, "cannot end an upload", key.path, passes=(answers.MISSING,))
