"""HTTP/1 towards clients: a connection's life, from one request to the next.

Requests are read in `http1requests`, responses written in `http1responses`. Between requests a connection is
its descriptor and the bytes of ``buffer``, and has no exchange. That is the *message boundary* at which it
can be given to another worker.

Floor: client side. Knows nothing of servers. A connection that turns out to speak HTTP/2 is handed to
`http2`.
"""

from __future__ import annotations

import asyncio
import math
import time

from pylb.http.errors import Refused
from pylb.http.response import ResponseHead
from pylb.scoreboard import Field
from pylb.worker.client.http1requests import Requests
from pylb.worker.client.http2 import Http2Connection
from pylb.worker.client.lingering import Lingering
from pylb.worker.core import WRITE_BUFFER, Core
from pylb.worker.facts import Client, Endpoint
from pylb.worker.frontend import Bind
from pylb.worker.guard import guarded
from pylb.worker.pipe import ConnectionPipe
from pylb.worker.reasons import Reason
from pylb.worker.sides import Pipe

QUIET = 1.0
"""Seconds without a request after which the next one is not expected at once."""
_LONG_NS = 1_000_000_000


class Http1Connection(Requests, asyncio.Protocol):
    """One client connection, and the client side of each of its exchanges."""

    __slots__ = ("told", "eof", "born", "tunnelled", "lingers", "fresh", "_unsent")

    def __init__(self, core: Core, bind: Bind, told: Endpoint | None = None) -> None:
        """``told`` is the client's address, where a PROXY header has given it."""
        super().__init__(core, bind)
        self.told = told
        self.eof = False
        self.movable = not bind.tls  # the keys of a TLS connection can't leave the process
        self.born = core.now
        self.recall_at = core.recall_at(self.born)
        self.tunnelled = False
        self.lingers = False  # it is about to be closed, and what comes is dropped
        self.fresh = True  # accepted, and not given by another worker
        self._unsent = 0  # bytes that weren't taken when last looked at

    @property
    def _silent(self) -> bool:
        """Whether nothing of a request has ever come, and that is to be told."""
        return self.bind.frontend.tells_all and self.fresh and not self.facts.requests

    # From the event loop

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        core = self.core
        bind = self.bind
        self.facts = Client(transport, bind.key, self.told)
        if bind.tls:
            tls = transport.get_extra_info("ssl_object")
            if tls is not None and tls.selected_alpn_protocol() == "h2":
                self._become_http2(b"")
                return
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        core.clients.add(self)
        self.deadline = core.now + core.timeouts.keep_alive
        self.head = bind.reader(self.facts)
        if core.leaving and (core.stopping or not self.movable):
            self.recalled = True

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.core.clients.discard(self)
        exchange, self.exchange = self.exchange, None
        facts = self.facts
        if facts.own is not None:
            facts.end()
        try:
            if exchange is not None:
                exchange.client_gone(Reason.CLIENT_GONE)
            elif self.head is not None and not self.moving and not self.tunnelled:
                if self.buffer or self._silent:
                    self._never(Reason.CLIENT_GONE)
                self.bind.keep(self.head)
        except Exception as error:
            if exchange is not None:
                exchange.crashed(error)
            else:
                self.core.internal(error)
        self.core.emptier()

    @guarded
    def eof_received(self) -> bool:
        self.eof = True
        if self.exchange is None:
            if self.buffer:
                # Perhaps the next request, and its turn just hasn't come.
                self.core.loop.call_soon(self.go_on)
            return bool(self.buffer) and self.transport.can_write_eof()
        if not self.body_done:
            self.transport.abort()
            return False
        # A client may half-close and still wait for its answer. Not with TLS; uvloop would log a warning.
        return self.transport.can_write_eof()

    @guarded
    def pause_writing(self) -> None:
        self.write_paused = True
        if self.exchange is not None:
            self.exchange.client_full()
        else:
            self.deadline = self.core.now + self.core.timeouts.client

    @guarded
    def resume_writing(self) -> None:
        self.write_paused = False
        if self.exchange is not None:
            self.exchange.client_ready()
            return
        self.deadline = self.core.now + self.core.timeouts.keep_alive
        if self.buffer:
            self.core.loop.call_soon(self.go_on)

    def _become_http2(self, data: bytes) -> None:
        self.core.clients.discard(self)
        self.closed = True
        connection = Http2Connection(self.core, self.bind, self.facts)
        connection.born, connection.recall_at = self.born, self.recall_at
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        if data:
            connection.data_received(data)

    # Between two messages

    def _next(self) -> None:
        """The response is whole: go on to the next request, or close."""
        self.exchange = None
        self.chunking = False
        core = self.core
        if self.closed:
            return
        if self.close_after or (self.eof and not self.buffer):
            self.close(linger=not self.body_done)
            return
        self.deadline = core.now + core.timeouts.keep_alive
        if not self.reading:
            self._read(True)
        if core.moves and self.movable:
            core.offer(self)
        elif self.buffer:
            core.loop.call_soon(self.go_on)

    @guarded
    def go_on(self) -> None:
        """Read the next request from what has come already."""
        if self.exchange is not None or self.closed or self.moving or self.write_paused or self.tunnelled:
            return
        if self.buffer:
            data, self.buffer = self.buffer, b""
            self._request(data, True)
        if self.eof and self.exchange is None:
            self.close()

    def close(self, linger: bool = False) -> None:
        """Close after what was written has gone out.

        Closing a socket with unread input resets the connection, and the reset can overtake the
        response (RFC 9112 §9.6). Where more input is to be expected (``linger``), pylb's side is shut first,
        and what comes is read and dropped for a while.
        """
        self.deadline = self.core.now + self.core.timeouts.client
        if linger and not self.eof and not self.closed and self.transport.can_write_eof():
            self.lingers = True
            Lingering(self.core, self.transport, self.reading, self)
        else:
            self.transport.close()

    # Ends, as the exchange says

    def tunnel(self, head: ResponseHead) -> Pipe:
        self._write(head.out)
        self.movable = False
        self.tunnelled = True  # the tunnel has the exchange from now on, and its deadline
        self.exchange = None
        self.deadline = math.inf
        early, self.buffer = self.buffer, b""
        return ConnectionPipe(self.core, self.transport, early, self.eof, self, self.write_paused)

    def stay(self) -> None:
        self.movable = False

    def abort(self, reason: Reason) -> None:
        self.exchange = None
        if self.closed:
            return
        if reason in (Reason.SERVER_STALE, Reason.SERVER_UNSEEN):
            self.close(linger=not self.body_done)  # what it was sent before is to arrive
        else:
            self.transport.abort()

    # From the process

    @property
    def busy(self) -> bool:
        return self.exchange is not None or self.tunnelled

    @property
    def long(self) -> bool:
        exchange = self.exchange
        return exchange is not None and exchange.tx.began_ns < time.monotonic_ns() - _LONG_NS

    def due(self) -> float:
        exchange = self.exchange
        return self.deadline if exchange is None else exchange.due()

    @guarded
    def expire(self) -> None:
        if self.exchange is not None:
            self.exchange.expire()
            return
        left = self.unsent
        if left and left != self._unsent:
            # A response that is taken slowly is taken; but by the next look there must be a difference.
            self._unsent = left
            self.deadline = self.core.now + self.core.timeouts.client
        elif self.lingers and not left:
            self.deadline = math.inf  # that has its own end
        elif left or self.write_paused or self.eof or self.transport.is_closing():
            self.counters[Field.TIMEOUTS] += 1
            self.transport.abort()
        elif begun := self.buffer.lstrip(b"\r\n"):
            self.counters[Field.TIMEOUTS] += 1
            self._refuse(Refused(408, "timeout"), begun)
        else:
            self.transport.close()

    def lively(self) -> bool:
        if self.movable or self.tunnelled:
            return False
        return self.exchange is not None or self._quiet() < 2 * QUIET

    def _quiet(self) -> float:
        """Seconds for which an idle connection has been so."""
        return self.core.now - (self.deadline - self.core.timeouts.keep_alive)

    def _too_many(self) -> bool:
        if self.head.upgrade:
            return False  # it could not be kept
        return self.core.recalls.take(self, self.core.loop.time())

    def recall(self) -> None:
        self.recalled = True  # said with the next response

    @guarded
    def drain(self) -> None:
        """The worker leaves and no other one takes the connection: `recall`, and if nothing comes, close.

        It isn't closed when its last request ended less than `QUIET` ago: the next one would be lost.
        """
        self.recalled = True
        wait = QUIET
        if self.closed or self.tunnelled or self.lingers:
            return
        exchange = self.exchange
        if exchange is None:
            if self.buffer:
                return  # what has come of a request has its deadline
            wait -= self._quiet()
            if wait <= 0:
                self.transport.close()
                return
        elif not exchange.tx.answered_ns:
            self.close_after = True
            return
        self.core.loop.call_later(wait, self.drain)

    def cut_off(self) -> None:
        """End the connection at once, whatever state it is in."""
        self.core.clients.discard(self)
        if self.transport is not None:
            self.transport.abort()
