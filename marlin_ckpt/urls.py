"""The URLs of object stores, in the place of paths: `s3://bucket/prefix`."""

import errno
import os
import re
from typing import Any, NamedTuple, TypeGuard

from marlin_ckpt.errors import ArgumentsError, Fault, StorageError

SCHEME = "s3://"
NOT_KEPT = "are not kept in object stores in this version"
_ANY_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_BY_PATHLIB = r"(?i)(s3|gs|az):/(?!/)"  # which makes one slash of two
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; older buckets had "_" and
# capital letters, which other stores still allow.
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}"
_MOST_KEY_BYTES = 1024  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html


class Place(NamedTuple):
    """A bucket, and the start that the keys of a directory's objects have in it.

    Attributes:
        bucket: its name.
        prefix: "" or ends with "/".
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")


def is_url(path: Any) -> TypeGuard[str]:
    """Whether a path is the URL of an object store; then no function of `os` may be asked about it."""
    return isinstance(path, str) and path.startswith(SCHEME)


def is_bucket(url: str) -> bool:
    """Whether a URL names a bucket, and nothing in it.

    Raises:
        ArgumentsError: as `parse`.
    """
    return not parse(url).prefix


def fault(path: str | os.PathLike[str]) -> str:
    """What is wrong with the path or URL of a directory; "" where nothing is.

    What looks like the URL of a store that is not known here would become a local folder.
    """
    text = os.fspath(path)
    if is_url(text):
        try:
            parse(text)
        except ArgumentsError as error:
            return error.faults[0].message
        return ""
    if re.match(_BY_PATHLIB, text):
        return "a slash is missing, as in a URL made a Path: expected s3://bucket/prefix, as a string"
    scheme = re.match(_ANY_SCHEME, text)
    return (
        ""
        if scheme is None
        else f"{scheme.group()} is not known here: expected a directory, or s3://bucket/prefix"
    )


def check(path: str | os.PathLike[str]) -> None:
    """Refuses what looks like the URL of a store that is not known here.

    Raises:
        ArgumentsError: it does, or is such a URL and leads nowhere.
    """
    if why := fault(path):
        raise ArgumentsError([Fault("path", why)])


def refuse(path: Any, what: str, hint: str = "") -> None:
    """Refuses the URL of an object store for what is not kept there in this version.

    Args:
        path: any path or URL.
        what: is not kept there.
        hint: what to do about it.

    Raises:
        StorageError: it is a URL (`errno` is ENOTSUP).
    """
    if is_url(path):
        told = f"{what} {NOT_KEPT}"
        raise StorageError(told, path, hint or "take a local or a shared directory", errno=errno.ENOTSUP)


def parse(url: str) -> Place:
    """Reads `s3://bucket/prefix`, of a directory.

    Args:
        url: a "/" at its end makes no difference.

    Raises:
        ArgumentsError: it names no bucket, or holds what would mean another object than it seems to.
    """
    rest = url.removeprefix(SCHEME)
    bucket, _, prefix = rest.partition("/")
    if why := _url_fault(rest, bucket, prefix.rstrip("/")):
        # Not the URL: somebody may have put a password into it.
        raise ArgumentsError([Fault("URL", f"{why}; it is s3://bucket/prefix")])
    prefix = prefix.rstrip("/")
    return Place(bucket, f"{prefix}/" if prefix else "")


def _url_fault(rest: str, bucket: str, prefix: str) -> str:  # noqa: PLR0911 - one for each reason
    if "?" in rest or "#" in rest:
        return "a query or a fragment has no meaning in it"
    if "@" in bucket or ":" in bucket:
        return "it may hold no user, password or port; credentials come from where boto3 finds them"
    if not bucket:
        return "it names no bucket"
    if not re.fullmatch(_BUCKET, bucket):
        return f"{bucket!r} is no name of a bucket"
    if not prefix:
        return ""
    parts = prefix.split("/")
    if "" in parts:
        return "an empty name between two slashes"
    if "." in parts or ".." in parts:
        return ". and .. are names like others in a store, and lead nowhere"
    if "\\" in prefix:
        return "a backslash, which some stores make a slash of"
    if any(ord(one) < ord(" ") or one == "\x7f" for one in prefix):
        return "it holds a control character"
    return (
        "it is longer than a key may be" if len(prefix.encode("utf-8", "replace")) > _MOST_KEY_BYTES else ""
    )
