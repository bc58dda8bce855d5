"""Locust users on a raw socket, for when Locust's own HTTP clients would be what is measured.

`SocketUser` keeps one connection, sends the same prepared bytes for a path each time and reads the response
by its framing (Content-Length, chunks, or the end of the connection). What it saw it reports through
Locust's request event, so the statistics, the web page and the distributed mode are Locust's own::

    locust -f bench/fast_user.py --host http://127.0.0.1:8080 --processes 2

``BENCH_PATH`` is the path that `SocketKeepAlive` and `SocketNewConnection` ask for (``/``).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from gevent import socket  # type: ignore[import-untyped]
from locust import User, task
from locust.exception import LocustError

PATH = os.environ.get("BENCH_PATH", "/")
BURST = 100  # requests in one task: Locust's own work between tasks is spread over them
_PIECE = 65536
_REMEMBERED = 65536  # the longest response that is kept for comparison


class BadResponse(Exception):
    """An answer that a user counts as failed, or none at all."""


class Response:
    """Reads one response; ``receive`` gives some bytes, or none at the connection's end."""

    def __init__(self, receive: Callable[[], bytes], data: bytes) -> None:
        self._receive = receive
        self.data = bytearray(data)
        self.status = 0
        self.length = 0
        """Of the whole response, in bytes."""
        self.reusable = True
        """Whether the connection may carry another one."""

    def read(self) -> None:
        """Read to its end.

        Raises:
            BadResponse: it is malformed or ends too soon.
        """
        start = 0
        while True:
            body = self._find(b"\r\n\r\n", start) + 4
            head = bytes(self.data[start : body - 2]).lower()
            try:
                self.status = int(head[9:12])
                if self.status >= 200 or self.status == 101:
                    self._body(head, body)
                    return
            except ValueError:
                raise BadResponse(f"malformed response {bytes(self.data[:80])!r}") from None
            start = body  # 1xx: the response itself follows

    def _body(self, head: bytes, start: int) -> None:
        self.reusable = b"\nconnection: close" not in head and head.startswith(b"http/1.1")
        if self.status in (101, 204, 304):
            self.length = start
        elif b"\ntransfer-encoding: chunked" in head:
            self.length = self._chunks(start)
        elif (at := head.find(b"\ncontent-length:")) >= 0:
            self.length = start + int(head[at + 16 : head.index(b"\r", at)])
            left = self.length - len(self.data)
            while left > 0:  # not kept: a body may be large
                left -= len(self._more())
            if left < 0:
                raise BadResponse("more bytes than the response has")
            return
        else:
            self.reusable = False
            while piece := self._receive():
                self.data += piece
            self.length = len(self.data)
        if len(self.data) != self.length:
            raise BadResponse("more bytes than the response has")

    def _chunks(self, position: int) -> int:
        data = self.data
        while True:
            end = self._find(b"\r\n", position)
            size = int(data[position:end].split(b";", 1)[0], 16)
            if size == 0:
                # Trailers, if any, end with an empty line as the last chunk's own line does.
                return self._find(b"\r\n\r\n", end) + 4
            position = end + 4 + size

    def _find(self, what: bytes, start: int) -> int:
        while (found := self.data.find(what, start)) < 0:
            self.data += self._more()
        return found

    def _more(self) -> bytes:
        piece = self._receive()
        if not piece:
            raise BadResponse("the connection ended within the response" if self.data else "no response")
        return piece


@cache
def _tls_context() -> ssl.SSLContext:
    """One for all: making it costs more than a handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a load generator: who answers is known
    context.verify_mode = ssl.CERT_NONE
    return context


class SocketUser(User):
    """One keep-alive connection; tasks call `get`.

    A response with exactly the bytes of an earlier complete one is complete as well, since no response is the
    beginning of another one. So it is not parsed again.
    """

    abstract = True
    timeout = 30.0
    """Seconds without a byte after which a request has failed."""
    fields = ""
    """More header fields, each with its CRLF."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        target = urlsplit(self.host or "")
        if target.scheme not in ("http", "https") or not target.hostname:
            raise LocustError(f"--host: expected http://HOST:PORT (got {self.host!r})")
        self._tls = target.scheme == "https"
        self._address = (target.hostname, target.port or (443 if self._tls else 80))
        self._netloc = target.netloc
        self._socket: Any = None
        self._requests: dict[str, bytes] = {}
        self._known: dict[str, bytes] = {}

    def on_stop(self) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def get(self, path: str, name: str | None = None) -> None:
        """Send a GET and report what came of it; a status of 400 or above is a failure."""
        begin = perf_counter()
        length = 0
        failure: Exception | None = None
        try:
            length = self._exchange(path)
        except (OSError, BadResponse) as error:
            failure = error
            self.close()
        self.environment.events.request.fire(
            request_type="GET",
            name=name or path,
            response_time=1000 * (perf_counter() - begin),
            response_length=length,
            exception=failure,
            context={},
        )

    def _connect(self) -> Any:
        sock = socket.create_connection(self._address, self.timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            sock = _tls_context().wrap_socket(sock, server_hostname=self._address[0])
        return sock

    def _exchange(self, path: str) -> int:
        request = self._requests.get(path)
        if request is None:
            text = f"GET {path} HTTP/1.1\r\nHost: {self._netloc}\r\n{self.fields}\r\n"
            request = self._requests[path] = text.encode()
        sock = self._socket
        if sock is None:
            sock = self._socket = self._connect()
        sock.sendall(request)
        data: bytes = sock.recv(_PIECE)
        known = self._known.get(path, b"")
        while data != known and data and known.startswith(data):
            piece = sock.recv(len(known) - len(data))
            if not piece:
                raise BadResponse("the connection ended within the response")
            data += piece
        if data and data == known:
            return len(data)
        response = Response(lambda: sock.recv(_PIECE), data)
        response.read()
        if not response.reusable:
            self.close()
        if response.status >= 400:
            raise BadResponse(f"status {response.status}")
        if response.reusable and response.length == len(response.data) <= _REMEMBERED:
            self._known[path] = bytes(response.data)
        return response.length


class SocketKeepAlive(SocketUser):
    """As many requests as one connection carries."""

    @task
    def burst(self) -> None:
        for _ in range(BURST):
            self.get(PATH)


class SocketNewConnection(SocketUser):
    """A connection per request."""

    fields = "Connection: close\r\n"

    @task
    def burst(self) -> None:
        for _ in range(BURST):
            self.get(PATH)
            self.close()
