"""The server side: one connection to a server, and the relaying of its responses.

A connection is either in its upstream's pool (``client`` is None) or works for one client connection.
Requests are never pipelined to a server, so at most one response is outstanding. Anything that comes
unasked closes the connection.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from pylb.http.chunked import ChunkError, ChunkScanner
from pylb.http.response import BadResponse, ResponseHead, read_response
from pylb.worker.guard import serving

if TYPE_CHECKING:
    from pylb.worker.exchange import HttpExchange
    from pylb.worker.main import Worker
    from pylb.worker.pool import Upstream

WRITE_BUFFER = 512 * 1024
"""Bytes written and not yet taken by the kernel, per side, above which the other side is not read."""


class ServerConnection(asyncio.Protocol):
    """Reads responses and writes them to the client that waits for them."""

    __slots__ = (
        # connection
        "worker",
        "upstream",
        "transport",
        "head",
        "raw_head",
        "raw_head_only",
        "deadline",
        "closed",
        "reused",
        "private",
        "speaks_first",
        "eof",
        "write_paused",
        "paused",
        # response
        "client",
        "buffer",
        "in_body",
        "left",
        "chunks",
    )

    def __init__(
        self, worker: Worker, upstream: Upstream, private: bool = False, speaks_first: bool = False
    ) -> None:
        self.worker = worker
        self.upstream = upstream
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.head: ResponseHead = None  # type: ignore[assignment]  # set before any use
        # What `head` was read from: a server often answers with the same head again.
        self.raw_head = b""
        self.raw_head_only = False
        self.deadline = math.inf
        self.closed = False
        self.reused = False
        self.private = private  # was announced as one client's, so it can't serve another
        self.speaks_first = speaks_first  # TCP mode: what comes before the tunnel is there waits for it
        self.eof = False
        self.write_paused = False
        self.paused = False  # not read, since the client doesn't take what comes
        self.client: HttpExchange | None = None
        self.buffer = b""
        self.in_body = False
        self.left = 0  # bytes of a Content-Length body still to come; -1: until the connection ends
        self.chunks: ChunkScanner | None = None

    # asyncio's side

    @serving
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        self.worker.server_connections.add(self)

    @serving
    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.server_connections.discard(self)
        if not self.closed:
            self._ended(broken=exc is not None)

    @serving
    def eof_received(self) -> bool:
        if self.speaks_first:
            self.eof = True
            return self.transport.can_write_eof()
        self._ended()
        return False

    @serving
    def pause_writing(self) -> None:
        self.write_paused = True
        if self.client is not None:
            self.client.update_reading()

    @serving
    def resume_writing(self) -> None:
        self.write_paused = False
        if self.client is not None:
            self.client.update_reading()

    def data_received(self, data: bytes) -> None:
        client = self.client
        try:
            if client is None:
                if self.speaks_first:
                    self.buffer += data
                    self.transport.pause_reading()
                else:
                    self.abort()
                return
            self.deadline = self.worker.now + self.worker.timeouts.server
            if self.in_body:
                self._body(client, data)
                return
            if self.buffer:
                data = self.buffer + data
                self.buffer = b""
            while True:
                end = data.find(b"\r\n\r\n") + 4
                if end < 4:
                    if len(data) > self.worker.limits.header_bytes:
                        self._bad(client)
                    else:
                        self.buffer = data
                    return
                raw = data[:end]
                head_only = client.method == b"HEAD"
                if raw == self.raw_head and head_only is self.raw_head_only:
                    head = self.head
                else:
                    try:
                        head = self.head = read_response(raw, head_only)
                    except BadResponse as error:
                        self._bad(client, str(error))
                        return
                    self.raw_head = raw
                    self.raw_head_only = head_only
                if head.status >= 200:
                    break
                if end > self.worker.limits.header_bytes:
                    self._bad(client)
                    return
                if head.status == 101:
                    if client.wants_upgrade(head):
                        self.client = None
                        client.tunnel(self, head, data[end:])
                    else:
                        self._bad(client, "101 that nobody asked for")
                    return
                client.write_interim(head)
                data = data[end:]
                if not data:
                    return
            client.response_started = True
            if len(data) - end == head.content_length and client.plain and not client.close_after:
                if client.body_done:
                    # The usual: all of it is here, and nothing is to be added.
                    client.write(head.out + data[end:] if head.changed else data)
                    client.response_done(head.keep_alive)
                    return
                client.close_after = True  # the rest of the request will be dropped
            self._response(client, head, data, end)
        except Exception as error:  # as `serving` does, without another call on each response's way
            self.crashed(error, client)

    # The response

    def _response(self, client: HttpExchange, head: ResponseHead, data: bytes, end: int) -> None:
        """Pass on a head, and what came of the body with it."""
        if end > self.worker.limits.header_bytes:
            client.response_started = False
            self._bad(client)
            return
        length = head.content_length
        self.in_body = True
        if head.chunked:
            self.chunks = ChunkScanner()
            if client.dechunk:
                client.before_open_end()
        else:
            self.left = length
            if length < 0:
                client.before_open_end()
        if length == 0 and not head.chunked:
            client.write_head(head, b"")
            if self.client is client:
                self._finish(client, end == len(data))
        elif end < len(data):
            self._body(client, data[end:], head)
        else:
            client.write_head(head, b"")

    def _body(self, client: HttpExchange, data: bytes, head: ResponseHead | None = None) -> None:
        """Pass on a piece of the body (the first one with its head), and notice its end."""
        chunks = self.chunks
        piece: bytes | memoryview
        if chunks is not None:
            payload: list[bytes] | None = [] if client.dechunk else None
            try:
                used = chunks.feed(data, payload)
            except ChunkError:
                client.response_started = head is None  # with the head still here a 502 can be sent
                self._bad(client, "chunk")
                return
            clean = used == len(data)
            piece = b"".join(payload) if payload is not None else data if clean else data[:used]
            done = chunks.done
        else:
            size = len(data)
            left = self.left
            piece = data[:left] if size > left >= 0 else data
            clean = size == len(piece)
            if left >= 0:
                self.left = left = left - len(piece)
            done = not left
        if head is not None:
            client.write_head(head, piece)
        elif piece:
            client.write(piece)
        if done and chunks is not None and chunks.trailers:
            client.write_trailers(chunks.trailers)
        if done and self.client is client:
            self._finish(client, clean)

    def _finish(self, client: HttpExchange, clean: bool) -> None:
        """The response is complete; ``clean`` when nothing unasked came behind it."""
        self.in_body = False
        self.chunks = None
        client.response_done(clean and self.head.keep_alive)

    def _bad(self, client: HttpExchange, reason: str = "header_bytes") -> None:
        """The server said something that must not be passed on."""
        self.upstream.failed(self.worker, "response", f"bad response: {reason}")
        self.abort()
        client.server_failed(502)

    def _ended(self, broken: bool = False) -> None:
        """The server closed, or the connection broke."""
        self.closed = True
        client = self.client
        if client is None:
            self._leave_pool()
        elif self.in_body and self.left < 0 and self.chunks is None and not broken:
            self.in_body = False
            client.response_done(False)
        else:
            client.server_lost()
        self.transport.abort()

    def _leave_pool(self) -> None:
        pool = self.upstream.pool
        if self in pool:
            pool.remove(self)

    # For the client side and the worker

    def begin(self, client: HttpExchange, request: bytes) -> None:
        """Work for a client: send its request and wait for the answer."""
        self.client = client
        self.deadline = self.worker.now + self.worker.timeouts.server
        self.transport.write(request)

    def release(self) -> None:
        """Go back to the pool."""
        if self.private:
            self.abort()
            return
        if self.paused:  # by the last piece of the response
            self.resume_reading()
        self.client = None
        self.reused = True
        self.deadline = self.worker.now + self.worker.timeouts.server_idle
        self.upstream.pool.append(self)

    def write(self, data: bytes) -> None:
        """Send a further piece of the request."""
        self.transport.write(data)

    def pause_reading(self) -> None:
        """The client doesn't take what comes."""
        self.paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The client takes more."""
        self.paused = False
        self.transport.resume_reading()

    def detach(self) -> asyncio.Transport:
        """Give the transport away; from now on it is somebody else's to read and close."""
        self.closed = True
        self.client = None
        self.worker.server_connections.discard(self)
        return self.transport

    def abort(self) -> None:
        """Close now, without a word to anybody."""
        if not self.closed:
            self.closed = True
            if self.client is None:
                self._leave_pool()
            self.transport.abort()
        self.client = None

    @serving
    def expire(self) -> None:
        """The deadline has passed."""
        client = self.client
        self.abort()
        if client is not None:
            self.upstream.failed(self.worker, "late", "no answer in time (timeouts.server)")
            client.server_failed(504)

    def crashed(self, error: Exception, client: HttpExchange | None) -> None:
        """An error of our own: it costs this connection, and the request that it worked for."""
        self.closed = True
        self.client = None
        self._leave_pool()
        if self.transport is not None:
            self.transport.abort()
        if client is not None:
            client.crashed(error)
        else:
            self.worker.internal(error)
