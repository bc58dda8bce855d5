"""HTTP/1 towards clients: reads requests and writes responses, one at a time and in order (RFC 9112).

Between requests a connection is its descriptor and the bytes of ``buffer``, and has no exchange. That is the
*message boundary* at which it can be given to another worker.

Floor: client side. Makes exchanges and knows nothing of servers. A connection that turns out to speak HTTP/2
is handed to `http2`.
"""

from __future__ import annotations

import asyncio
import math
import time

from pylb.http.body import RequestBody
from pylb.http.errors import Refused
from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.scoreboard import Field
from pylb.worker import core as core_
from pylb.worker.client.http2 import Http2Connection
from pylb.worker.client.lingering import Lingering
from pylb.worker.core import WRITE_BUFFER, Core
from pylb.worker.exchange import Exchange, begin
from pylb.worker.facts import Client, Endpoint
from pylb.worker.frontend import Bind
from pylb.worker.guard import guarded
from pylb.worker.pipe import ConnectionPipe
from pylb.worker.reasons import Reason
from pylb.worker.sides import ClientSide, Pipe, Spans, Trailers, contents

# Plain integers: an enum member costs a lookup and an __index__ call each time.
_BYTES_IN = int(Field.BYTES_IN)
_BYTES_OUT = int(Field.BYTES_OUT)

_CR = 13
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\n"
# Up to here head and body are joined into one write; a larger piece is not worth copying.
_JOIN = 16384
QUIET = 1.0
"""Seconds without a request after which the next one is not expected at once."""
_LONG_NS = 1_000_000_000


class Http1Connection(ClientSide, core_.ClientConnection, asyncio.Protocol):
    """One client connection, and the client side of each of its exchanges."""

    __slots__ = (
        # of the connection
        *("core", "counters", "bind", "told", "facts", "transport", "deadline", "eof", "closed", "reading"),
        *("write_paused", "moving", "born", "recalled", "tunnelled", "_unsent"),
        # between two messages
        *("buffer", "first_byte_ns"),
        # of the request
        *("head", "exchange", "request_body", "body_done", "close_after", "chunking"),
    )

    def __init__(self, core: Core, bind: Bind, told: Endpoint | None = None) -> None:
        """``told`` is the client's address, where a PROXY header has given it."""
        self.core = core
        self.counters = core.counters
        self.bind = bind
        self.told = told
        self.facts: Client = None  # type: ignore[assignment]  # set before any use
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # likewise
        self.deadline = math.inf  # of a connection without an exchange
        self.eof = False
        self.closed = False
        self.reading = True
        self.write_paused = False
        self.moving = False
        self.movable = not bind.tls  # the keys of a TLS connection can't leave the process
        self.born = core.now
        self.recall_at = core.recall_at(self.born)
        self.recalled = False  # the next response asks the client to connect anew
        self.tunnelled = False
        self._unsent = 0  # bytes that weren't taken when last looked at
        self.buffer = b""
        self.first_byte_ns = 0
        self.head: RequestHead = None  # type: ignore[assignment]  # set before any use
        self.exchange: Exchange | None = None
        self.request_body: RequestBody | None = None
        self.body_done = True
        self.close_after = False
        self.chunking = False  # the response's body is to be put into chunks

    # From the event loop

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        core = self.core
        self.facts = Client(transport, self.bind.key, self.told)
        if self.bind.tls:
            tls = transport.get_extra_info("ssl_object")
            if tls is not None and tls.selected_alpn_protocol() == "h2":
                self._become_http2(b"")
                return
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        core.clients.add(self)
        self.deadline = core.now + core.timeouts.keep_alive
        self.head = self.bind.reader(self.facts)
        if core.leaving and (core.stopping or not self.movable):
            self.recalled = True

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.core.clients.discard(self)
        exchange, self.exchange = self.exchange, None
        try:
            if exchange is not None:
                exchange.client_gone(Reason.CLIENT_GONE)
            elif self.buffer and not self.moving and self.head is not None:
                self._never(Reason.CLIENT_GONE)
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

    def data_received(self, data: bytes) -> None:
        try:
            self.counters[_BYTES_IN] += len(data)
            if self.exchange is not None or self.write_paused:
                if not self.body_done:
                    self._body(data)
                else:
                    self.buffer += data
                    if self.reading and len(self.buffer) > self.core.limits.pipelined_bytes:
                        self._read(False)
            elif self.buffer:
                data = self.buffer + data
                self.buffer = b""
                self._request(data, False)
            else:
                self._request(data, True)
        except Exception as error:  # as `guarded` does, without another call on each request's way
            self.crashed(error)

    # The request

    def _request(self, data: bytes, first: bool) -> None:
        """Read a head; ``first`` when these are the first bytes of it."""
        core = self.core
        head = self.head
        end = size = len(data)
        try:
            if data != head.raw:  # else the same again, and no body
                kept = data
                end = data.find(b"\r\n\r\n") + 4
                if data[0] == _CR and data[:2] == b"\r\n":
                    # RFC 9112 §2.2: an empty line before a request line is skipped; one.
                    data = data[2:]
                    end = data.find(b"\r\n\r\n") + 4
                    size = len(data)
                if end < 4:
                    self._half(kept, data, first)
                    return
            head.read(data if end == size else data[:end])
        except Refused as refused:
            if data.startswith(_HTTP2) and not head.method:
                self._become_http2(data)
            else:
                self._refuse(refused)
            return
        except Exception:
            # It is the request that is to be answered with 500.
            self._begin().client = self
            raise
        self.close_after = (
            not head.keep_alive
            or self.recalled
            or (not self.movable and core.recalls.open and self._too_many())
        )
        exchange = self.exchange = begin(core, self.facts, self.bind.frontend)
        if self.first_byte_ns:
            self._mark(exchange)
        if head.chunked or head.content_length:
            body = self.request_body = RequestBody(head.chunked, head.content_length)
            self.body_done = False
            try:
                used, spans = body.feed(data[end:])
            except Refused as refused:
                self._refuse(refused)
                return
            self.buffer = data[end + used :]
            done = self.body_done = body.done
            if done and body.trailers:
                exchange.request(self, head, data[end : end + used], False, spans)
                if self.exchange is exchange:
                    exchange.request_end(body.trailers)
            else:
                exchange.request(self, head, data[end : end + used], done, spans)
            return
        self.body_done = True
        if end != size:
            self.buffer = data[end:]
        exchange.request(self, head, b"", True)

    def _half(self, kept: bytes, data: bytes, first: bool) -> None:
        """The head isn't whole: keep what has come (``data`` is that without an empty line), or refuse it."""
        core = self.core
        limits = core.head_limits
        self.buffer = kept
        if len(data) > limits.line_bytes and data.find(b"\n") < 0:
            raise Refused(414, "line_bytes")
        if len(data) > limits.header_bytes:
            raise Refused(431, "header_bytes")
        if first and data:
            self.deadline = core.now + core.timeouts.request
            if not self.first_byte_ns:  # else it is looked at again, as nothing more comes
                self.first_byte_ns = time.monotonic_ns()

    def _body(self, data: bytes) -> None:
        """A further piece of the request's body."""
        body = self.request_body
        exchange = self.exchange
        if body is None or exchange is None:
            return
        try:
            used, spans = body.feed(data)
        except Refused as refused:
            self._refuse(refused)
            return
        if used < len(data):
            self.buffer += data[used:]
            data = data[:used]
        self.body_done = body.done
        exchange.request_body(data, spans)
        if body.done and self.exchange is exchange:
            exchange.request_end(body.trailers)

    def _begin(self) -> Exchange:
        """An exchange for a request that can't be passed on: it is to be answered all the same."""
        exchange = self.exchange
        if exchange is None:
            exchange = self.exchange = begin(self.core, self.facts, self.bind.frontend)
            self._mark(exchange)
        return exchange

    def _mark(self, exchange: Exchange) -> None:
        """Say when the head began, which has come in pieces."""
        exchange.plain = False
        exchange.tx.first_byte_ns = self.first_byte_ns
        self.first_byte_ns = 0

    def _refuse(self, refused: Refused) -> None:
        """Have an answer sent to what can't be understood, and close: what follows can't be trusted."""
        self.close_after = True
        self.body_done = False
        self.buffer = b""
        self._begin().refuse(refused, self)

    def _never(self, reason: Reason) -> None:
        """The connection ends within a head."""
        exchange = begin(self.core, self.facts, self.bind.frontend)
        self._mark(exchange)
        exchange.never(reason)

    def _become_http2(self, data: bytes) -> None:
        """The client speaks HTTP/2, by prior knowledge (RFC 9113 §3.3) or as agreed in the TLS handshake."""
        self.core.clients.discard(self)
        self.closed = True
        connection = Http2Connection(self.core, self.bind, self.facts)
        connection.born, connection.recall_at = self.born, self.recall_at
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        if data:
            connection.data_received(data)

    def _read(self, wanted: bool) -> None:
        if wanted is not self.reading and not self.closed and not self.moving:
            self.reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    # From the exchange

    def respond(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        request = self.head
        if end and not self.body_done:
            self.close_after = True  # the rest of the request will be dropped
        elif end and at and not head.changed and not self.close_after and request.http11:
            # The usual: all of it is here and nothing is to be added, so the bytes pass as they came.
            self.counters[_BYTES_OUT] += len(buffer)
            self.transport.write(buffer)
            self._next()
            return
        out = head.out
        if head.content_length < 0:
            if not head.chunked:
                self.close_after = True  # nothing else can show the body's end
            elif request.http11:
                self.chunking = spans is None
            else:
                self.close_after = True
                out = _without_chunked(out)
                buffer, at, spans = contents(buffer, spans) if spans is not None else buffer[at:], 0, None
        if self.close_after:
            out = out[:-2] + b"Connection: close\r\n\r\n"
        elif not request.http11:
            out = out[:-2] + b"Connection: keep-alive\r\n\r\n"
        elif at and not head.changed and not self.chunking:
            out, at = b"", 0  # the buffer begins with it
        size = len(buffer) - at
        if size:
            # Head and body go out in one system call, which is one packet, too.
            if self.chunking:
                out = b"%b%x\r\n%b\r\n" % (out, size, buffer[at:])
            elif size < _JOIN:
                out = out + buffer[at:] if at else out + buffer if out else buffer
            else:
                self.counters[_BYTES_OUT] += len(out) + size
                if out:
                    self.transport.writelines((out, memoryview(buffer)[at:]))
                else:
                    self.transport.write(buffer)
                out = b""
        if out:
            self.counters[_BYTES_OUT] += len(out)
            self.transport.write(out)
        if end:
            self._next()

    def interim(self, head: ResponseHead) -> None:
        if self.head.http11:
            self._write(head.out)

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        if spans is not None:
            if not self.head.http11:
                buffer = contents(buffer, spans)
            self.chunking = False  # what comes is framed, to its end
        elif self.chunking:
            buffer = b"%x\r\n%b\r\n" % (len(buffer), buffer)
        if buffer:
            self._write(buffer)

    def end(self, trailers: Trailers) -> None:
        if self.chunking:
            self._write(b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n")
        if not self.body_done:
            self.close_after = True
        self._next()

    def _write(self, data: bytes) -> None:
        self.counters[_BYTES_OUT] += len(data)
        self.transport.write(data)

    def tunnel(self, head: ResponseHead) -> Pipe:
        self._write(head.out)
        self.movable = False
        self.tunnelled = True  # the tunnel has the exchange from now on, and its deadline
        self.exchange = None
        self.deadline = math.inf
        early, self.buffer = self.buffer, b""
        return ConnectionPipe(self.core, self.transport, early, self.eof, self, self.write_paused)

    def last(self) -> None:
        self.close_after = True

    def abort(self, reason: Reason) -> None:
        self.exchange = None
        if not self.closed:
            self.transport.abort()

    def pause(self) -> None:
        self._read(False)

    def resume(self) -> None:
        self._read(len(self.buffer) <= self.core.limits.pipelined_bytes)

    @property
    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

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
        and what comes is read and dropped for a moment.
        """
        self.deadline = self.core.now + self.core.timeouts.client
        if linger and not self.eof and not self.closed and self.transport.can_write_eof():
            Lingering(self.core, self.transport, self.reading, self)
        else:
            self.transport.close()

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
        elif left or self.write_paused or self.eof or self.transport.is_closing():
            self.counters[Field.TIMEOUTS] += 1
            self.transport.abort()
        elif self.buffer not in (b"", b"\r\n"):
            self.counters[Field.TIMEOUTS] += 1
            self._refuse(Refused(408, "timeout"))
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
        """Whether this response asks the client to connect anew, to level the workers."""
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
        if self.closed or self.tunnelled:
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

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own: the request under way is answered with 500, or the connection ends."""
        exchange = self.exchange
        if exchange is not None:
            exchange.crashed(error)
            if self.exchange is not exchange:
                return
            self.exchange = None
        else:
            self.core.internal(error)
        try:
            self.cut_off()
        except Exception as another:
            self.core.internal(another)


def _without_chunked(head: bytes) -> bytes:
    """A response head for a client of HTTP/1.0, whose body's end the close shows."""
    start = head.lower().index(b"\ntransfer-encoding:") + 1
    return head[:start] + head[head.index(b"\n", start) + 1 :]
