"""What a refused request means, and the error to raise for it: with no key, token or signature in it."""

import errno
import re
import shlex
from typing import Any, NamedTuple

import urllib3.exceptions
from botocore.exceptions import BotoCoreError, ClientError

from marlin_ckpt.errors import CheckpointNotFoundError, MarlinError, StorageError
from marlin_ckpt.storage.s3 import unreached
from marlin_ckpt.storage.s3.unreached import LOOK_AT_ENDPOINT, SIGN_IN

CHANGED = 412  # a condition does not hold: RFC 9110, 15.5.13
CONFLICT = 409  # of two writers at the same time one is told this
MISSING = 404
OF_CONDITIONS = (CHANGED, CONFLICT, MISSING)  # which whoever changes an object on a condition understands

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_AGAIN_STATUS = {408, 425, 429, 500, 502, 503, 504}
_AGAIN_CODES = {
    "BadDigest", "XAmzContentChecksumMismatch", "InternalError", "OperationAborted", "RequestTimeout",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded",
    "IncompleteBody", "ConditionalRequestConflict",
}  # fmt: skip
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_FULL = {"QuotaExceeded", "EntityTooLarge", "XMinioStorageFull", "InsufficientStorage"}
_NO_BUCKET = {"NoSuchBucket"}
_UNIMPLEMENTED = 501
# What Backblaze says of a checksum that it does not know, and what others may say.
_ODD = {"InvalidArgument", "InvalidRequest", "BadRequest", "NotSupported", "UnsupportedOperation"}
_BY_PROXY = 407
_LOOK_AT_REGION = "look at the region: checkpointer.remote.region, AWS_DEFAULT_REGION"
_HINTS = {
    "AccessDenied": "the credentials are wrong, or may not do this: s3:ListBucket, s3:GetObject, "
    "s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and s3:ListBucketMultipartUploads are needed",
    "InvalidAccessKeyId": SIGN_IN,
    "SignatureDoesNotMatch": "the secret key is another one's, or a proxy changes the request",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "ExpiredToken": "the credentials have expired, and were found so again: sign in anew",
    "NoSuchUpload": "look which run saves there: marlin-ckpt log shows it",
    "NoSuchBucket": "make the bucket, or look at its name and the endpoint",
    "InvalidBucketName": "look at the name of the bucket",
    "InvalidObjectState": "it was moved to an archive: have the store restore it first (RestoreObject)",
    "AuthorizationHeaderMalformed": _LOOK_AT_REGION,
    "IllegalLocationConstraintException": _LOOK_AT_REGION,
    "PermanentRedirect": f"{_LOOK_AT_REGION}; and at the endpoint",
    "NotImplemented": "if that is a condition: set checkpointer.remote.conditional: allow-without, with one "
    "run alone; else use another store",
}
_MOST_LETTERS = 300  # of what a server says


class Answer(NamedTuple):
    """An answer that refuses a request.

    Attributes:
        status: of HTTP.
        code: the store's word for it, such as `NoSuchKey`; "" where it gives none.
        message: the store's sentence.
        is_of_s3: whether it is written as a store does, and not as a web server or a proxy.
    """

    status: int
    code: str
    message: str
    is_of_s3: bool = True

    @classmethod
    def read(cls, status: int, body: bytes) -> "Answer":
        """Reads the XML of an answer's body, by its two elements that matter."""
        text = body.decode("utf-8", "replace")
        code, message = (
            found.group(1).strip()
            if (found := re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL))
            else ""
            for name in ("Code", "Message")
        )
        return cls(status, code, message, is_of_s3=bool(code) or not body)

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status in _AGAIN_STATUS or self.code in _AGAIN_CODES

    @property
    def is_expired(self) -> bool:
        """Whether the credentials are refused that may have been renewed meanwhile."""
        # The answer to a HEAD has no body that would say so: of expired ones AWS makes 400.
        # A key that was replaced is an unknown one, or a wrong one, by the word of each store.
        is_silent = self.status == 400 and self.is_of_s3 and self.code in ("", "InvalidToken")  # noqa: PLR2004
        return self.code in _EXPIRED or (self.status == 403 and self.is_of_s3) or is_silent  # noqa: PLR2004

    @property
    def is_unimplemented(self) -> bool:
        """Whether the store does not know what it was asked for, or a header of it."""
        return self.status == _UNIMPLEMENTED or self.code == "NotImplemented"

    @property
    def is_odd(self) -> bool:
        """Whether the store may not know a header; not all that do not say so alike."""
        return self.is_unimplemented or self.code in _ODD


class RefusedError(Exception):
    """The store refuses a request for data, as `ClientError` is for all others."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.code}")
        self.answer = answer


class OvertakenError(Exception):
    """Another request to the same object has ended an upload at its commit: it is to be made anew.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html, of the answer 409.
    """


class CopyRefusedError(Exception):
    """The store does not copy a part of an object: the bytes are to be sent.

    Attributes:
        is_lasting: whether it never will.
        is_of_lengths: whether it may, if all parts have one length.
    """

    def __init__(self, why: str, *, is_lasting: bool, is_of_lengths: bool = False) -> None:
        super().__init__(why)
        self.is_lasting, self.is_of_lengths = is_lasting, is_of_lengths


def overtaken(action: str, where: str) -> StorageError:
    """The error where every upload of an object has ended so."""
    what = f"{action}: other requests to the same object have ended each upload of it"
    return StorageError(what, where, "see who else writes there, and try again", errno=errno.EBUSY)


def unsure(error: MarlinError, whether: str) -> MarlinError:
    """An error of a save of which no more answers came, after which it may be whole in the store."""
    verify = f"marlin-ckpt verify {shlex.quote(error.where)}"
    error.what += f"; whether {whether} is not known"
    error.hint = f"once the store answers, {verify} tells" + (f"; {error.hint}" if error.hint else "")
    return error


def endless(action: str, where: str) -> StorageError:
    """The error where an answer is one page of a list, and does not say where that goes on."""
    what = f"{action}: the store answers that there is more, and not where it goes on"
    return StorageError(what, where, LOOK_AT_ENDPOINT, errno=errno.EPROTO)


def answer_of(error: BaseException) -> Answer | None:
    """The answer that an error is about; None where the store did not answer."""
    if isinstance(error, RefusedError):
        return error.answer
    if isinstance(error, ClientError):
        about = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(about.get("Code", ""))
        # Of a HEAD there is no body, and botocore takes the status for the code, as of what is no XML.
        is_worded = code != str(status)
        is_of_s3 = is_worded or error.operation_name.startswith("Head")
        return Answer(status, code if is_worded else "", str(about.get("Message", "")), is_of_s3)
    return None


def etag_in(headers: Any) -> str:
    """The version that an answer is about.

    Raises:
        NotOfStoreError: it names none, so that it is not the store's, whatever its status says.
    """
    etag = headers.get("ETag")
    if not etag:
        raise unreached.NotOfStoreError("the answer names no version of the object")
    return str(etag)


def is_of_store(error: BaseException) -> bool:
    """Whether an error is one that a request ends with."""
    return isinstance(
        error, (RefusedError, BotoCoreError, ClientError, urllib3.exceptions.HTTPError, OSError)
    )


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    answer = answer_of(error)
    return unreached.may_pass(error) if answer is None else answer.is_passing


def error_for(  # noqa: PLR0911 - one for each reason
    error: BaseException, action: str, where: str
) -> StorageError | CheckpointNotFoundError:
    """What is raised in the place of an error.

    Args:
        error: what a request ended with.
        action: that was tried, such as `cannot read`.
        where: the URL of the object or directory.
    """
    answer = answer_of(error)
    if answer is None:
        return unreached.error_for(error, action, where)
    if answer.status == _BY_PROXY:
        why, hint = unreached.by_proxy(answer.status)
        return StorageError(f"{action}: {why}", where, hint, errno=errno.EACCES)
    if not answer.is_of_s3:
        what = f"{action}: {unreached.NOT_S3} (status {answer.status})"
        return StorageError(what, where, f"{LOOK_AT_ENDPOINT}, the network and the proxy", errno=errno.EPROTO)
    if answer.code in _NO_BUCKET:
        # No CheckpointNotFoundError: a name that is wrong must not pass for a directory without checkpoints.
        return StorageError("no such bucket", where, _HINTS["NoSuchBucket"], errno=errno.EREMOTEIO)
    if answer.code == "NoSuchUpload":
        what = "not saved: another run has taken the directory over, and ended this upload"
        return StorageError(what, where, _HINTS["NoSuchUpload"], errno=errno.ESTALE)
    if answer.status == MISSING:
        return CheckpointNotFoundError("no such object", where)
    said = answer.code or f"status {answer.status}"
    if answer.message and answer.code not in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        said += f", {answer.message[:_MOST_LETTERS].rstrip('.')}"
    if answer.status == 403 and not answer.code:  # noqa: PLR2004 - of a HEAD
        said = "AccessDenied"
    # A HEAD is answered without a word of why.
    code = answer.code or {400: "ExpiredToken", 403: "AccessDenied"}.get(answer.status, "")
    hint = _HINTS.get(code, "")
    return StorageError(f"{action}: the store answers {said}", where, hint, errno=_number(answer))


def _number(answer: Answer) -> int:
    if answer.code in _FULL or answer.status == 507:  # noqa: PLR2004
        return errno.ENOSPC
    if answer.status in (401, 403):
        return errno.EACCES
    if answer.status in (CHANGED, CONFLICT):
        return errno.ESTALE
    if answer.is_unimplemented:
        return errno.ENOTSUP
    return errno.ETIMEDOUT if answer.is_passing else errno.EREMOTEIO
