"""HTTP/1 towards servers: writes requests and reads responses (RFC 9112).

A connection is either in its server's pool (``exchange`` is None) or works for one exchange. Requests are
never pipelined, so at most one response is outstanding. Anything that comes unasked closes the connection,
but for empty lines: some servers end a body with one that they don't count.

Floor: server side. Knows the exchange as `FromServer` and nothing of clients.
"""

from __future__ import annotations

import asyncio
import math

from pylb.http.chunked import ChunkError, ChunkScanner
from pylb.http.request import RequestHead
from pylb.http.response import BadResponse, ResponseHead, find_head
from pylb.worker import core as core_
from pylb.worker.backend import Server
from pylb.worker.core import WRITE_BUFFER, Core
from pylb.worker.guard import serving
from pylb.worker.pieces import InPieces, switch
from pylb.worker.pipe import ConnectionPipe
from pylb.worker.pool import UNBOUNDED, Pooled
from pylb.worker.reasons import Reason
from pylb.worker.server.early import left_behind
from pylb.worker.sides import FromServer, Pipe, Spans, Trailers

# Up to here head and body are joined into one write; a larger piece is not worth copying.
_JOIN = 16384

_EMPTY_LINES = 8
"""Bytes of empty lines that are skipped at a time; a server that sends more says something else."""

_EARLIER = 1.0
"""Seconds by which a connection is given up before the server, as it says, will close it: what is under way
then takes its time, and clocks differ."""


class Http1ServerConnection(Pooled, core_.ServerConnection, asyncio.Protocol):
    """One connection to a server, and the server side of each exchange that it serves.

    Args:
        private: its PROXY header has named one client, so it can't serve another.
    """

    __slots__ = (
        # of the connection
        *("core", "server", "transport", "idle_until", "closed", "uses", "usable", "paused"),
        *("private", "personal", "special", "old"),
        # what `head` was read from: a server often answers with the same head again
        *("head", "raw_head", "raw_head_only"),
        # of the exchange
        *("exchange", "asked", "chunking", "sent"),
        # of the response
        *("buffer", "in_body", "left", "chunks", "pieces"),
    )

    def __init__(self, core: Core, server: Server, private: bool = False) -> None:
        self.core = core
        self.server = server
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.idle_until = math.inf
        self.closed = False
        self.uses = 0
        self.usable = True  # for another exchange, after this one
        self.private = private or not server.pool.shares
        self.personal = False  # a client has authenticated it
        self.special = self.private or server.pool.requests < UNBOUNDED
        age = server.pool.age
        self.old = core.now + age if age else math.inf  # when it is too old
        self.paused = False
        self.head: ResponseHead = None  # type: ignore[assignment]  # set before any use
        self.raw_head = b""
        self.raw_head_only = False
        self.exchange: FromServer | None = None
        self.asked: RequestHead = None  # type: ignore[assignment]  # set before any use
        self.chunking = False  # the request's body is to be put into chunks
        self.sent = True  # the request is whole
        self.buffer = b""
        self.in_body = False
        self.left = 0  # bytes of a Content-Length body still to come; -1: until the connection ends
        self.chunks: ChunkScanner | None = None
        self.pieces = False  # it is read in pieces

    # From the event loop

    @serving
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        self.core.server_connections.add(self)

    @serving
    def connection_lost(self, exc: Exception | None) -> None:
        self.core.server_connections.discard(self)
        if self.exchange is not None and exc is not None:
            for data in left_behind(self.transport):
                self.data_received(data)
                if self.exchange is None:
                    break
        if not self.closed:
            self._ended(broken=exc is not None)

    @serving
    def eof_received(self) -> bool:
        self._ended()
        return False

    @serving
    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.server_full()

    @serving
    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.server_ready()

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        try:
            if exchange is None:
                if not _empty(data):
                    self.abort()
                return
            if self.in_body:
                self._body(exchange, data)
                return
            if self.buffer:
                data = self.buffer + data
                self.buffer = b""
            head_only = self.asked.method == b"HEAD"  # then there is no body, whatever the response says
            while True:
                raw = self.raw_head
                if raw and data.startswith(raw) and head_only is self.raw_head_only:
                    head = self.head  # the same again
                    end = len(raw)
                else:
                    end = self._read(exchange, data, data.find(b"\r\n\r\n") + 4, head_only)
                    if not end:
                        return
                    head = self.head
                if head.status >= 200:
                    break
                if head.status == 101:
                    self._switched(exchange, head, data[end:])
                    return
                exchange.interim(head)
                data = data[end:]
                if not data or self.exchange is not exchange:
                    return
            if len(data) - end == head.content_length:
                exchange.response(head, data, end, True)  # the usual: all of it is here
            else:
                self._response(exchange, head, data, end)
        except Exception as error:  # as `serving` does, without another call on each response's way
            self.crashed(error, exchange)

    # The response

    def _read(self, exchange: FromServer, data: bytes, end: int, head_only: bool) -> int:
        """Read a head, which ends at ``end`` if that is above 3.

        Gives where it ends; 0 when there is none, or a bad one.
        """
        core = self.core
        known = core.response_heads.get(self.server.backend)
        if known is not None and not head_only and data.startswith(known[0]):
            self.raw_head, self.head = known
            self.raw_head_only = False
            return len(known[0])
        rest = data.lstrip(b"\r\n")
        if 0 < len(data) - len(rest) <= _EMPTY_LINES:  # behind the last response, or before this one
            if rest:
                self.data_received(rest)
            return 0
        try:
            found = find_head(data, end, core.limits.header_bytes, head_only)
        except BadResponse as error:
            self._no_response(exchange, data, error)
            return 0
        if found is None:
            self.buffer = data
            return 0
        self.head, end = found
        self.raw_head = data[:end]
        self.raw_head_only = head_only
        if not head_only:
            core.response_heads[self.server.backend] = self.raw_head, self.head
        return end

    def _no_response(self, exchange: FromServer, data: bytes, error: BadResponse) -> None:
        """What has come is none."""
        if self.uses and not self._answered() and not data.startswith(b"HTTP/"):
            # It had come, unasked, before the request was there.
            self.abort()
            exchange.server_gone(Reason.SERVER_STALE, "sent something that is no response")
        else:
            self._bad(exchange, error)

    def _response(self, exchange: FromServer, head: ResponseHead, data: bytes, end: int) -> None:
        """Pass on a head, and the part of the body that came with it."""
        size = len(data) - end
        if head.chunked:
            chunks = self.chunks = ChunkScanner(lenient=True)
            self.in_body = True
            spans: list[tuple[int, int]] = []
            try:
                used = chunks.feed(data[end:], spans)
            except ChunkError:
                self._bad(exchange, BadResponse("chunk"))
                return
            if used < size:
                self._behind(data[end + used :])
                data = data[: end + used]
            if chunks.bare:
                body, spans = chunks.mended(data[end:], spans)
                data = data[:end] + body
            exchange.response(head, data, end, False, [(end + start, end + to) for start, to in spans])
            if chunks.done and self.exchange is exchange:
                self._whole(exchange, chunks.trailers)
            return
        left = self.left = head.content_length
        if 0 <= left < size:
            self._behind(data[end + left :])
            exchange.response(head, data[: end + left], end, True)
            return
        self.in_body = True
        if left > 0:
            self.left = left - size
        exchange.response(head, data, end, False)

    def _body(self, exchange: FromServer, data: bytes) -> None:
        """Pass on a piece of the body, and notice its end."""
        chunks = self.chunks
        if chunks is not None:
            spans: list[tuple[int, int]] = []
            try:
                used = chunks.feed(data, spans)
            except ChunkError:
                self._bad(exchange, BadResponse("chunk"))
                return
            if used < len(data):
                self._behind(data[used:])
                data = data[:used]
            if chunks.bare:
                data, spans = chunks.mended(data, spans)
            exchange.response_body(data, spans)
            if chunks.done and self.exchange is exchange:
                self._whole(exchange, chunks.trailers)
            return
        left = self.left
        if left < 0:
            exchange.response_body(data)
            return
        size = len(data)
        if size > left:
            self._behind(data[left:])
            data = data[:left]
            size = left
        self.left = left - size
        exchange.response_body(data)
        if size == left and self.exchange is exchange:
            self._whole(exchange, ())

    def _behind(self, data: bytes) -> None:
        """Something has come behind a response, with its last bytes."""
        if not _empty(data):
            self.usable = False

    def _answered(self) -> bool:
        """Whether the server has begun to answer the request; with a 1xx response, at least."""
        head: ResponseHead | None = self.head
        return self.in_body or (head is not None and head.status < 200)

    def _whole(self, exchange: FromServer, trailers: Trailers) -> None:
        self.in_body = False
        self.chunks = None
        exchange.response_end(trailers)

    def _switched(self, exchange: FromServer, head: ResponseHead, rest: bytes) -> None:
        if not self.asked.upgrade or not head.upgrade:
            self._bad(exchange, BadResponse("upgrade", "101 that nobody asked for"))
            return
        self.buffer = rest
        exchange.switched(head)

    def _bad(self, exchange: FromServer, why: BadResponse) -> None:
        """The server said something that must not be passed on."""
        self.abort()
        self.core.count_bad_response(why)
        exchange.server_gone(Reason.SERVER_BAD, f"bad response: {why}")

    def _ended(self, broken: bool = False) -> None:
        """The server closed, or the connection broke."""
        self.closed = True
        exchange = self.exchange
        if exchange is None:
            self.server.pool.leave(self)
        elif self.in_body and self.left < 0 and self.chunks is None and not broken:
            self._whole(exchange, ())
        else:
            # Before the first byte of a response on a connection from the pool: the server had closed it.
            stale = self.uses and not self._answered() and _empty(self.buffer)
            self.exchange = None
            exchange.server_gone(
                Reason.SERVER_STALE if stale else Reason.SERVER_GONE,
                "closed the connection before its response was whole",
            )
        self.transport.abort()

    # From the exchange

    def request(
        self, exchange: FromServer, head: RequestHead, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        self.exchange = exchange
        self.asked = head
        self.sent = end
        out = head.printed()
        if end and not buffer and not head.chunked:  # the usual
            self.transport.write(out)
            return
        self.chunking = head.chunked and spans is None
        if self.chunking:
            if buffer:
                out = b"%b%x\r\n%b\r\n" % (out, len(buffer), buffer)
            if end:
                out += b"0\r\n\r\n"
        elif buffer:
            if len(buffer) >= _JOIN:
                self.transport.writelines((out, buffer))
                return
            out += buffer
        self.transport.write(out)

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        if self.chunking:
            if spans is None:
                buffer = b"%x\r\n%b\r\n" % (len(buffer), buffer)
            else:
                self.chunking = False  # what comes is framed, to its end
        self.transport.write(buffer)

    def end(self, trailers: Trailers) -> None:
        if self.chunking:
            self.transport.write(b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n")
        self.sent = True

    def tunnel(self) -> Pipe:
        self.closed = True
        self.exchange = None
        self.core.server_connections.discard(self)
        return ConnectionPipe(self.core, self.transport, self.buffer)

    @property
    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def release(self) -> None:
        exchange, self.exchange = self.exchange, None
        head = self.head
        if not (self.usable and self.sent and head.keep_alive) or self.closed:
            self.abort()
            return
        if self.paused:  # by the last piece of the response
            self.resume()
        if self.pieces:
            self.pieces = False
            switch(self.transport, self, True)
        self.uses += 1
        pool = self.server.pool
        idle = pool.idle
        if self.special or head.says is not None or self.asked.personal or len(idle) >= pool.most_idle:
            self._unusual(exchange)
            return
        self.idle_until = self.core.now + pool.seconds
        idle[self] = None

    def _unusual(self, exchange: FromServer | None) -> None:
        """What becomes of a connection that could serve again, where it is not just put into the pool."""
        pool = self.server.pool
        keeps, personal = self.head.says or (math.inf, False)
        self.idle_until = self.core.now + min(pool.seconds, max(keeps - _EARLIER, keeps / 2))
        if personal or self.asked.personal:
            self.personal = self.special = True
        if self.personal:
            self.idle_until = self.old = math.inf  # it ends with one of the two
        if self.uses >= pool.requests or exchange is None:
            self.abort()
        elif self.personal or self.private:
            pool.own[self] = None
            exchange.keep(self, self.server, self.personal)
        elif len(pool.idle) < pool.most_idle:
            pool.idle[self] = None
        else:
            self.abort()

    def abort(self) -> None:
        exchange, self.exchange = self.exchange, None
        if not self.closed:
            self.closed = True
            if exchange is None:
                self.server.pool.leave(self)
            self.transport.abort()

    def pause(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        self.paused = False
        self.transport.resume_reading()

    def read_pieces(self) -> None:
        if not self.pieces and not self.closed:
            self.pieces = True
            switch(self.transport, InPieces(self), not self.paused)

    # From the process

    def due(self) -> float:
        return min(self.idle_until, self.old) if self.exchange is None else self.old

    @serving
    def expire(self) -> None:
        if self.exchange is None:
            self.abort()
        else:
            self.usable = False  # it is too old for another request
            self.old = math.inf

    def crashed(self, error: Exception, exchange: FromServer | None) -> None:
        """An error of pylb's own: it costs this connection, and the exchange that it worked for."""
        self.closed = True
        self.exchange = None
        self.server.pool.leave(self)
        if self.transport is not None:
            self.transport.abort()
        if exchange is not None:
            exchange.crashed(error)
        else:
            self.core.internal(error)


def _empty(data: bytes) -> bool:
    """Whether these are empty lines, and few."""
    return len(data) <= _EMPTY_LINES and not data.strip(b"\r\n")
