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
from pylb.http.response import BadResponse, ResponseHead

if TYPE_CHECKING:
    from pylb.worker.client import ClientConnection
    from pylb.worker.main import Worker
    from pylb.worker.pool import Upstream

# Up to here head and body are joined into one write; a larger piece is not worth copying.
_SPLICE = 16384

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
        "deadline",
        "closed",
        "reused",
        "write_paused",
        # response
        "client",
        "buffer",
        "in_body",
        "left",
        "chunks",
    )

    def __init__(self, worker: Worker, upstream: Upstream) -> None:
        self.worker = worker
        self.upstream = upstream
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.head = ResponseHead()
        self.deadline = math.inf
        self.closed = False
        self.reused = False
        self.write_paused = False
        self.client: ClientConnection | None = None
        self.buffer = b""
        self.in_body = False
        self.left = 0  # bytes of a Content-Length body still to come; -1: until the connection ends
        self.chunks: ChunkScanner | None = None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        self.worker.server_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed:
            self._ended()
        self.worker.server_connections.discard(self)

    def eof_received(self) -> bool:
        self._ended()
        return False

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.client is not None:
            self.client.update_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.client is not None:
            self.client.update_reading()

    def data_received(self, data: bytes) -> None:
        client = self.client
        if client is None:
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
                self.buffer = data
                return
            if end > self.worker.limits.header_bytes:
                self._bad(client)
                return
            head = self.head
            try:
                cut_start, cut_end, rewritten = head.parse(
                    data if end == len(data) else data[:end], client.head.method == b"HEAD"
                )
            except BadResponse:
                self._bad(client)
                return
            if head.status >= 200:
                break
            if head.status == 101:
                self._bad(client)  # nobody asked: Upgrade is not passed on
                return
            if client.head.http11:
                client.write(data[:end] if rewritten is None else rewritten)
            data = data[end:]
            if not data:
                return
        self._response(client, data, end, cut_start, cut_end, rewritten)

    # The response

    def _response(
        self,
        client: ClientConnection,
        data: bytes,
        end: int,
        cut_start: int,
        cut_end: int,
        rewritten: bytes | None,
    ) -> None:
        """Pass on a head, and what came of the body with it."""
        head = self.head
        length = head.content_length
        client.response_started = True
        if head.chunked:
            self.chunks = ChunkScanner()
        elif length < 0:
            client.close_after = True
        if not client.plain or client.close_after:
            # HTTP/1.0, or the connection ends after this response: the head has to say so.
            if rewritten is None:
                rewritten = data[:cut_start] + data[cut_end:end]
            rewritten = client.adapt_head(rewritten, head.chunked)
        # Head and body go out in one write: every write is a system call and a packet of its own.
        came = len(data) - end
        if not head.chunked and came <= length:
            if rewritten is None and not cut_end:
                client.write(data)
            elif came < _SPLICE:
                if rewritten is None:
                    client.write(data[:cut_start] + data[cut_end:])
                else:
                    client.write(rewritten + data[end:])
            else:
                first = data[:cut_start] + data[cut_end:end] if rewritten is None else rewritten
                client.write_pieces(first, memoryview(data)[end:])
            if came == length:
                client.response_done(head.keep_alive)
            else:
                self.in_body = True
                self.left = length - came
            return
        if rewritten is None:
            rewritten = data[:cut_start] + data[cut_end:end]
        self.in_body = True
        self.left = length
        if length == 0 and not head.chunked:
            client.write(rewritten)
            self._finish(client, False)
        elif came:
            self._body(client, data[end:], rewritten)
        else:
            client.write(rewritten)

    def _body(self, client: ClientConnection, data: bytes, head: bytes = b"") -> None:
        """Pass on a piece of the body (the first one with its head), and notice its end."""
        chunks = self.chunks
        if chunks is not None:
            payload: list[bytes] | None = None if client.head.http11 else []
            try:
                used = chunks.feed(data, payload)
            except ChunkError:
                client.response_started = not head  # with the head still here a 502 can be sent
                self._bad(client)
                return
            surplus = used < len(data)
            if payload is not None:
                client.write(head + b"".join(payload))
            elif head:
                client.write_pieces(head, data[:used] if surplus else data)
            else:
                client.write(data[:used] if surplus else data)
            if chunks.done:
                self._finish(client, not surplus)
            return
        size = len(data)
        left = self.left
        if size > left >= 0:
            data = data[:left]
        if head:
            client.write_pieces(head, data)
        else:
            client.write(data)
        if left >= 0:
            self.left = left - len(data)
            if not self.left:
                self._finish(client, size == left)

    def _finish(self, client: ClientConnection, clean: bool) -> None:
        """The response is complete; ``clean`` when nothing unasked came behind it."""
        self.in_body = False
        self.chunks = None
        client.response_done(clean and self.head.keep_alive)

    def _bad(self, client: ClientConnection) -> None:
        """The server said something that must not be passed on."""
        self.abort()
        client.server_failed(502)

    def _ended(self) -> None:
        """The server closed, or the connection broke."""
        self.closed = True
        client = self.client
        if client is None:
            self._leave_pool()
        elif self.in_body and self.left < 0 and self.chunks is None:
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

    def begin(self, client: ClientConnection, request: bytes) -> None:
        """Work for a client: send its request and wait for the answer."""
        self.client = client
        self.deadline = self.worker.now + self.worker.timeouts.server
        self.transport.write(request)

    def release(self) -> None:
        """Go back to the pool."""
        self.client = None
        self.reused = True
        self.deadline = self.worker.now + self.worker.timeouts.server_idle
        self.upstream.pool.append(self)

    def abort(self) -> None:
        """Close now, without a word to anybody."""
        if not self.closed:
            self.closed = True
            if self.client is None:
                self._leave_pool()
            self.transport.abort()
        self.client = None

    def expire(self) -> None:
        """The deadline has passed."""
        client = self.client
        self.abort()
        if client is not None:
            client.server_failed(504)
