"""Objects that are copied by the server, and removed if they are unchanged."""

import contextlib
import errno
from collections.abc import Callable
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError, StorageError
from marlin_ckpt.storage.s3 import answers, conditions, keys, uploads
from marlin_ckpt.storage.s3.keys import Key
from marlin_ckpt.storage.s3.retrying import Retrying
from marlin_ckpt.storage.s3.sums import Sums
from marlin_ckpt.storage.s3.uploading.parts import NONCE

# CopyObject takes no more: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
MOST_AT_ONCE = 5 << 30
_RANGE_BYTES = 1 << 30  # of a larger object that is copied by one request


def copy(source: Key, to: Key, etag: str, *, ends_others: bool = False) -> None:
    """Copies an object over nothing, with its metadata and its checksum.

    Args:
        source: the object.
        to: what it is copied to; the same object there, of a copy that was interrupted, is left.
        etag: of the object.
        ends_others: nobody else may write there, so that the uploads of `to` are of copies that were killed.

    Raises:
        StorageError: it is not the object that it was (ESTALE), another has the name (EEXIST), or the store
            refuses.
        CheckpointNotFoundError: it is not there.
    """
    retrying = Retrying(source.client)
    about = _unchanged(source, etag, retrying)
    found = keys.head(to, retrying)
    if found is not None:
        if is_same(found, about):
            return
        raise _taken(to)
    if about["ContentLength"] > MOST_AT_ONCE:
        if ends_others:
            uploads.end_of(to, retrying)
        _copy_in_parts(source, to, about, retrying)
        return

    def request(condition: dict[str, str]) -> None:
        to.client.control.copy_object(
            Bucket=to.bucket, Key=to.key, CopySource={"Bucket": source.bucket, "Key": source.key},
            CopySourceIfMatch=etag, **condition,
        )  # fmt: skip

    def look() -> None:
        if keys.head(to, retrying) is not None:
            raise _taken(to)

    def copy_it() -> None:
        conditions.or_look(to.client, "CopyObject", {"IfNoneMatch": "*"}, request, look)

    passes = answers.OF_CONDITIONS
    _do(lambda: retrying.do(copy_it, "cannot move", to.path, passes=passes), source, to, about)


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers to HEAD are of copies of one object."""
    nonces = [about["Metadata"].get(NONCE) for about in (one, other)]
    if any(nonces):
        return bool(nonces[0] == nonces[1] and one["ContentLength"] == other["ContentLength"])
    return bool(one["ETag"] == other["ETag"] and one["ContentLength"] == other["ContentLength"])


def _do(request: Callable[[], None], source: Key, to: Key, about: dict[str, Any]) -> None:
    """Makes a request that copies; where it fails, the copy may be there: an answer may have been lost."""
    try:
        request()
    except (ClientError, answers.OvertakenError) as error:
        found = keys.head(to, Retrying(to.client))
        if found is not None and is_same(found, about):
            return
        if found is not None:
            raise _taken(to) from None
        if isinstance(error, answers.OvertakenError):
            raise
        answer = answers.answer_of(error)
        if answer is not None and answer.code == "NoSuchUpload":
            raise answers.error_for(error, "cannot move", to.path) from None
        if answer is not None and answer.status == answers.MISSING:
            raise CheckpointNotFoundError("no such object", source.path) from None
        raise another(source.path) from None


def _taken(to: Key) -> StorageError:
    return StorageError.of("cannot move", to.path, FileExistsError(errno.EEXIST, "File exists"))


def _copy_in_parts(source: Key, to: Key, about: dict[str, Any], retrying: Retrying) -> None:
    for _ in range(keys.MOST_UPLOADS):
        with contextlib.suppress(answers.OvertakenError):
            _copy_in_parts_once(source, to, about, retrying)
            return
    raise answers.overtaken("cannot move", to.path)


def _copy_in_parts_once(source: Key, to: Key, about: dict[str, Any], retrying: Retrying) -> None:
    control = to.client
    upload_id, sums = keys.begin(to, about["Metadata"], retrying, "cannot move")
    size, copied = int(about["ContentLength"]), []
    try:
        for number, start in enumerate(range(0, size, _RANGE_BYTES), 1):
            part = {
                "Bucket": to.bucket, "Key": to.key, "UploadId": upload_id, "PartNumber": number,
                "CopySource": {"Bucket": source.bucket, "Key": source.key},
                "CopySourceRange": f"bytes={start}-{min(size, start + _RANGE_BYTES) - 1}",
                "CopySourceIfMatch": about["ETag"],
            }  # fmt: skip
            answer = retrying.do(partial(control.control.upload_part_copy, **part), "cannot move", to.path)
            done = answer["CopyPartResult"]
            crc32 = {"ChecksumCRC32": done["ChecksumCRC32"]} if "ChecksumCRC32" in done else {}
            copied.append({"PartNumber": number, "ETag": done["ETag"], **crc32})
        is_whole = about.get("ChecksumType") == "FULL_OBJECT" and sums is Sums.WHOLE
        whole = about.get("ChecksumCRC32") if is_whole else None
        summed = {"ChecksumCRC32": whole, "ChecksumType": "FULL_OBJECT"} if whole else {}

        def complete() -> None:
            control.control.complete_multipart_upload(
                Bucket=to.bucket, Key=to.key, UploadId=upload_id, MultipartUpload={"Parts": copied},
                **conditions.over_nothing(to.client), **summed,
            )  # fmt: skip

        _do(lambda: keys.complete(to, complete, retrying, "cannot move"), source, to, about)
    except BaseException:
        with contextlib.suppress(MarlinError):  # what stays is ended by whoever takes the lease next
            keys.abort(to, upload_id, Retrying(to.client, patience_s=5.0))
        raise


def remove(key: Key, etag: str, patience_s: float | None = None) -> None:
    """Removes an object if it is unchanged; one that an earlier request has removed is removed.

    It is looked at before, since there are stores that obey no condition of this request.

    Args:
        key: of the object.
        etag: of the object.
        patience_s: as for `Retrying`.

    Raises:
        StorageError: another object has its name (ESTALE), or the store refuses.
        CheckpointNotFoundError: it was not there.
    """
    retrying = Retrying(key.client, patience_s)
    _unchanged(key, etag, retrying)

    def request(condition: dict[str, str]) -> None:
        key.client.control.delete_object(Bucket=key.bucket, Key=key.key, **condition)

    def look() -> None:
        found = keys.head(key, retrying)
        if found is not None and found["ETag"] != etag:
            raise another(key.path)

    def remove_it() -> None:
        conditions.or_look(key.client, "DeleteObject", {"IfMatch": etag}, request, look)

    try:
        retrying.do(remove_it, "cannot remove", key.path, passes=answers.OF_CONDITIONS)
    except ClientError:
        if keys.head(key, retrying) is not None:
            raise another(key.path) from None


def _unchanged(key: Key, etag: str, retrying: Retrying) -> dict[str, Any]:
    """What the store says of an object that is as it was."""
    found = keys.head(key, retrying)
    if found is None:
        raise CheckpointNotFoundError("no such object", key.path)
    if found["ETag"] != etag:
        raise another(key.path)
    return found


def another(path: str) -> StorageError:
    """The error where a newer object has the name."""
    return StorageError("another object has taken its place", path, errno=errno.ESTALE)
