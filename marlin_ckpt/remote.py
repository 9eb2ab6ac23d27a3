"""The section `remote` of a checkpointer's YAML: how checkpoints get to an object store and back."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from marlin_ckpt.fields import Checked, duration_of, size_of
from marlin_ckpt.keep import DURATION

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


def _endpoint_fault(endpoint: str) -> str:
    # The URL itself is not shown: somebody may have put a password into it.
    try:
        parts = urlsplit(endpoint)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets around what is no address, a port that is no number
        is_complete = False
    if not is_complete:
        return "expected a URL that begins with http:// or https:// and names a host"
    if "@" in parts.netloc:
        return "expected no user or password in the URL; credentials come from where boto3 finds them"
    return "expected a URL without a query or a fragment" if parts.query or parts.fragment else ""


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
        conditional: saving needs a store that writes on conditions (`If-Match` and the like), since nothing
            else keeps two runs from overwriting each other. `allow-without` saves to a store without them,
            too, where no second run may use the directory.

    Raises:
        ArgumentsError: at construction, naming every field that is wrong.
    """

    endpoint: str | None = field(default=None, metadata={"check": _endpoint_fault})
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
