"""TCP towards clients: a connection is one request without a head, and a pipe as soon as it has a server.
Tunnels that come from other workers have such a connection, too.

With ``sni`` routes, and with rules that look at what TLS asks for, the first bytes are read as a ClientHello;
TLS itself passes through.

Floor: client side. Makes exchanges and knows nothing of servers.
"""

from __future__ import annotations

import asyncio
import math

from pylb.http.response import ResponseHead
from pylb.net.clienthello import ClientHello, NotTls, client_hello
from pylb.scoreboard import Field
from pylb.worker import core as core_
from pylb.worker.core import WRITE_BUFFER, Core
from pylb.worker.exchange import Exchange, begin
from pylb.worker.facts import Client, Endpoint
from pylb.worker.frontend import Bind
from pylb.worker.guard import guarded
from pylb.worker.pipe import ConnectionPipe
from pylb.worker.reasons import Reason
from pylb.worker.sides import ClientSide, Pipe, Spans, Trailers

_READ_AHEAD = 65536
_NO_HELLO = ClientHello()


class TcpConnection(ClientSide, core_.ClientConnection, asyncio.Protocol):
    """A client connection until its server is connected."""

    __slots__ = (
        *("core", "bind", "told", "facts", "transport", "deadline", "eof", "closed", "reading"),
        *("buffer", "exchange", "tunnelled"),
    )

    def __init__(self, core: Core, bind: Bind, told: Endpoint | None = None) -> None:
        self.core = core
        self.bind = bind
        self.told = told
        self.facts: Client = None  # type: ignore[assignment]  # set before any use
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # likewise
        self.deadline = math.inf
        self.eof = False
        self.closed = False
        self.movable = False
        self.reading = True
        self.recall_at = math.inf  # nothing could tell the client
        self.buffer = b""
        self.exchange: Exchange | None = None
        self.tunnelled = False

    # From the event loop

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        self.facts = Client(transport, self.bind.key, self.told)
        self.facts.protocol = "TCP"
        if self.bind.frontend.on_account:
            _ = self.facts.source  # a connection that ends by a reset has forgotten it
        self.core.clients.add(self)
        if self.bind.hello:
            self.deadline = self.core.now + self.core.timeouts.request
        else:
            self._begin(_NO_HELLO)

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.core.clients.discard(self)
        exchange, self.exchange = self.exchange, None
        try:
            if exchange is not None:
                exchange.client_gone(Reason.CLIENT_GONE)
            else:
                self._never(Reason.CLIENT_GONE)
        except Exception as error:
            if exchange is not None:
                exchange.crashed(error)
            else:
                self.core.internal(error)
        self.core.emptier()

    @guarded
    def data_received(self, data: bytes) -> None:
        self.core.counters[Field.BYTES_IN] += len(data)
        self.buffer += data
        if self.exchange is None and not self.closed:
            try:
                hello = client_hello(self.buffer)
            except NotTls:
                hello = _NO_HELLO
            if hello is not None:  # else more of it is to come
                self._begin(hello)
        elif self.reading and len(self.buffer) > _READ_AHEAD:
            self.reading = False
            self.transport.pause_reading()

    @guarded
    def eof_received(self) -> bool:
        self.eof = True
        return self.exchange is not None and self.transport.can_write_eof()  # no half-close with TLS

    def _begin(self, hello: ClientHello) -> None:
        self.deadline = math.inf
        self.facts.name, self.facts.offered = hello.name, hello.alpn
        exchange = self.exchange = begin(self.core, self.facts, self.bind.frontend)
        tx = exchange.tx
        tx.fresh = True
        if self.bind.sni:
            tx.go_to(self.bind.backend_for(hello.name))
        exchange.request(self, None, b"", True)

    def _never(self, reason: Reason) -> None:
        """The connection ends. Say so where it was not known yet which server name it is for."""
        if self.buffer and self.deadline < math.inf:
            self.deadline = math.inf
            begin(self.core, self.facts, self.bind.frontend).never(reason)

    # From the exchange

    def tunnel(self, head: ResponseHead) -> Pipe:
        self.tunnelled = True  # the tunnel has the exchange from now on, and its deadline
        self.exchange = None
        early, self.buffer = self.buffer, b""
        return ConnectionPipe(self.core, self.transport, early, self.eof, self)

    def go_on(self, facts: Client, transport: asyncio.Transport) -> None:
        """Be the client's end of a tunnel that comes from another worker, whatever it speaks."""
        self.transport = transport
        self.facts = facts
        facts.moved(transport)
        self.tunnelled = True
        self.core.clients.add(self)

    def respond(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        """A response can't be said in TCP mode: the connection ends."""
        self.abort(Reason.ANSWERED)

    def interim(self, head: ResponseHead) -> None:
        """There is none in TCP mode."""

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        """There is none in TCP mode."""

    def end(self, trailers: Trailers) -> None:
        self.abort(Reason.ANSWERED)

    def stay(self) -> None:
        """There is nothing to authenticate in TCP mode."""

    def last(self) -> None:
        """There is one response at most."""

    def abort(self, reason: Reason) -> None:
        self.exchange = None
        if not self.closed:
            self.transport.abort()

    def pause(self) -> None:
        """Nothing to do: until there is a tunnel, `data_received` bounds what is read."""

    def resume(self) -> None:
        """Nothing to do: the tunnel reads on."""

    @property
    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    # From the process

    @property
    def busy(self) -> bool:
        return self.exchange is not None or self.tunnelled

    @property
    def long(self) -> bool:
        return True

    def due(self) -> float:
        exchange = self.exchange
        return self.deadline if exchange is None else exchange.due()

    @guarded
    def expire(self) -> None:
        if self.exchange is not None:
            self.exchange.expire()
        else:  # no server name in time
            self.core.counters[Field.TIMEOUTS] += 1
            self._never(Reason.CLIENT_LATE)
            self.transport.abort()

    def lively(self) -> bool:
        return False  # it stays where it is

    def recall(self) -> None:
        """Tunnels end by themselves."""

    def drain(self) -> None:
        """Tunnels end by themselves, or are cut."""

    def cut_off(self) -> None:
        """End the connection at once, whatever state it is in."""
        self.core.clients.discard(self)
        if self.transport is not None:
            self.transport.abort()

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own: it costs the connection."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.crashed(error)
        else:
            self.core.internal(error)
        self.cut_off()
        if exchange is None:
            self._never(Reason.INTERNAL)  # `connection_lost`, which follows, would say that the client left
