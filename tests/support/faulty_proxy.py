"""Stands between a client and an S3 server, and does to requests and answers what networks and servers do."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Fault(Enum):
    """What happens to one request."""

    SLOW_DOWN = "the answer is 503 SlowDown, and the server never hears of it"
    EXPIRED = "the answer is 400 ExpiredToken"
    UNKNOWN_KEY = "the answer is 403 InvalidAccessKeyId"
    CONFLICT = "the answer is 409 ConditionalRequestConflict"
    SKEWED = "the answer is 403 RequestTimeTooSkewed"
    ERROR_IN_200 = "the answer is 200 with an error in its body"
    LOST_ANSWER = "the server does it, and its answer is lost"
    LOST_REQUEST = "the connection ends before the server hears of it"
    FLIPPED_UP = "a bit of the body is flipped on its way to the server"
    FLIPPED_DOWN = "a bit of the answer's body is flipped"
    CUT_UP = "the connection ends in the middle of the body on its way to the server"
    CUT_DOWN = "the answer's body ends in the middle"
    CUT_UNSIZED = "the answer comes without its length, and its body ends in the middle"
    OTHER_RANGE = "the answer says that its bytes are of another range"
    NO_RANGE = "the answer says that its bytes are of no range"
    CAPITALS = "the names of the answer's headers are in capitals"
    STALLED = "the server never hears of it, and no answer comes until the proxy ends"
    STALLED_ANSWER = "the server does it, and its answer does not come until the proxy ends"


@dataclass(frozen=True)
class Canned:
    """What one request is answered with, and the server never hears of it."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, code: str, message: str = "injected", **headers: str) -> Canned:
        """As a store says it."""
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return cls(status, text.encode(), {name.replace("_", "-"): one for name, one in headers.items()})


@dataclass
class Request:
    """What a client asks.

    Attributes:
        method: of HTTP.
        kind: what it does, in S3's words: `PutObject`, `UploadPart`, ...
        key: of the object, with its bucket.
        number: of this kind, from 0.
        headers: by their names in small letters.
    """

    method: str
    kind: str
    key: str
    number: int
    headers: dict[str, str] = field(default_factory=dict, compare=False)


Harm = Fault | Canned | None
Rule = Callable[[Request], Harm]


@dataclass
class Proxy:
    """A proxy that runs.

    Attributes:
        endpoint: where it listens.
        rule: asked of each request what happens to it.
        seen: the requests, in their order.
    """

    endpoint: str
    rule: Rule = lambda _: None
    seen: list[Request] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def kinds(self) -> list[str]:
        return [one.kind for one in self.seen]

    def reset(self) -> None:
        """Forgets what it has seen, lets go of what stalls, and harms nothing from now on."""
        self.ended.set()
        with self._changing:
            self.ended, self.rule = threading.Event(), lambda _: None
            self.seen.clear()
            self.headers.clear()

    def note(self, method: str, target: str, headers: dict[str, str]) -> tuple[Request, Harm]:
        parts = urlsplit(target)
        kind = kind_of(method, parts.path, parse_qs(parts.query, keep_blank_values=True), headers)
        with self._changing:
            number = sum(one.kind == kind for one in self.seen)
            request = Request(method, kind, parts.path, number, headers)
            self.seen.append(request)
            self.headers.append(headers)
        return request, self.rule(request)


def kind_of(method: str, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> str:
    """What a request does."""
    is_object = path.strip("/").count("/") > 0
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "uploadId" in query:
        part = "UploadPartCopy" if "x-amz-copy-source" in headers else "UploadPart"
        return {"PUT": part, "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}[method]
    if method == "PUT" and "x-amz-copy-source" in headers:
        return "CopyObject"
    verb = {"GET": "Get", "HEAD": "Head", "PUT": "Put", "DELETE": "Delete"}[method]
    return f"{verb}Object" if is_object else "ListObjects"


@contextlib.contextmanager
def faulty_proxy(server: str) -> Iterator[Proxy]:
    """Starts a proxy before a server."""
    upstream = urlsplit(server).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def _handle(self) -> None:  # noqa: PLR0912 - a fault after the other
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.pop("expect", "") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            body = bytearray(self.rfile.read(int(headers.get("content-length", 0))))
            _, fault = proxy.note(self.command, self.path, headers)
            if fault is Fault.STALLED:
                proxy.ended.wait()
            if fault in (Fault.LOST_REQUEST, Fault.STALLED):
                self._end()
                return
            canned = fault if isinstance(fault, Canned) else _ANSWERS.get(fault)
            if canned is not None:
                self._answer(canned)
                return
            if fault is Fault.FLIPPED_UP and body:
                body[len(body) // 2] ^= 1
            there = http.client.HTTPConnection(upstream, timeout=60)
            try:
                there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    there.putheader(name, value)
                if fault is Fault.CUT_UP and body:
                    there.endheaders(bytes(body[: len(body) // 2]))
                    self._end()
                    return
                there.endheaders(bytes(body))
                answer = there.getresponse()
                data = bytearray(answer.read())
            finally:
                there.close()
            if fault is Fault.STALLED_ANSWER:
                proxy.ended.wait()
            if fault in (Fault.LOST_ANSWER, Fault.STALLED_ANSWER):
                self._end()
                return
            if fault is Fault.FLIPPED_DOWN and data:
                data[len(data) // 2] ^= 1
            self.send_response_only(answer.status)
            left_out = ["connection", "transfer-encoding"] + ["content-length"] * (fault is Fault.CUT_UNSIZED)
            for name, value in answer.getheaders():
                if name.lower() in left_out:
                    continue
                told = _RANGES.get(fault, value) if name.lower() == "content-range" else value
                self.send_header(name.upper() if fault is Fault.CAPITALS else name, told)
            if not answer.getheader("content-length") and fault is not Fault.CUT_UNSIZED:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if fault in (Fault.CUT_DOWN, Fault.CUT_UNSIZED):
                self.wfile.write(data[: len(data) // 2])
                self._end()
            else:
                self.wfile.write(data)

        def _answer(self, canned: Canned) -> None:
            body = b"" if self.command == "HEAD" else canned.body
            self.send_response_only(canned.status)
            for name, value in {**canned.headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _end(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A client that has gone is what is tested here."""

    listening = Server(("127.0.0.1", 0), Handler)
    proxy = Proxy(f"http://127.0.0.1:{listening.server_address[1]}")
    serving = threading.Thread(target=lambda: listening.serve_forever(poll_interval=0.02), daemon=True)
    serving.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        listening.shutdown()
        listening.server_close()
        serving.join()


_RANGES = {Fault.OTHER_RANGE: "bytes 7-9/10", Fault.NO_RANGE: "bytes */10"}
_ANSWERS: dict[Fault | None, Canned] = {
    Fault.SLOW_DOWN: Canned.error(503, "SlowDown"),
    Fault.EXPIRED: Canned.error(400, "ExpiredToken"),
    Fault.UNKNOWN_KEY: Canned.error(403, "InvalidAccessKeyId"),
    Fault.CONFLICT: Canned.error(409, "ConditionalRequestConflict"),
    Fault.SKEWED: Canned.error(403, "RequestTimeTooSkewed"),
    Fault.ERROR_IN_200: Canned.error(200, "InternalError"),
}


def at_random(seed: int, share: float, *faults: Fault) -> Rule:
    """A share of all requests fails, drawn from a seed."""
    rng = random.Random(seed)
    return lambda _: rng.choice(faults) if rng.random() < share else None


def once(kind: str, fault: Fault | Canned, number: int = 0) -> Rule:
    """The first request of a kind fails, or the one of a number."""
    return lambda request: fault if re.fullmatch(kind, request.kind) and request.number == number else None


def always(kind: str, fault: Fault | Canned, number: int = 0) -> Rule:
    """All requests of a kind fail, or those from a number on."""
    return lambda request: fault if re.fullmatch(kind, request.kind) and request.number >= number else None
