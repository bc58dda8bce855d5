"""HTTP/1 towards clients: reads requests, one at a time and in order (RFC 9112).

Between requests there is no exchange; what has come of the next one is kept in ``buffer``.

Floor: client side, above the writer of responses. Makes exchanges and knows nothing of servers, nor of how
long a connection lives.
"""

from __future__ import annotations

import math
import re
import time
from abc import abstractmethod

from pylb.http.body import RequestBody
from pylb.http.errors import Refused
from pylb.http.requestline import judge_beginning
from pylb.scoreboard import Field
from pylb.worker.client.http1responses import Responses
from pylb.worker.core import Core
from pylb.worker.exchange import Exchange, begin
from pylb.worker.facts import Client
from pylb.worker.frontend import Bind
from pylb.worker.guard import hand_back
from pylb.worker.reasons import Reason

# A plain integer: an enum member costs a lookup and an __index__ call each time.
_BYTES_IN = int(Field.BYTES_IN)

_CR = 13
_EMPTY_LINES = re.compile(rb"(?:\r\n){1,8}")
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\n"


class Requests(Responses):
    """The part of a connection that reads."""

    __slots__ = (
        # of the connection
        *("core", "bind", "facts", "deadline", "closed", "reading", "write_paused", "moving", "recalled"),
        # between two messages
        *("buffer", "first_byte_ns", "judged"),
        # of the request
        *("exchange", "request_body"),
    )

    def __init__(self, core: Core, bind: Bind) -> None:
        super().__init__(core.counters)
        self.core = core
        self.bind = bind
        self.facts: Client = None  # type: ignore[assignment]  # set before any use
        self.deadline = math.inf  # of a connection without an exchange
        self.closed = False
        self.reading = True
        self.write_paused = False
        self.moving = False
        self.recalled = False  # the next response asks the client to connect anew
        self.buffer = b""
        self.first_byte_ns = 0
        self.judged = 0  # bytes of an unfinished head
        self.exchange: Exchange | None = None
        self.request_body: RequestBody | None = None

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

    def _request(self, data: bytes, first: bool) -> None:
        """Read a head; ``first`` when these are the first bytes of it."""
        core = self.core
        head = self.head
        end = size = len(data)
        try:
            if data != head.raw:  # else the same again, and no body
                kept = data
                end = data.find(b"\r\n\r\n") + 4
                if data[0] == _CR and (empty := _EMPTY_LINES.match(data)):
                    # RFC 9112 §2.2: empty lines before a request line are skipped; a few.
                    data = data[empty.end() :]
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
                self._refuse(refused, data)
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
                self._refuse(refused, data)
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
        """The head isn't whole: keep what has come (``data`` is that without empty lines), or refuse it."""
        core = self.core
        limits = core.head_limits
        self.buffer = kept
        if len(data) > limits.line_bytes and not 0 <= data.find(b"\n") <= limits.line_bytes + 1:
            raise Refused(414, "line_bytes")
        if len(data) > limits.header_bytes:
            raise Refused(431, "header_bytes")
        if data not in (b"", b"\r") and not _HTTP2.startswith(data):
            known = self.first_byte_ns and not first
            self.judged = judge_beginning(data, self.judged if known else 0)
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

    # What is no good request

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
        self.first_byte_ns = self.judged = 0

    def _refuse(self, refused: Refused, data: bytes = b"") -> None:
        """Have an answer sent to what can't be understood, and close: what follows can't be trusted.

        ``data`` is a head that isn't known yet; to a HEAD request the answer has no body.
        """
        refused.to_head = data[:5] == b"HEAD "
        self.close_after = True
        self.body_done = False
        self.buffer = b""
        self._begin().refuse(refused, self)

    def _never(self, reason: Reason) -> None:
        """The connection ends within a head."""
        exchange = begin(self.core, self.facts, self.bind.frontend)
        self._mark(exchange)
        exchange.never(reason)

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own: the request under way is answered with 500, or the connection ends."""
        hand_back(self, error, self.cut_off)

    # Flow control

    def pause(self) -> None:
        self._read(False)

    def resume(self) -> None:
        self._read(len(self.buffer) <= self.core.limits.pipelined_bytes)

    def _read(self, wanted: bool) -> None:
        if wanted is not self.reading and not self.closed and not self.moving:
            self.reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    # Of the connection's life

    @abstractmethod
    def _become_http2(self, data: bytes) -> None:
        """The client speaks HTTP/2, by prior knowledge (RFC 9113 §3.3) or as agreed in the TLS handshake."""

    @abstractmethod
    def _too_many(self) -> bool:
        """Whether this response asks the client to connect anew, to level the workers."""

    @abstractmethod
    def cut_off(self) -> None:
        """End the connection at once, whatever state it is in."""
