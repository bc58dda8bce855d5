"""The client side: one client connection, and the way of a request through the worker.

The way: `data_received` → `_request` (the head, `http/request.py`) → `_send` (pick a server, take a
pooled connection) → `ServerConnection.begin`; back: `ServerConnection.data_received` → `write` →
`response_done`. There is no task and no ``await`` on it; a coroutine runs only to connect to a server.

Between requests, parsed state is nil: all that a connection is then is its descriptor and the bytes of
``buffer``. That is the *message boundary* at which it can be handed to another worker.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from pylb.http.chunked import ChunkError, ChunkScanner
from pylb.http.errors import Refused, error_response
from pylb.http.request import IDEMPOTENT, RequestHead
from pylb.scoreboard import LATENCY_BUCKETS, Field
from pylb.worker.server import WRITE_BUFFER

if TYPE_CHECKING:
    from pylb.worker.main import Worker
    from pylb.worker.pool import Backend, Upstream
    from pylb.worker.server import ServerConnection

# Plain integers: an enum member costs a lookup and an __index__ call each time.
_CONNECTIONS = int(Field.CONNECTIONS)
_IN_FLIGHT = int(Field.IN_FLIGHT)
_REQUESTS = int(Field.REQUESTS)
_BYTES_IN = int(Field.BYTES_IN)
_BYTES_OUT = int(Field.BYTES_OUT)
_STATUS = int(Field.STATUS_1XX) - 1
_LATENCY = int(Field.LATENCY)
_LAST_BUCKET = LATENCY_BUCKETS - 1

# Pipelined bytes kept while a request is under way; reading stops above it.
_READ_AHEAD = 65536

_now_ns = time.monotonic_ns


class ClientConnection(asyncio.Protocol):
    """Reads requests and has them answered, one at a time and in order."""

    __slots__ = (
        # connection
        "worker",
        "backend",
        "bind",
        "row",
        "transport",
        "head",
        "buffer",
        "deadline",
        "closed",
        "eof",
        "reading",
        "write_paused",
        "moving",
        # request
        "busy",
        "body_done",
        "body_left",
        "chunks",
        "outgoing",
        "replayable",
        "upstream",
        "server",
        "connecting",
        "tried",
        "response_started",
        "close_after",
        "plain",
        "started_ns",
    )

    def __init__(self, worker: Worker, bind: str, backend: Backend) -> None:
        self.worker = worker
        self.backend = backend
        self.bind = bind
        self.row = worker.cells
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.head: RequestHead = None  # type: ignore[assignment]  # likewise
        self.buffer = b""
        self.deadline = math.inf
        self.closed = False
        self.eof = False
        self.reading = True
        self.write_paused = False
        self.moving = False

        self.busy = False
        self.body_done = True
        self.body_left = 0
        self.chunks: ChunkScanner | None = None
        self.outgoing = b""  # head and first body bytes, kept until the response starts
        self.replayable = False
        self.upstream: Upstream | None = None
        self.server: ServerConnection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.tried: frozenset[int] = frozenset()
        self.response_started = False
        self.close_after = False
        self.plain = True  # HTTP/1.1 keep-alive: the response head needs no word of ours
        self.started_ns = 0

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        worker = self.worker
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        worker.clients.add(self)
        self.row[_CONNECTIONS] += 1
        self.deadline = worker.now + worker.timeouts.keep_alive
        peer = transport.get_extra_info("peername")
        client = peer[0].encode() if isinstance(peer, tuple) else b"unix"
        host = b"localhost" if self.bind.startswith("unix:") else self.bind.encode()
        self.head = RequestHead(client, host, b"http", worker.head_limits)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.worker.clients.discard(self)
        self.row[_CONNECTIONS] -= 1
        if self.busy:
            self.row[Field.ABORTED] += 1
            self._leave_server()
            self._done()
        self.worker.client_gone()

    def eof_received(self) -> bool:
        self.eof = True
        if not self.busy:
            return False
        if not self.body_done:
            self.transport.abort()
            return False
        return True  # a client may half-close and still wait for its answer

    def pause_writing(self) -> None:
        self.write_paused = True
        self.deadline = self.worker.now + self.worker.timeouts.client
        server = self.server
        if server is not None:
            server.deadline = math.inf
            server.transport.pause_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        self.deadline = math.inf if self.busy else self.worker.now + self.worker.timeouts.keep_alive
        server = self.server
        if server is not None:
            server.deadline = self.worker.now + self.worker.timeouts.server
            server.transport.resume_reading()
        elif self.buffer and not self.busy:
            self.worker.loop.call_soon(self.go_on)

    def data_received(self, data: bytes) -> None:
        self.row[_BYTES_IN] += len(data)
        if self.busy or self.write_paused:
            if self.busy and not self.body_done:
                self._body(data)
            else:
                self.buffer += data
                if len(self.buffer) > _READ_AHEAD:
                    self.update_reading()
        elif self.buffer:
            data = self.buffer + data
            self.buffer = b""
            self._request(data, False)
        else:
            self._request(data, True)

    # The request

    def _request(self, data: bytes, first: bool) -> None:
        """Read a head; ``first`` when these are the first bytes of it."""
        end = data.find(b"\r\n\r\n") + 4
        if data[0] == 13 or data[0] == 10:
            # RFC 9112 §2.2: empty lines before a request line are skipped.
            data = data.lstrip(b"\r\n")
            end = data.find(b"\r\n\r\n") + 4
            if not data:
                return
        worker = self.worker
        if end < 4:
            limits = worker.head_limits
            self.buffer = data
            if len(data) > limits.line_bytes and data.find(b"\n") < 0:
                self._refuse(Refused(414, "line_bytes"))
            elif len(data) > limits.header_bytes:
                self._refuse(Refused(431, "header_bytes"))
            elif first:
                self.deadline = worker.now + worker.timeouts.request
            return
        head = self.head
        size = len(data)
        try:
            outgoing = head.parse(data if end == size else data[:end])
        except Refused as refused:
            self._refuse(refused)
            return
        self.busy = True
        self.row[_IN_FLIGHT] += 1
        self.started_ns = _now_ns()
        self.response_started = False
        self.close_after = worker.stopping or not head.keep_alive
        self.plain = head.http11
        self.body_done = True
        self.deadline = math.inf
        if head.chunked:
            head.body_follows()
            scanner = self.chunks = ChunkScanner()
            try:
                used = scanner.feed(data[end:])
            except ChunkError:
                self._refuse(Refused(400, "chunk"))
                return
            outgoing += data[end : end + used]
            self.body_done = scanner.done
            self.buffer = data[end + used :]
        elif head.content_length:
            head.body_follows()
            self.chunks = None
            body = data[end : end + head.content_length]
            self.body_left = head.content_length - len(body)
            outgoing += body
            self.body_done = not self.body_left
            self.buffer = data[end + len(body) :]
        elif end != size:
            self.buffer = data[end:]
        if not self.body_done:
            self.deadline = worker.now + worker.timeouts.client
        self.outgoing = outgoing
        self.replayable = self.body_done
        if self.tried:
            self.tried = frozenset()
        self._send()

    def _body(self, data: bytes) -> None:
        """A further piece of the request's body."""
        rest = b""
        if self.chunks is not None and self.head.chunked:
            try:
                used = self.chunks.feed(data)
            except ChunkError:
                self._refuse(Refused(400, "chunk"))
                return
            data, rest = data[:used], data[used:]
            self.body_done = self.chunks.done
        else:
            if len(data) > self.body_left:
                data, rest = data[: self.body_left], data[self.body_left :]
            self.body_left -= len(data)
            self.body_done = not self.body_left
        self.deadline = math.inf if self.body_done else self.worker.now + self.worker.timeouts.client
        if rest:
            self.buffer += rest
        server = self.server
        if server is not None:
            self.replayable = False
            server.deadline = self.worker.now + self.worker.timeouts.server
            server.transport.write(data)
        else:
            self.outgoing += data  # still connecting; bounded by update_reading
            self.replayable = self.body_done
            self.update_reading()

    def _send(self, fresh: bool = False) -> None:
        """Pick a server and give it the request; ``fresh`` on a connection of its own."""
        index = self.backend.balancer.pick(self.tried)
        if index is None:
            self._fail(503)
            return
        upstream = self.upstream = self.backend.upstreams[index]
        upstream.active[upstream.row] += 1
        upstream.requests[upstream.row] += 1
        pool = upstream.pool
        if pool and not fresh:
            server = self.server = pool.pop()
            server.begin(self, self.outgoing)
            return
        self._connect(upstream, index)

    def _connect(self, upstream: Upstream, index: int) -> None:
        self.connecting = self.worker.loop.create_task(self._connected(upstream, index))

    async def _connected(self, upstream: Upstream, index: int) -> None:
        worker = self.worker
        try:
            server = await upstream.connect(worker, worker.timeouts.connect)
        except (OSError, TimeoutError) as error:
            self.connecting = None
            upstream.errors[upstream.row] += 1
            self._leave_server()
            self.tried |= {index}
            if len(self.tried) <= self.backend.retries and len(self.tried) < len(self.backend.upstreams):
                self.row[Field.RETRIES] += 1
                self._send()
            else:
                self._fail(504 if isinstance(error, TimeoutError) else 503)
            return
        self.connecting = None
        self.server = server
        server.begin(self, self.outgoing)
        self.update_reading()

    # The response; called by the server side

    def write(self, data: bytes | memoryview) -> None:
        """Send bytes of a response."""
        self.row[_BYTES_OUT] += len(data)
        self.transport.write(data)

    def write_pieces(self, head: bytes, body: bytes | memoryview) -> None:
        """Send a head and a piece of body in one system call, without joining them."""
        self.row[_BYTES_OUT] += len(head) + len(body)
        self.transport.writelines((head, body))

    def adapt_head(self, head: bytes, chunked: bool) -> bytes:
        """The response head for a client that speaks HTTP/1.0, or whose connection ends with this."""
        if not self.head.http11:
            if chunked:
                self.close_after = True
                start = head.lower().index(b"\ntransfer-encoding:") + 1
                head = head[:start] + head[head.index(b"\n", start) + 1 :]
            if not self.close_after:
                return head[:-2] + b"Connection: keep-alive\r\n\r\n"
        return head[:-2] + b"Connection: close\r\n\r\n"

    def response_done(self, reusable: bool) -> None:
        """The last byte of the response was written."""
        server = self.server
        assert server is not None
        self.row[_STATUS + server.head.status // 100] += 1
        self.server = None
        upstream = self.upstream
        assert upstream is not None
        upstream.active[upstream.row] -= 1
        self.upstream = None
        if reusable and self.body_done and not server.closed:
            if self.write_paused:
                server.transport.resume_reading()
            server.release()
        else:
            server.abort()
        self._done()

    def server_lost(self) -> None:
        """The server's connection ended before its response did."""
        server = self.server
        assert server is not None
        stale = server.reused and not self.response_started and not server.buffer
        if stale and self.replayable and self.head.method in IDEMPOTENT:
            # The server closed an idle connection while the request was on its way (RFC 9112 §9.3.1).
            self._leave_server()
            self.row[Field.RETRIES] += 1
            self._send(fresh=True)
        else:
            self.server_failed(502)

    def server_failed(self, status: int) -> None:
        """The server gave no usable response; answer with ``status`` if that is still possible."""
        upstream = self.upstream
        if upstream is not None:
            upstream.errors[upstream.row] += 1
        if status == 504:
            self.row[Field.TIMEOUTS] += 1
        self._leave_server()
        if self.response_started:
            self.row[Field.ABORTED] += 1
            self._done(abort=True)
        else:
            self._fail(status)

    # Ends

    def _leave_server(self) -> None:
        """Let go of the server, whatever it is doing."""
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        server, self.server = self.server, None
        if server is not None:
            server.abort()
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.active[upstream.row] -= 1

    def _fail(self, status: int) -> None:
        """Answer the request with an error of pylb's own."""
        if self.closed:
            self._done()
            return
        close = self.close_after or not self.body_done or not self.head.http11
        self.close_after = close
        self.row[_STATUS + status // 100] += 1
        self.write(error_response(status, close, self.head.method == b"HEAD"))
        self._done()

    def _refuse(self, refused: Refused) -> None:
        """Answer what can't be understood, and close: what follows can't be trusted either."""
        row = self.row
        row[Field.REFUSED] += 1
        row[_STATUS + refused.status // 100] += 1
        if self.busy:
            self._leave_server()
        else:
            row[_REQUESTS] += 1
        if not (self.busy and self.response_started):
            self.write(error_response(refused.status, True))
        self.buffer = b""
        if self.busy:
            self.body_done = False
            self._done()
        else:
            self._close(linger=True)

    def _done(self, abort: bool = False) -> None:
        """The request is over; go on with the next one or close."""
        row = self.row
        row[_IN_FLIGHT] -= 1
        row[_REQUESTS] += 1
        bucket = ((_now_ns() - self.started_ns) // 1000).bit_length()
        row[_LATENCY + (bucket if bucket < _LAST_BUCKET else _LAST_BUCKET)] += 1
        self.busy = False
        self.outgoing = b""
        if self.closed:
            return
        if abort:
            self.transport.abort()
            return
        worker = self.worker
        if self.close_after or not self.body_done or (self.eof and not self.buffer):
            self._close(linger=not self.body_done)
            return
        self.deadline = worker.now + worker.timeouts.keep_alive
        if not self.reading:
            self.update_reading()
        if worker.moves:
            worker.offer(self)
        elif self.buffer:
            worker.loop.call_soon(self.go_on)

    def go_on(self) -> None:
        """Read the next request from what has come already."""
        if self.busy or self.closed or self.moving or self.write_paused:
            return
        if self.buffer:
            data, self.buffer = self.buffer, b""
            self._request(data, True)
        if self.eof and not self.busy:
            self._close()

    def _close(self, linger: bool = False) -> None:
        """Close after what was written has gone out.

        Closing a socket with unread input resets the connection, and the reset can overtake the
        response (RFC 9112 §9.6). Where more input is to be expected (``linger``), our side is shut first, and
        what comes is read and dropped for a moment.
        """
        if linger and not self.eof and not self.closed:
            Lingering(self)
        else:
            self.transport.close()

    def expire(self) -> None:
        """The deadline has passed."""
        if self.write_paused or self.eof:
            self.row[Field.TIMEOUTS] += 1
            self.transport.abort()
        elif self.busy and not self.reading:
            # It is we who don't read, since the server doesn't; the server's deadline decides.
            self.deadline = self.worker.now + self.worker.timeouts.client
        elif self.busy or self.buffer:
            self.row[Field.TIMEOUTS] += 1
            self._refuse(Refused(408, "timeout"))
        else:
            self.transport.close()

    def update_reading(self) -> None:
        """Read from the client only while there is room for what it sends."""
        server = self.server
        if self.closed or self.moving:
            return
        if self.busy:
            wanted = len(self.buffer) <= _READ_AHEAD and (
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


class Lingering(asyncio.Protocol):
    """Takes over a connection that closes while its client may still be sending."""

    SECONDS = 1.0

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        transport = client.transport
        transport.set_protocol(self)
        transport.write_eof()
        if not client.reading:
            transport.resume_reading()
        client.worker.loop.call_later(self.SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Dropped."""
