"""What stands between a client and a server and changes nothing: TLS, and proxies that are asked for it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

_PIECE_BYTES = 64 << 10


def certificate(folder: Path) -> Path:
    """Makes a self-signed certificate of this machine, with its key in the same file."""
    path = folder / "certificate.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", path.with_suffix(".key"), "-out", path, "-days", "2", "-subj", "/CN=tests",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


@contextlib.contextmanager
def with_tls(server: str, certificate: Path) -> Iterator[str]:
    """Stands before a server that speaks HTTP; yields the URL at which it speaks HTTPS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    upstream = urlsplit(server).netloc

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.connection, server_side=True) as secure,
            ):
                _join(secure, _connected(upstream))

    with _serving(Handler) as port:
        yield f"https://127.0.0.1:{port}"


@dataclass
class Relay:
    """A proxy that clients are told of.

    Attributes:
        url: of it.
        credentials: `user:password` without which it passes nothing on; "" asks for none.
        seen: what it was asked for, such as `CONNECT host:port` and `PUT http://host:port/key`.
    """

    url: str = ""
    credentials: str = ""
    seen: list[str] = field(default_factory=list)

    @property
    def url_with_credentials(self) -> str:
        return self.url.replace("://", f"://{self.credentials}@")


@contextlib.contextmanager
def relay(credentials: str = "") -> Iterator[Relay]:
    """A proxy that passes on whatever it is asked for: `CONNECT`, and requests that name their server."""
    told = Relay(credentials=credentials)
    expected = "Basic " + base64.b64encode(credentials.encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def _is_refused(self) -> bool:
            told.seen.append(f"{self.command} {self.path}")
            if not credentials or self.headers.get("Proxy-Authorization") == expected:
                return False
            self.close_connection = True
            self.send_response(407)
            self.send_header("Proxy-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return True

        def do_CONNECT(self) -> None:
            if not self._is_refused():
                there = _connected(self.path)
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    _join(self.connection, there)
            self.close_connection = True

        def _pass_on(self) -> None:
            if self.headers.get("Expect"):
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self._is_refused():
                return
            parts = urlsplit(self.path)
            with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=60)) as there:
                there.putrequest(self.command, parts._replace(scheme="", netloc="").geturl(), skip_host=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "proxy-authorization"):
                        there.putheader(name, value)
                there.endheaders(body)
                answer = there.getresponse()
                data = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() != "transfer-encoding":
                    self.send_header(name, value)
            if not answer.getheader("Content-Length"):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    with _serving(Handler) as port:
        told.url = f"http://127.0.0.1:{port}"
        yield told


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that has gone is what is tested here."""

    with Server(("127.0.0.1", 0), handler) as listening:
        serving = threading.Thread(target=lambda: listening.serve_forever(poll_interval=0.02), daemon=True)
        serving.start()
        yield int(listening.server_address[1])
        listening.shutdown()
        serving.join()


def _connected(netloc: str) -> socket.socket:
    host, _, port = netloc.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def _join(one: socket.socket, other: socket.socket) -> None:
    """Passes on what either end says, until one of them ends."""

    def pass_on(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE_BYTES):
                to.sendall(data)
        for end in (source, to):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=pass_on, args=(other, one), daemon=True)
    back.start()
    pass_on(one, other)
    back.join()
    other.close()
