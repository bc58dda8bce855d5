"""A worker's connections without sockets: what a client sends, and what reaches the server and comes back.

The objects are the real ones (`ClientConnection`, `ServerConnection`); only transports and the loop are
stand-ins, so that a case costs microseconds.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any, cast

import h11

from pylb import latency
from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Frontend, Limits, Server, Timeouts
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits
from pylb.scoreboard import REASONS, Field, Scoreboard
from pylb.worker.client import ClientConnection
from pylb.worker.listener import Listener
from pylb.worker.pool import Backend
from pylb.worker.recall import Recalls
from pylb.worker.server import ServerConnection

_CONFIG = BackendConfig(
    name="b", balance="roundrobin", servers=(Server(name="s", address=parse_address("127.0.0.1:9")),)
)
_FRONTEND = Frontend(name="f", bind=(parse_address("127.0.0.1:80"),), backend="b")
_BOARD = Scoreboard(1)


class _Loop:
    """Runs what is to be called soon when asked to."""

    def __init__(self) -> None:
        self.soon: list[tuple[Any, tuple[Any, ...]]] = []

    def call_soon(self, callback: Any, *arguments: Any) -> None:
        self.soon.append((callback, arguments))

    def call_later(self, delay: float, callback: Any, *arguments: Any) -> None:
        """Never."""

    def run(self) -> None:
        while self.soon:
            callback, arguments = self.soon.pop(0)
            callback(*arguments)


class _Worker:
    """The part of a worker that connections use."""

    def __init__(self) -> None:
        self.loop = _Loop()
        self.counters = [0] * int(Field.END)
        self.timeouts = Timeouts()
        self.limits = Limits()
        self.head_limits = HeadLimits()
        self.now = 0.0
        self.clients: set[Any] = set()
        self.server_connections: set[Any] = set()
        self.connecting: set[Any] = set()
        self.said: list[str] = []
        self.times = [0] * latency.WIDTH
        self.moves = self.leaving = self.stopping = False
        self.recalls = Recalls(2.0)

    def full(self) -> bool:
        return False

    def recall_at(self, born: float) -> float:
        return math.inf

    def say(self, level: int, kind: object, text: str) -> None:
        self.said.append(text)

    def internal(self, error: BaseException) -> None:
        """There are none."""
        raise error

    def client_gone(self) -> None:
        """Nobody waits for it."""

    def count_refusal(self, refused: Refused) -> None:
        self.counters[Field.REFUSED] += 1
        self.counters[Field.REFUSED_FOR + REASONS.index(refused.reason)] += 1


class _Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.unsent = 0
        self.reading = True
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        self.written += bytes(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.written += b"".join(bytes(piece) for piece in pieces)

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.9", 5) if name == "peername" else None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int) -> None:
        """None here."""

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Wire:
    """One client and a server that answers nothing by itself (``answer`` does)."""

    def __init__(self) -> None:
        self.worker = _Worker()
        worker = cast(Any, self.worker)
        self.backend = Backend(_CONFIG, _BOARD, lambda server: 0, 0, lambda: True)
        _BOARD.server_column(cast(Any, 0), 0)[0] = 0
        listener = Listener(worker, "127.0.0.1:80", _FRONTEND, {"b": self.backend})
        self.client = ClientConnection(worker, listener)
        self.near = _Transport()
        self.client.connection_made(cast(asyncio.BaseTransport, self.near))
        self.servers: list[_Transport] = []
        self._refill()

    def _refill(self) -> None:
        """There is always a pooled connection, so that nothing has to connect."""
        upstream = self.backend.upstreams[0]
        if not upstream.pool:
            transport = _Transport()
            connection = ServerConnection(cast(Any, self.worker), upstream)
            connection.connection_made(cast(asyncio.BaseTransport, transport))
            self.servers.append(transport)
            upstream.pool.append(connection)

    @property
    def client_closed(self) -> bool:
        return self.near.closed

    def client_sends(self, data: bytes) -> None:
        """Bytes from the client."""
        if not self.near.closed:
            self.client.data_received(data)
            self.worker.loop.run()
            self._refill()

    def server_sends(self, data: bytes) -> None:
        """Bytes from the server that has the request."""
        server = self.client.server
        if server is not None:
            cast(ServerConnection, server).data_received(data)
            self.worker.loop.run()
            self._refill()

    def answer(self) -> bool:
        """Answer the request under way, if it is complete; whether there was one."""
        if self.client.server is None or not self.client.body_done:
            return False
        self.server_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return True

    def statuses(self) -> list[int]:
        """Of all responses that the client got."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", self.near.written)]

    def refused(self) -> dict[str, int]:
        """How many requests were refused, by reason."""
        counters = self.worker.counters[Field.REFUSED_FOR :]
        return {reason: count for reason, count in zip(REASONS, counters, strict=False) if count}

    def complete_requests(self) -> list[bytes]:
        """Heads and bodies of all requests that h11 reads from what servers got; raises if it can't."""
        found = []
        for transport in self.servers:
            reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            reader.receive_data(transport.written)
            head = body = b""
            while True:
                event = reader.next_event()
                if isinstance(event, h11.Request):
                    head = b"%s %s HTTP/%s\r\n" % (event.method, event.target, event.http_version)
                    head += b"".join(b"%s: %s\r\n" % (n.title(), v) for n, v in event.headers)
                    body = b""
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    found.append(head + b"\r\n" + body)
                    reader.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                    reader.send(h11.EndOfMessage())
                    if reader.our_state is h11.MUST_CLOSE:
                        break
                    reader.start_next_cycle()
                else:
                    break
        return found
