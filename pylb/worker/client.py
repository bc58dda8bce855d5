"""The client side: one HTTP/1 client connection, and the way of a request through the worker.

The way: `data_received` → `_request` (the head, `http/request.py`) → `Exchange.send` (pick a server, take a
pooled connection) → `ServerConnection.begin`; back: `ServerConnection.data_received` → `write` →
`Exchange.response_done`. There is no task and no ``await`` on it; a coroutine runs only to connect to a
server.

Between requests, parsed state is nil: all that a connection is then is its descriptor and the bytes of
``buffer``. That is the *message boundary* at which it can be handed to another worker.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from pylb.http.body import RequestBody
from pylb.http.errors import Refused, https_location, redirect_response
from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.scoreboard import Field
from pylb.worker.exchange import Endpoint, HttpExchange, endpoint, tls_facts
from pylb.worker.guard import guarded
from pylb.worker.http2 import QUIET, Http2Connection
from pylb.worker.lingering import Lingering
from pylb.worker.server import WRITE_BUFFER
from pylb.worker.tunnel import Tunnel

if TYPE_CHECKING:
    from pylb.worker.listener import Listener, Peer
    from pylb.worker.main import Worker
    from pylb.worker.server import ServerConnection

# Plain integers: an enum member costs a lookup and an __index__ call each time.
_BYTES_IN = int(Field.BYTES_IN)
_BYTES_OUT = int(Field.BYTES_OUT)

_HTTP2 = b"PRI * HTTP/2.0\r\n\r\n"
# Bytes of a body kept while a server is connected to; reading stops above it.
_READ_AHEAD = 65536
# Up to here head and body are joined into one write; a larger piece is not worth copying.
_JOIN = 16384

_now_ns = time.monotonic_ns


class ClientConnection(HttpExchange, asyncio.Protocol):
    """Reads requests and has them answered, one at a time and in order."""

    __slots__ = (
        "listener",
        "peer",
        "transport",
        "head",
        "buffer",
        "deadline",
        "eof",
        "reading",
        "write_paused",
        "unsent",
        "moving",
        "movable",
        "body",
        "born",
        "recall_at",
        "recalled",
        "tunnelled",
    )

    def __init__(self, worker: Worker, listener: Listener, peer: Peer | None = None) -> None:
        super().__init__(worker, listener.backend)
        self.listener = listener
        self.peer = peer  # the client, where it is not the other end of the connection
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.head: RequestHead = None  # type: ignore[assignment]  # likewise
        self.buffer = b""
        self.deadline = math.inf
        self.eof = False
        self.reading = True
        self.write_paused = False
        self.unsent = 0  # bytes of responses that weren't taken when last looked at
        self.moving = False
        self.movable = not listener.tls  # the keys of a TLS connection can't leave the process
        self.body: RequestBody | None = None
        self.born = worker.now
        self.recall_at = worker.recall_at(self.born)
        self.recalled = False  # the next response asks the client to connect anew
        self.tunnelled = False

    # asyncio's side

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        worker = self.worker
        if self.listener.tls:
            tls = transport.get_extra_info("ssl_object")
            if tls is not None and tls.selected_alpn_protocol() == "h2":
                self._become_http2(b"")
                return
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        worker.clients.add(self)
        self.deadline = worker.now + worker.timeouts.keep_alive
        self.head = self.listener.request_head(transport, self.peer)
        if worker.leaving and (worker.stopping or not self.movable):
            self.recalled = True

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
    def eof_received(self) -> bool:
        self.eof = True
        if not self.busy:
            if self.buffer:
                # Perhaps the next request, and its turn just hasn't come.
                self.worker.loop.call_soon(self.go_on)
            return bool(self.buffer) and self.transport.can_write_eof()
        if not self.body_done:
            self.transport.abort()
            return False
        # A client may half-close and still wait for its answer. Not with TLS; uvloop would log a warning.
        return self.transport.can_write_eof()

    @guarded
    def pause_writing(self) -> None:
        self.write_paused = True
        self.deadline = self.worker.now + self.worker.timeouts.client
        server = self.server
        if server is not None:
            server.deadline = math.inf
            server.pause_reading()

    @guarded
    def resume_writing(self) -> None:
        self.write_paused = False
        self.deadline = math.inf if self.busy else self.worker.now + self.worker.timeouts.keep_alive
        server = self.server
        if server is not None:
            server.deadline = self.worker.now + self.worker.timeouts.server
            server.resume_reading()
        elif self.buffer and not self.busy:
            self.worker.loop.call_soon(self.go_on)

    def data_received(self, data: bytes) -> None:
        try:
            self.counters[_BYTES_IN] += len(data)
            if self.busy or self.write_paused:
                if self.busy and not self.body_done:
                    self._body(data)
                else:
                    self.buffer += data
                    if len(self.buffer) > self.worker.limits.pipelined_bytes:
                        self.update_reading()
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
        kept = data
        end = data.find(b"\r\n\r\n") + 4
        if data[:2] == b"\r\n":
            # RFC 9112 §2.2: an empty line before a request line is skipped; one.
            data = data[2:]
            end = data.find(b"\r\n\r\n") + 4
        worker = self.worker
        if end < 4:
            limits = worker.head_limits
            self.buffer = kept
            if len(data) > limits.line_bytes and data.find(b"\n") < 0:
                self._refuse(Refused(414, "line_bytes"))
            elif len(data) > limits.header_bytes:
                self._refuse(Refused(431, "header_bytes"))
            elif first and data:
                self.deadline = worker.now + worker.timeouts.request
            return
        head = self.head
        size = len(data)
        try:
            outgoing = head.parse(data if end == size else data[:end])
        except Refused as refused:
            if data.startswith(_HTTP2) and self.head.fields is None:
                self._become_http2(data)
            else:
                self._refuse(refused)
            return
        except Exception:
            # It is the request that is to be answered with 500.
            self.busy = True
            self.started_ns = _now_ns()
            self.response_started = False
            raise
        self.method = head.method
        self.busy = True
        self.started_ns = _now_ns()
        self.response_started = False
        self.close_after = (
            not head.keep_alive
            or self.recalled
            or (not self.movable and worker.recalls.open and self._too_many())
        )
        self.plain = head.http11 and not self.listener.response_fields
        self.dechunk = not head.http11
        self.deadline = math.inf
        if head.chunked or head.content_length:
            try:
                outgoing += self._body_begins(data[end:])
            except Refused as refused:
                self._refuse(refused)
                return
        else:
            self.body_done = True
            if end != size:
                self.buffer = data[end:]
        self.outgoing = outgoing
        self.replayable = self.body_done
        if self.tried:
            self.tried = frozenset()
        if self.listener.answers and self._answered_here(outgoing):
            return
        self.send()

    def _become_http2(self, data: bytes) -> None:
        """The client speaks HTTP/2, by prior knowledge (RFC 9113 §3.3) or as agreed in the TLS handshake."""
        self.worker.clients.discard(self)
        self.closed = True
        connection = Http2Connection(self.worker, self.listener, self.peer)
        connection.born, connection.recall_at = self.born, self.recall_at
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        if data:
            connection.data_received(data)

    def _answered_here(self, outgoing: bytes) -> bool:
        """Answer what no server is asked; False when it is a server's."""
        listener = self.listener
        status = listener.health(outgoing)
        if status:
            self.close_after = self.close_after or not self.body_done or not self.head.http11
            self.counters[Field.STATUS_1XX - 1 + status // 100] += 1
            self.response_started = True
            self.write(listener.health_response(status, self.close_after, self.method == b"HEAD"))
            self.done(times=self.worker.times)
        elif listener.redirect:
            self._redirect(outgoing)
        else:
            return False
        return True

    def _redirect(self, outgoing: bytes) -> None:
        """The same place, by https."""
        self.close_after = self.close_after or not self.body_done
        fields = self.head.fields
        try:
            location = https_location(fields.host if fields is not None else None, outgoing)
        except Refused as refused:
            self._refuse(refused)
            return
        self.counters[Field.STATUS_3XX] += 1
        self.response_started = True
        self.write(redirect_response(location, self.close_after))
        self.done(times=self.worker.times)

    def _body_begins(self, data: bytes) -> bytes:
        """Take from what came with the head that which belongs to the body."""
        head = self.head
        worker = self.worker
        limit = self.listener.body_bytes
        body = RequestBody(head.chunked, head.content_length, limit, worker.limits.body_rate, worker.now)
        used = body.feed(data)
        self.body = body
        self.body_done = body.done
        self.buffer = data[used:]
        self.deadline = body.deadline(worker.now, worker.timeouts.client)
        return data[:used]

    def _body(self, data: bytes) -> None:
        """A further piece of the request's body."""
        body = self.body
        assert body is not None
        try:
            used = body.feed(data)
        except Refused as refused:
            self._refuse(refused)
            return
        if used < len(data):
            self.buffer += data[used:]
            data = data[:used]
        self.body_done = body.done
        self.deadline = body.deadline(self.worker.now, self.worker.timeouts.client)
        server = self.server
        if server is not None:
            self.replayable = False
            server.deadline = self.worker.now + self.worker.timeouts.server
            server.write(data)
        else:
            self.outgoing += data  # still connecting; bounded by update_reading
            self.replayable = self.body_done
            self.update_reading()

    # The response; called by the server side

    def write(self, data: bytes | memoryview) -> None:
        self.counters[_BYTES_OUT] += len(data)
        self.transport.write(data)

    def write_head(self, head: ResponseHead, body: bytes | memoryview) -> None:
        out = head.out
        if self.close_after or not self.plain:
            out = self._adapt(out, head.chunked)
        extra = self.listener.response_fields
        if extra:
            out = out[:-2] + extra  # HSTS
        self.counters[_BYTES_OUT] += len(out) + len(body)
        # Head and body go out in one system call: every one of them is a packet of its own, too.
        if not body:
            self.transport.write(out)
        elif len(body) < _JOIN:
            self.transport.write(out + body)
        else:
            self.transport.writelines((out, body))

    def write_interim(self, head: ResponseHead) -> None:
        if self.head.http11:
            self.write(head.out)

    def _adapt(self, head: bytes, chunked: bool) -> bytes:
        """The response head for a client that speaks HTTP/1.0, or whose connection ends with this."""
        if not self.head.http11:
            if chunked:
                start = head.lower().index(b"\ntransfer-encoding:") + 1
                head = head[:start] + head[head.index(b"\n", start) + 1 :]
            if not self.close_after:
                return head[:-2] + b"Connection: keep-alive\r\n\r\n"
        return head[:-2] + b"Connection: close\r\n\r\n"

    def write_error(self, status: int) -> None:
        self.close_after = self.close_after or not self.body_done or not self.head.http11
        self.response_started = True
        self.write(self.listener.error(status, self.close_after, self.method == b"HEAD"))

    def before_open_end(self) -> None:
        self.close_after = True

    def wants_upgrade(self, head: ResponseHead) -> bool:
        fields = self.head.fields
        return fields is not None and bool(fields.upgrade) and bool(head.upgrade)

    def tunnel(self, server: ServerConnection, head: ResponseHead, rest: bytes) -> None:
        """From here on bytes are relayed, whatever they mean (RFC 9110 §7.8)."""
        self.response_started = True
        self.write(head.out)
        self.movable = False
        self.tunnelled = True
        early, self.buffer = self.buffer, b""
        Tunnel(self.worker, self, server, self.worker.timeouts.tunnel, head.upgrade).start(early, rest)

    # Ends

    def _refuse(self, refused: Refused) -> None:
        """Answer what can't be understood, and close: what follows can't be trusted either."""
        counters = self.counters
        self.worker.count_refusal(refused)
        times = self.worker.times if self.upstream is None else None
        if self.busy:
            self.leave_server()
        else:
            counters[Field.REQUESTS] += 1
        started = self.busy and self.response_started
        if not started:
            counters[Field.STATUS_1XX - 1 + refused.status // 100] += 1
            self.response_started = True
            self.write(self.listener.error(refused.status, True))
        self.buffer = b""
        if self.busy:
            self.body_done = False
            self.done(abort=started, times=times)
        else:
            self.close(linger=True)

    def over(self, abort: bool) -> None:
        if self.closed:
            return
        if abort:
            self.transport.abort()
            return
        worker = self.worker
        if self.close_after or not self.body_done or (self.eof and not self.buffer):
            self.close(linger=not self.body_done)
            return
        self.deadline = worker.now + worker.timeouts.keep_alive
        if not self.reading:
            self.update_reading()
        if worker.moves and self.movable:
            worker.offer(self)
        elif self.buffer:
            worker.loop.call_soon(self.go_on)

    @guarded
    def go_on(self) -> None:
        """Read the next request from what has come already."""
        if self.busy or self.closed or self.moving or self.write_paused:
            return
        if self.buffer:
            data, self.buffer = self.buffer, b""
            self._request(data, True)
        if self.eof and not self.busy:
            self.close()

    def close(self, linger: bool = False) -> None:
        """Close after what was written has gone out.

        Closing a socket with unread input resets the connection, and the reset can overtake the
        response (RFC 9112 §9.6). Where more input is to be expected (``linger``), our side is shut first, and
        what comes is read and dropped for a moment.
        """
        self.deadline = self.worker.now + self.worker.timeouts.client
        if linger and not self.eof and not self.closed and self.transport.can_write_eof():
            Lingering(self)
        else:
            self.transport.close()

    def lively(self) -> bool:
        """Whether its client would be somebody else's work, if it came back to another worker."""
        if self.movable or self.tunnelled:
            return False
        return self.busy or self._quiet() < 2 * QUIET

    def _quiet(self) -> float:
        """Seconds for which an idle connection has been so."""
        return self.worker.now - (self.deadline - self.worker.timeouts.keep_alive)

    def _too_many(self) -> bool:
        fields = self.head.fields
        if fields is not None and fields.upgrade:
            return False  # it could not be kept
        return self.worker.recalls.take(self, self.worker.loop.time())

    def recall(self) -> None:
        """Ask the client to come back on another connection with the next response."""
        self.recalled = True

    @guarded
    def drain(self) -> None:
        """The worker leaves and nobody takes over: `recall`, and if nothing comes, close.

        A client that is just between two requests isn't closed on: the next one would be lost.
        """
        self.recalled = True
        wait = QUIET
        if self.closed or self.tunnelled:
            return
        if not self.busy:
            if self.buffer:
                return  # what has come of a request has its deadline
            wait -= self._quiet()
            if wait <= 0:
                self.transport.close()
                return
        elif not self.response_started:
            self.close_after = True
            return
        self.worker.loop.call_later(wait, self.drain)

    @guarded
    def expire(self) -> None:
        """The deadline has passed."""
        left = self.transport.get_write_buffer_size()
        if left and left != self.unsent:
            # A response that is taken slowly is taken; but by the next look there must be a difference.
            self.unsent = left
            self.deadline = self.worker.now + self.worker.timeouts.client
        elif left or self.write_paused or self.eof or self.transport.is_closing():
            self.counters[Field.TIMEOUTS] += 1
            self.transport.abort()
        elif self.busy and not self.reading:
            # It is we who don't read, since the server doesn't; the server's deadline decides.
            self.deadline = self.worker.now + self.worker.timeouts.client
        elif self.busy or self.buffer not in (b"", b"\r\n"):
            self.counters[Field.TIMEOUTS] += 1
            self._refuse(Refused(408, "timeout"))
        else:
            self.transport.close()

    def cut_off(self) -> None:
        self.worker.clients.discard(self)
        if self.transport is not None:
            self.transport.abort()

    def client_tls(self) -> dict[str, bytes]:
        return tls_facts(self.transport)

    def endpoints(self) -> tuple[Endpoint | None, Endpoint | None]:
        return self.peer or endpoint(self.transport, "peername"), endpoint(self.transport, "sockname")

    def update_reading(self) -> None:
        server = self.server
        if self.closed or self.moving:
            return
        if self.busy:
            wanted = len(self.buffer) <= self.worker.limits.pipelined_bytes and (
                not server.write_paused if server is not None else len(self.outgoing) <= _READ_AHEAD
            )
        else:
            wanted = True
        if wanted != self.reading:
            self.reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()
