"""The section `remote` of a checkpointer's YAML, and the URLs of object stores."""

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from marlin_ckpt.errors import ArgumentsError, Fault
from marlin_ckpt.fields import Checked, PathText, duration_of, size_of
from marlin_ckpt.keep import DURATION

SCHEME = "s3://"
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; older buckets had "_" and
# capital letters, which other stores still allow.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_MOST_KEY_BYTES = 1024  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_LEAST_PART, _MOST_PART = 5 << 20, 5 << 30  # .../userguide/qfacts.html
_MIB = 1 << 20


def _part_size_fault(value: str | int) -> str:
    if value == "auto":
        return ""
    try:
        size = size_of(str(value))
    except ValueError as error:
        return str(error)
    if not _LEAST_PART <= size <= _MOST_PART or size % _MIB:
        return f"expected auto, or whole MiB from 5MiB to 5GiB, not {value!r}"
    return ""


@dataclass
class RemoteArguments(Checked):
    """How checkpoints get to an object store and back.

    Credentials are none of them: they come from where boto3 finds them, the environment, `~/.aws`, or the
    role of the machine, and so do a proxy and a CA bundle.

    Attributes:
        endpoint: the URL of the store, of another than AWS. `None` takes what boto3 finds (AWS_ENDPOINT_URL,
            `~/.aws/config`), and else AWS.
        region: of the bucket. `None` takes what boto3 finds.
        part_size: how large the pieces are in which an object is uploaded, such as `64MiB`. `auto` takes
            16 MiB, and more where an object would need more than 9,000 of them.
        parallel: how many pieces are on their way at the same time.
        timeout: how long one request may wait for an answer, or for the next bytes of one.
        give_up_after: how long failed requests are tried again before an error is raised.
        conditional: saving needs a store that writes on conditions (If-None-Match, If-Match), since nothing
            else keeps two runs from overwriting each other. `allow-without` saves to a store without them,
            too, where no second run may use the directory.

    Raises:
        ArgumentsError: at construction, naming every field that is wrong.
    """

    endpoint: str | None = None
    region: str | None = None
    part_size: str | int = field(default="auto", metadata={"check": _part_size_fault})
    parallel: int = field(default=4, metadata={"minimum": 1, "maximum": 64})
    timeout: str = field(default="30s", metadata=DURATION)
    give_up_after: str = field(default="10m", metadata=DURATION)
    conditional: str = field(default="require", metadata={"choices": ("require", "allow-without")})

    @property
    def part_bytes(self) -> int | None:
        """The size of a part in bytes; None for `auto`."""
        return None if self.part_size == "auto" else size_of(str(self.part_size))

    @property
    def timeout_s(self) -> float:
        """`timeout` in seconds."""
        return duration_of(self.timeout)

    @property
    def patience_s(self) -> float:
        """`give_up_after` in seconds."""
        return duration_of(self.give_up_after)

    def faults(self) -> list[Fault]:
        """What is wrong; see `Checked.faults`."""
        found = super().faults()
        if self.endpoint is not None and (why := _endpoint_fault(self.endpoint)):
            found.append(Fault("endpoint", why))
        return found


def _endpoint_fault(endpoint: str) -> str:
    # The URL itself is not shown: somebody may have put a password into it.
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "expected a URL that begins with http:// or https:// and names a host"
    if parts.username is not None or parts.password is not None:
        return "expected no user or password in the URL; credentials come from where boto3 finds them"
    return "expected a URL without a query or a fragment" if parts.query or parts.fragment else ""


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


def is_url(path: Any) -> bool:
    """Whether a path is the URL of an object store; then no function of `os` may be asked about it."""
    return isinstance(path, str) and path.startswith(SCHEME)


def check(path: PathText) -> None:
    """Refuses what looks like the URL of a store that is not known here, which would become a local folder.

    Raises:
        ArgumentsError: it is one.
    """
    if isinstance(path, str) and not is_url(path) and (scheme := _ANY_SCHEME.match(path)):
        what = f"{scheme.group()} is not known here; checkpoints are kept in local directories and in s3://"
        raise ArgumentsError([Fault("path", what)])


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
    if not _BUCKET.fullmatch(bucket):
        return f"{bucket!r} is no name of a bucket"
    if not prefix:
        return ""
    parts = prefix.split("/")
    if "" in parts:
        return "an empty name between two slashes"
    if "." in parts or ".." in parts:
        return ". and .. are names like others in a store, and lead nowhere"
    if any(ord(one) < ord(" ") or one == "\x7f" for one in prefix):
        return "it holds a control character"
    return (
        "it is longer than a key may be" if len(prefix.encode("utf-8", "replace")) > _MOST_KEY_BYTES else ""
    )
