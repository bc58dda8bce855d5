"""TCP mode: a connection is relayed to a server as it is, chosen by the same algorithms.

With ``sni`` routes the first bytes are read as a TLS ClientHello to learn the name that the client wants;
TLS itself passes through.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from pylb.net.clienthello import NotTls, server_name
from pylb.scoreboard import Field
from pylb.worker.exchange import Endpoint, Exchange, endpoint, tls_facts
from pylb.worker.guard import guarded
from pylb.worker.server import WRITE_BUFFER, ServerConnection
from pylb.worker.tunnel import Tunnel

if TYPE_CHECKING:
    from pylb.worker.http2server import Http2ServerStream
    from pylb.worker.listener import Listener, Peer
    from pylb.worker.main import Worker

_READ_AHEAD = 65536


class TcpConnection(Exchange, asyncio.Protocol):
    """A client connection until its server is connected; then a `Tunnel` has it."""

    __slots__ = ("listener", "peer", "name", "transport", "deadline", "eof", "movable", "reading")

    server_may_speak_first = True
    recall_at = math.inf  # nothing could tell the client

    def __init__(self, worker: Worker, listener: Listener, peer: Peer | None = None) -> None:
        super().__init__(worker, listener.backend)
        self.listener = listener
        self.peer = peer
        self.name = ""  # that the client wants, where it is read
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.deadline = math.inf
        self.eof = False
        self.movable = False
        self.reading = True

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        self.worker.clients.add(self)
        self.started_ns = time.monotonic_ns()
        if self.listener.sni:
            self.deadline = self.worker.now + self.worker.timeouts.request
        else:
            self._begin()

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.worker.clients.discard(self)
        if self.busy:
            self.counters[Field.ABORTED] += 1
            self.leave_server()
            self.done()
        self.worker.client_gone()

    @guarded
    def data_received(self, data: bytes) -> None:
        self.outgoing += data
        if not self.busy:
            try:
                name = server_name(self.outgoing)
            except NotTls:
                name = ""
            if name is None:
                return  # more of the ClientHello is to come
            self.name = name
            self.backend = self.listener.sni_backend(name)
            self._begin()
        else:
            self.update_reading()

    @guarded
    def eof_received(self) -> bool:
        self.eof = True
        return self.busy and self.transport.can_write_eof()  # there is no half-close with TLS

    def _begin(self) -> None:
        self.busy = True
        self.deadline = math.inf
        self.send(fresh=True)

    def take(self, server: ServerConnection | Http2ServerStream) -> None:
        assert isinstance(server, ServerConnection)  # the model refuses http2 here
        early, self.outgoing = self.outgoing, b""
        Tunnel(self.worker, self, server, self.worker.timeouts.tunnel).start(early, server.buffer)

    def client_tls(self) -> dict[str, bytes]:
        return tls_facts(self.transport) or {"authority": self.name.encode()}

    def endpoints(self) -> tuple[Endpoint | None, Endpoint | None]:
        return self.peer or endpoint(self.transport, "peername"), endpoint(self.transport, "sockname")

    def update_reading(self) -> None:
        if self.reading and len(self.outgoing) > _READ_AHEAD and not self.closed:
            self.reading = False
            self.transport.pause_reading()

    def write_error(self, status: int) -> None:
        """TCP has no words for it; the connection ends."""

    def over(self, abort: bool) -> None:
        if not self.closed:
            self.transport.abort()

    def cut_off(self) -> None:
        self.worker.clients.discard(self)
        if self.transport is not None:
            self.transport.abort()

    def lively(self) -> bool:
        """It stays where it is."""
        return False

    def recall(self) -> None:
        """Tunnels end by themselves."""

    drain = recall

    @guarded
    def expire(self) -> None:
        """No server name in time."""
        self.counters[Field.TIMEOUTS] += 1
        self.transport.abort()
