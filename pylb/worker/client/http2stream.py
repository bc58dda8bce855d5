"""A stream of HTTP/2 towards clients: the client side of one exchange, and a pipe after an extended CONNECT.

A stream outlives its exchange while the client has not taken all of the response; then it has a deadline of
its own.

Floor: client side. Makes an exchange, knows of its connection what `Streams` says, and nothing of servers.
"""

from __future__ import annotations

import base64
import math
import os
from abc import ABC, abstractmethod
from functools import partial

import h2.errors
import h2.exceptions

from pylb.http.errors import Refused
from pylb.http.frames import H2Connection
from pylb.http.response import ResponseHead
from pylb.http.translate import Header, request_to_http1, response_to_http2, trailers_to_http2
from pylb.scoreboard import Field
from pylb.worker.core import Core
from pylb.worker.exchange import Exchange, begin
from pylb.worker.facts import Client
from pylb.worker.frontend import Bind
from pylb.worker.guard import hand_back
from pylb.worker.reasons import Reason
from pylb.worker.sides import ClientSide, FromPipe, Pipe, Spans, Trailers, contents

QUEUE = 128 * 1024
"""Bytes of a response that wait for the client's window; the server isn't read above it."""

_CODES = h2.errors.ErrorCodes


class Streams(ABC):
    """What a stream asks of its connection."""

    core: Core
    bind: Bind
    facts: Client
    h2: H2Connection
    write_paused: bool

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes that were written and that the client has not taken yet."""

    @abstractmethod
    def acknowledge(self, number: int, length: int) -> None:
        """Let the client send so much more."""

    @abstractmethod
    def sent(self, size: int) -> None:
        """A frame of DATA goes to the client."""

    @abstractmethod
    def soon(self) -> None:
        """Send what h2 has to say at the end of this turn of the loop."""

    @abstractmethod
    def flush(self) -> None:
        """Send what h2 has to say."""

    @abstractmethod
    def stream_over(self, number: int) -> None:
        """A stream has ended."""


class Http2Stream(ClientSide, Pipe):
    """One request of an HTTP/2 connection."""

    __slots__ = (
        *("connection", "core", "facts", "number", "born", "closed", "exchange", "deadline"),
        # of the request
        *("upgrading", "chunked", "length", "came", "body_done", "request_trailers", "paused", "_held"),
        # of the response
        *("_queue", "_queued", "_full", "_trailers", "_ending", "_ended"),
        # of a tunnel
        *("tunnelled", "_listener", "_early", "_forgotten"),
    )

    def __init__(self, connection: Streams, number: int) -> None:
        self.connection = connection
        self.core = connection.core
        self.facts = connection.facts
        self.number = number
        self.born = connection.core.now
        self.closed = False
        self.exchange: Exchange | None = None
        self.deadline = math.inf  # of a response that is being taken after its exchange
        self.upgrading = False  # an extended CONNECT that is not answered yet
        self.chunked = False  # the body's length is not known
        self.length = 0  # of the body, unless it is chunked
        self.came = 0  # bytes of the body
        self.body_done = True
        self.request_trailers: list[bytes] = []
        self.paused = False  # what comes is not acknowledged
        self._held = 0  # bytes that the client's window lacks for it
        self._queue: list[bytes] = []  # waits for the client's window
        self._queued = 0
        self._full = False  # the exchange, or the tunnel, has been told so
        self._trailers: list[Header] = []
        self._ending = False  # nothing more will be put in the queue
        self._ended = False  # END_STREAM is sent
        self.tunnelled = False
        self._listener: FromPipe | None = None
        self._forgotten = False  # the connection knows it no more
        self._early = b""  # what has come for the tunnel before there was one

    # From the connection: the request

    def begin(self, headers: list[Header], ended: bool) -> None:
        """The header section has come; ``ended``: that is all."""
        connection = self.connection
        exchange = self.exchange = begin(self.core, self.facts, connection.bind.frontend)
        exchange.client = self  # from here on, whatever happens, the client is to be answered
        head = connection.bind.reader(self.facts)
        self.body_done = ended
        try:
            head.parse(request_to_http1(headers, ended, base64.b64encode(os.urandom(16))))
            if ended and head.content_length:
                raise Refused(400, "content_length")
            if (b":method", b"CONNECT") in headers:
                self.upgrading = bool(head.upgrade)
                if not self.upgrading:
                    raise Refused(400, "method")  # to no known protocol: its data would be passed on unread
        except Refused as refused:
            refused.to_head = (b":method", b"HEAD") in headers
            exchange.refuse(refused, self)
            return
        self.chunked = head.chunked
        self.length = head.content_length
        exchange.request(self, head, b"", ended or self.upgrading)

    def received(self, data: bytes, length: int) -> None:
        """A piece of the body, and how much of the window it has cost."""
        exchange = self.exchange
        if self._listener is not None:
            if data:
                self._listener.came(data)
        elif self.upgrading or self.tunnelled:
            self._early += data  # bounded by the window: it isn't acknowledged before there is a tunnel
            self._held += length
            return
        elif exchange is not None and not self.body_done:
            self.came += len(data)
            if self.came > self.length and not self.chunked:
                exchange.refuse(Refused(400, "content_length"), self)
            elif data:
                exchange.request_body(data)
        if self.paused:
            self._held += length
        else:
            self.connection.acknowledge(self.number, length)

    def request_ended(self) -> None:
        """The client has sent END_STREAM."""
        if self.body_done:
            return
        self.body_done = True
        exchange = self.exchange
        if self._listener is not None:
            if not self._listener.ended():
                self.close()
        elif exchange is not None and not self.upgrading:
            if self.came < self.length and not self.chunked:
                # h2 looks at this, but not where trailers follow. The server would wait for the rest.
                exchange.refuse(Refused(400, "content_length"), self)
            else:
                exchange.request_end(self.request_trailers)

    def gone(self) -> None:
        """The client has reset the stream, or the connection is gone."""
        if self.closed:
            return
        self.closed = True
        exchange, self.exchange = self.exchange, None
        try:
            if exchange is not None:
                exchange.client_gone(Reason.CLIENT_GONE)
        except Exception as error:
            if exchange is not None:
                exchange.crashed(error)
        self._over()

    # From the connection: deadlines and room

    def due(self) -> float:
        """When `expire` is to be called, on the worker's clock."""
        return self.deadline if self.exchange is None else self.exchange.due()

    def expire(self) -> None:
        """The exchange's deadline has passed, or the response wasn't taken in time."""
        if self.exchange is not None:
            self.exchange.expire(say=False)
        else:
            self.core.counters[Field.TIMEOUTS] += 1
            self.reset(_CODES.CANCEL)

    def push(self) -> None:
        """Send of the queue what the client's window and the connection take."""
        connection = self.connection
        if self.closed:
            return
        try:
            while self._queue and not connection.write_paused:
                window = connection.h2.local_flow_control_window(self.number)
                size = min(window, connection.h2.max_outbound_frame_size, len(self._queue[0]))
                if size <= 0:
                    break
                piece = self._queue[0]
                connection.h2.send_data(self.number, piece[:size])
                connection.sent(size)
                if size == len(piece):
                    del self._queue[0]
                else:
                    self._queue[0] = piece[size:]
                self._queued -= size
                if self._queued:
                    connection.flush()
                else:
                    connection.soon()
                if self._ending:
                    self._await()
            if self._ending and not self._queue:
                self._end()
                return
        except h2.exceptions.H2Error:
            self.reset(None)
            return
        self.update()

    def update(self) -> None:
        """Tell who writes to the stream when it should not, and when it may again."""
        full = self._queued > QUEUE or self.connection.write_paused
        if full is self._full or self.closed:
            return
        listener, exchange = self._listener, self.exchange
        if listener is not None:
            self._full = full
            listener.full() if full else listener.ready()
        elif exchange is not None:
            self._full = full
            exchange.client_full() if full else exchange.client_ready()

    # From the exchange

    def respond(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        exchange = self.exchange
        if self.upgrading and head.status < 300 and exchange is not None:
            # To a CONNECT this would mean that there is a tunnel (RFC 8441 §5).
            exchange.unusable(f"{head.status} to a request for another protocol")
            return
        piece = contents(buffer, spans) if spans is not None else buffer[at:]
        # In one frame where there is no body: gRPC reads such a head as its trailers.
        self._ended = end and not piece
        if not self._headers(response_to_http2(head.out), self._ended):
            return
        self._write(piece)
        if end:
            self._finish()
        else:
            self.push()

    def interim(self, head: ResponseHead) -> None:
        self._headers(response_to_http2(head.out))

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        self._write(contents(buffer, spans))
        self.push()

    def end(self, trailers: Trailers) -> None:
        self._trailers = trailers_to_http2(trailers)
        self._finish()

    def tunnel(self, head: ResponseHead) -> Pipe:
        fields = [field for field in response_to_http2(head.out)[1:] if field[0] != b"sec-websocket-accept"]
        self.exchange = None  # the tunnel has it from now on, and its deadline
        self.upgrading = False
        self.tunnelled = True
        self._full = False
        self._headers([(b":status", b"200"), *fields])
        return self

    def stay(self) -> None:
        """HTTP/2 does so anyway."""

    def last(self) -> None:
        """A stream has one response only."""

    def abort(self, reason: Reason = Reason.CUT) -> None:
        """End now; as the end of an exchange with its reason, as that of a pipe without."""
        self.exchange = None
        if reason is Reason.SERVER_UNSEEN:
            code = _CODES.REFUSED_STREAM  # nobody has looked at it, so it may be repeated (RFC 9113 §8.7)
        else:
            code = _CODES.CANCEL if reason in (Reason.CUT, Reason.CLIENT_LATE) else _CODES.INTERNAL_ERROR
        self.reset(code)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        length, self._held = self._held, 0
        self.connection.acknowledge(self.number, length)

    @property
    def unsent(self) -> int:
        connection = self.connection
        return self._queued + (connection.unsent if connection.write_paused else 0)

    # From the tunnel (RFC 8441)

    def start(self, listener: FromPipe) -> None:
        if self.closed:
            listener.gone(False)
            return
        self._listener = listener
        early, self._early = self._early, b""
        if early:
            listener.came(early)
        if not self.paused:
            self.resume()
        if self.body_done and not listener.ended():
            self.close()
        self.update()

    def send(self, data: bytes) -> None:
        if not self.closing:
            self._write(data)
            self.push()

    def finish(self) -> bool:
        return False  # END_STREAM is sent when both directions are done

    def close(self) -> None:
        if not self.closing:
            self._finish()

    @property
    def closing(self) -> bool:
        return self._ending or self.closed

    # To the client

    def _headers(self, headers: list[Header], end: bool = False) -> bool:
        """Send a head; False where the stream has ended meanwhile."""
        try:
            self.connection.h2.send_headers(self.number, headers, end_stream=end)
        except h2.exceptions.H2Error:
            self.reset(_CODES.INTERNAL_ERROR)
            return False
        self.connection.soon()
        return True

    def _write(self, data: bytes) -> None:
        if data and not self.closed:
            self._queue.append(data)
            self._queued += len(data)

    def _finish(self) -> None:
        """Nothing more will be written; end when the client has taken what was."""
        self.exchange = None
        self._ending = True
        if self.paused:
            self.resume()  # what still comes is dropped
        self._await()
        self.push()

    def _await(self) -> None:
        # Of a tunnel the deadline is the tunnel's.
        if not self.tunnelled:
            self.deadline = self.core.now + self.core.timeouts.client

    def _end(self) -> None:
        connection = self.connection
        if self._ended:
            pass
        elif self._trailers:
            connection.h2.send_headers(self.number, self._trailers, end_stream=True)
        else:
            connection.h2.end_stream(self.number)
        if not (self.body_done or self.upgrading or self.tunnelled):
            # RFC 9113 §8.1: the answer is whole; the rest of the request isn't needed.
            connection.h2.reset_stream(self.number, _CODES.NO_ERROR)
        connection.soon()
        self.closed = True
        self._over()

    def reset(self, code: h2.errors.ErrorCodes | None) -> None:
        """End the stream from this side with an error code; None where it has ended for h2."""
        if self.closed:
            if not self._forgotten:
                self._over()  # an error has kept it from that
            return
        if code is not None:
            try:
                self.connection.h2.reset_stream(self.number, code)
                self.connection.soon()
            except h2.exceptions.H2Error:
                pass
        self.gone()

    def _over(self) -> None:
        """The stream has ended, whoever has ended it."""
        self._queue = []
        self._queued = 0
        listener, self._listener = self._listener, None
        if listener is not None:
            self.core.loop.call_soon(listener.gone, False)  # later: who ends it isn't called back
        self.connection.acknowledge(self.number, self._held)
        self.connection.stream_over(self.number)
        self._forgotten = True

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own: the request is answered with 500, or the stream ends; raises nothing."""
        hand_back(self, error, partial(self.reset, _CODES.INTERNAL_ERROR))
