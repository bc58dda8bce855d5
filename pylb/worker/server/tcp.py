"""A connection to a server in TCP mode: there are no messages, so it is ready to be a pipe at once.

Floor: server side. Knows the exchange as `FromServer` and nothing of clients.
"""

from __future__ import annotations

import asyncio

from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.worker.core import WRITE_BUFFER, Core
from pylb.worker.guard import serving
from pylb.worker.pipe import ConnectionPipe
from pylb.worker.reasons import Reason
from pylb.worker.sides import FromServer, Pipe, ServerSide, Spans, Trailers

_SWITCHED = ResponseHead(b"", False, 101, False, 0, False, b"")


class TcpServerConnection(ServerSide, asyncio.Protocol):
    """Holds what a server says first until the tunnel is there."""

    __slots__ = ("core", "transport", "closed", "exchange", "buffer", "eof")

    def __init__(self, core: Core) -> None:
        self.core = core
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.closed = False
        self.exchange: FromServer | None = None
        self.buffer = b""
        self.eof = False

    # From the event loop

    @serving
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)

    @serving
    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.transport.pause_reading()

    @serving
    def eof_received(self) -> bool:
        self.eof = True
        return self.transport.can_write_eof()

    @serving
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.exchange is not None:
            self.exchange.server_gone(Reason.SERVER_GONE, "closed the connection")

    # From the exchange

    def request(
        self, exchange: FromServer, head: RequestHead, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        self.exchange = exchange
        exchange.switched(_SWITCHED)

    def tunnel(self) -> Pipe:
        self.closed = True
        self.exchange = None
        return ConnectionPipe(self.core, self.transport, self.buffer, self.eof)

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        """There is none in TCP mode."""

    def end(self, trailers: Trailers) -> None:
        """There is none in TCP mode."""

    def release(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.exchange = None
        self.closed = True
        self.transport.abort()

    def pause(self) -> None:
        self.transport.pause_reading()

    def resume(self) -> None:
        self.transport.resume_reading()

    def crashed(self, error: Exception, exchange: FromServer | None) -> None:
        """An error of pylb's own: it costs this connection, and the exchange that it worked for."""
        self.closed = True
        self.exchange = None
        if self.transport is not None:
            self.transport.abort()
        if exchange is not None:
            exchange.crashed(error)
        else:
            self.core.internal(error)
