"""What talks to one endpoint: boto3's client for questions, and its connections for data.

boto3 finds credentials, region, endpoint, proxy and CA bundle. Requests for data are signed in headers, not
in their URL, which would be a key to the object in every log that shows it. Their body is not signed: its
CRC32 is, which the server compares.
"""

import contextlib
import dataclasses
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.config import Config

from marlin_ckpt.remote import RemoteArguments
from marlin_ckpt.storage.s3.answers import Answer, RefusedError
from marlin_ckpt.storage.s3.sums import Sums
from marlin_ckpt.version import __version__

_CONNECT_S = 10.0
_SPARE_CONNECTIONS = 8  # beside those for parts: whoever lists, or renews a lease
_MOST_ERROR_BYTES = 64 << 10  # of the body of an answer that refuses
_OK = (200, 204, 206)
_DATE_S = 1.0  # what a Date is told to
_DRIFT = 1e-3  # by which two clocks may run apart
_REGION = "x-amz-bucket-region"

# At DEBUG botocore logs every request with its signature and its session token. Whoever wants that asks for
# it by the logger's own name.
for _name in ("botocore", "boto3", "urllib3"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.INFO)


def now_s() -> float:
    """Seconds of a clock that goes on while the machine sleeps, as the server's does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Target(NamedTuple):
    """What a request for data is about.

    Attributes:
        bucket: the bucket.
        key: of the object.
        query: of the URL, encoded.
    """

    bucket: str
    key: str
    query: str = ""


class _Signer(S3SigV4Auth):
    """Signs headers alone."""

    def payload(self, request: Any) -> str:  # noqa: ARG002 - as botocore calls it
        """In the place of the body's hash, for which it would be read once more."""
        return "UNSIGNED-PAYLOAD"


class Client:
    """Talks to one endpoint, from any thread.

    Attributes:
        settings: how.
        has_answered: whether the endpoint has ever answered a request as a store does.
        offset_s: of the server's clock from `now_s`, in seconds: at least that, as its answers show it.
        doubt_s: by how much more it may be.
        sums: the most of what an upload is checked by that the store is not known to lack.
        lacks_conditions: the requests that change objects, for which the store knows no condition.
        lacks_copies: whether the store copies no parts of objects.
        wants_even_parts: whether it wants them to have one length.
        turn: held while data is on its way, by as many threads as `settings.parallel` says.
    """

    def __init__(self, settings: RemoteArguments) -> None:
        """Finds credentials; makes no request.

        Args:
            settings: how to talk to it.
        """
        self.settings = settings
        self.has_answered = False
        self.offset_s, self.doubt_s, self._heard_s = time.time() - now_s(), math.inf, now_s()
        self.sums = Sums.WHOLE
        self.lacks_conditions: set[str] = set()
        self.lacks_copies = self.wants_even_parts = False
        self._sent = threading.local()
        self.turn = threading.BoundedSemaphore(settings.parallel)
        self._changing = threading.Lock()
        self._region = settings.region
        self._connect()

    def _connect(self) -> None:
        settings = self.settings
        session = boto3.session.Session()
        config = Config(
            connect_timeout=min(_CONNECT_S, settings.timeout_s),
            read_timeout=settings.timeout_s,
            # Failed requests are made again here, within one bound for all of them.
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=settings.parallel + _SPARE_CONNECTIONS,
            # Those of ours are given with each request.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra=f"marlin-ckpt/{__version__}",
        )
        self.control = session.client(
            "s3", region_name=self._region, endpoint_url=settings.endpoint, config=config
        )
        self.control.meta.events.register_first("needs-retry.s3.HeadBucket", _follow_no_more)
        self.control.meta.events.register("before-send.s3", self._sending)
        self.control.meta.events.register("response-received.s3", self._answered)
        self._credentials = session.get_credentials()
        # The same for data, so that both go by one proxy, trust one CA bundle and wait equally long.
        self._connections = self.control._endpoint.http_session  # noqa: SLF001 - no other way
        self._addresses: dict[str, str] = {}

    def renew(self, before: Any) -> None:
        """Finds credentials anew, where they have expired.

        Args:
            before: `control` of the client whose request was refused; another thread may have renewed it.
        """
        with self._changing:
            if self.control is before:
                self._connect()

    def send(
        self, method: str, at: Target, headers: Mapping[str, str], body: memoryview | None = None
    ) -> Any:
        """Makes a request for data.

        Args:
            method: GET or PUT.
            at: what it is about.
            headers: beside those that sign it.
            body: what is sent.

        Returns:
            urllib3's response, whose body is not read yet; the caller reads it to its end, or closes it.

        Raises:
            RefusedError: the store refuses it.
            BotoCoreError, urllib3.exceptions.HTTPError, OSError: it does not answer.
        """
        url = self._address(at.bucket) + quote(at.key, safe="/~") + (f"?{at.query}" if at.query else "")
        size = {"Content-Length": str(len(body))} if body is not None else {}
        request = AWSRequest(method=method, url=url, headers={**headers, **size})
        if self._credentials is not None:
            frozen = self._credentials.get_frozen_credentials()
            _Signer(frozen, "s3", self._region or self.control.meta.region_name).add_auth(request)
        sent_s = now_s()
        prepared = AWSPreparedRequest(method, url, dict(request.headers.items()), body, stream_output=True)
        response = self._connections.send(prepared)
        self._heard(response.headers, sent_s)
        if response.status_code in _OK:
            return response.raw
        self._refused(response)
        return None

    def _refused(self, response: Any) -> None:
        """Raises what an answer that refuses says."""
        raw = response.raw
        try:
            body = raw.read(_MOST_ERROR_BYTES)
        finally:
            raw.close()
        region = response.headers.get(_REGION)
        if region and region not in (self._region, self.control.meta.region_name):
            with self._changing:
                self._region = region
                self._connect()
            raise RefusedError(Answer(503, "MovedToItsRegion", f"the bucket is in {region}"))
        raise RefusedError(Answer.read(response.status_code, body))

    def _address(self, bucket: str) -> str:
        """The URL that the keys of a bucket's objects follow, as boto3 makes it."""
        if bucket not in self._addresses:
            params = {"Bucket": bucket, "Key": "k"}
            signed = self.control.generate_presigned_url("get_object", Params=params)
            self._addresses[bucket] = signed.partition("?")[0].removesuffix("k")
        return self._addresses[bucket]

    def _sending(self, **_: Any) -> None:
        self._sent.at_s = now_s()

    def _answered(self, response_dict: Any, **_: Any) -> None:
        if response_dict is not None:
            self._heard(response_dict.get("headers", {}), getattr(self._sent, "at_s", -math.inf))

    def _heard(self, headers: Any, sent_s: float) -> None:
        """Learns the server's time from an answer, unless a faster one has told it better."""
        with contextlib.suppress(TypeError, ValueError):  # it has no Date, or none that can be read
            date_s, here_s = parsedate_to_datetime(headers.get("date")).timestamp(), now_s()
            doubt_s = _DATE_S + here_s - sent_s
            with self._changing:
                if doubt_s <= self.doubt_s + _DRIFT * (here_s - self._heard_s):
                    self.offset_s, self.doubt_s, self._heard_s = date_s - here_s, doubt_s, here_s


def _follow_no_more(request_dict: Any, **_: Any) -> None:
    """Has botocore ask once where a bucket is; of a server that answers all by 301 it asks without end."""
    request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


_clients: dict[tuple[Any, ...], Client] = {}
_opening = threading.Lock()


def _forget() -> None:
    """Leaves the parent of a forked process its connections, whose answers would be mixed up with ours."""
    global _opening  # noqa: PLW0603 - a thread of the parent may hold it, which is not there to let it go
    _clients.clear()
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_forget)


def client(settings: RemoteArguments) -> Client:
    """The one client of this process for some settings.

    Raises:
        BotoCoreError: boto3 cannot be set up: a profile that is not there, say.
    """
    key = dataclasses.astuple(settings)
    with _opening:
        if key not in _clients:
            _clients[key] = Client(dataclasses.replace(settings))
        return _clients[key]
