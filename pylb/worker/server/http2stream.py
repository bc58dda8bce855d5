"""A stream of HTTP/2 towards servers: the server side of one exchange.

Floor: server side. Knows the exchange as `FromServer`, its connection as `Streams`, and nothing of clients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import h2.errors
import h2.events
import h2.exceptions

from pylb.http.frames import H2Connection
from pylb.http.request import RequestHead
from pylb.http.response import BadResponse, ResponseHead, read_response
from pylb.http.translate import request_to_http2, response_to_http1, trailers_to_http1, trailers_to_http2
from pylb.worker.core import Core
from pylb.worker.guard import serving
from pylb.worker.reasons import Reason
from pylb.worker.sides import FromServer, Pipe, ServerSide, Spans, Trailers, contents

_QUEUE = 128 * 1024  # bytes of a request that wait for the server's window before the client is paused


class Streams(ABC):
    """What a stream asks of its connection."""

    core: Core
    h2: H2Connection
    scheme: bytes
    write_paused: bool

    @abstractmethod
    def acknowledge(self, number: int, length: int) -> None:
        """Let the server send so much more."""

    @abstractmethod
    def soon(self) -> None:
        """Send what h2 has to say at the end of this turn of the loop."""

    @abstractmethod
    def stream_begun(self, stream: Http2ServerStream) -> None:
        """A stream has been opened."""

    @abstractmethod
    def stream_over(self, number: int) -> None:
        """A stream has ended."""

    @abstractmethod
    def crashed(self, error: Exception) -> None:
        """An error of pylb's own that is no single stream's; raises nothing."""


class Http2ServerStream(ServerSide):
    """One request to a server."""

    __slots__ = (
        *("connection", "core", "number", "exchange", "closed"),
        # of the request
        *("_head_only", "_queue", "_queued", "_full", "_trailers", "_whole", "_sent"),
        # of the response
        *("_head", "_came", "_response_trailers", "_paused", "_held"),
    )

    def __init__(self, connection: Streams) -> None:
        self.connection = connection
        self.core = connection.core
        self.number = 0
        self.exchange: FromServer | None = None
        self.closed = False
        self._head_only = False  # it is a HEAD: the response has no body, whatever it says
        self._queue: list[bytes] = []  # of the body, waiting for the server's window
        self._queued = 0
        self._full = False  # the exchange has been told so
        self._trailers: Trailers = ()
        self._whole = False  # nothing more will be put in the queue
        self._sent = False  # END_STREAM is sent
        self._head: ResponseHead | None = None
        self._came = 0  # bytes of the response's body
        self._response_trailers: list[bytes] = []
        self._paused = False  # what comes is not acknowledged
        self._held = 0  # bytes that the server's window lacks for it

    # From the exchange

    def request(
        self, exchange: FromServer, head: RequestHead, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        self.exchange = exchange
        self._head_only = head.method == b"HEAD"
        connection = self.connection
        piece = contents(buffer, spans)
        bare = end and not piece
        try:
            self.number = connection.h2.get_next_available_stream_id()
            headers = request_to_http2(head.printed(), connection.scheme)
            connection.h2.send_headers(self.number, headers, end_stream=bare)
        except h2.exceptions.H2Error as error:
            self.closed = True
            exchange.server_gone(Reason.SERVER_GONE, f"HTTP/2: {error}")
            return
        connection.stream_begun(self)
        self._whole = end
        self._sent = bare
        self._add(piece)

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        self._add(contents(buffer, spans))

    def _add(self, piece: bytes) -> None:
        if piece:
            self._queue.append(piece)
            self._queued += len(piece)
            self.push()

    def end(self, trailers: Trailers) -> None:
        self._trailers = trailers
        self._whole = True
        self.push()

    def tunnel(self) -> Pipe:
        raise RuntimeError("a stream to a server never says that it changes the protocol")

    @property
    def unsent(self) -> int:
        return self._queued

    def release(self) -> None:
        if self._sent:
            self._forget()
        else:
            self.abort()  # the server has answered before it had all of the request

    def abort(self) -> None:
        if not self.closed:
            self._cancel()
        self._forget()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        length, self._held = self._held, 0
        self.connection.acknowledge(self.number, length)

    # From the connection: the request

    @serving
    def push(self) -> None:
        """Send of the queue what the server's window and the connection take."""
        connection = self.connection
        if self.closed or self._sent:
            return
        try:
            while self._queue and not connection.write_paused:
                window = connection.h2.local_flow_control_window(self.number)
                size = min(window, connection.h2.max_outbound_frame_size, len(self._queue[0]))
                if size <= 0:
                    break
                piece = self._queue[0]
                connection.h2.send_data(self.number, piece[:size])
                if size == len(piece):
                    del self._queue[0]
                else:
                    self._queue[0] = piece[size:]
                self._queued -= size
            if self._whole and not self._queue:
                self._sent = True
                trailers = trailers_to_http2(self._trailers)
                if trailers:
                    connection.h2.send_headers(self.number, trailers, end_stream=True)
                else:
                    connection.h2.end_stream(self.number)
        except h2.exceptions.H2Error:
            return  # the stream has ended; the event for it is on its way
        connection.soon()
        full = self._queued > _QUEUE
        if full is not self._full and self.exchange is not None:
            self._full = full
            if full:
                self.exchange.server_full()
            else:
                self.exchange.server_ready()

    # From the connection: the response

    @serving
    def response(self, event: h2.events.ResponseReceived) -> None:
        """The head of the final response has come."""
        exchange = self.exchange
        if exchange is None:
            return
        ended = event.stream_ended is not None
        try:
            head = read_response(response_to_http1(event.headers or [], ended), self._head_only)
        except (BadResponse, ValueError) as error:
            self._bad(exchange, error)
            return
        if ended and head.content_length > 0:
            self._bad(exchange, BadResponse("content_length", "less than its length"))
            return
        self._head = head
        exchange.response(head, b"", 0, ended)

    @serving
    def interim(self, event: h2.events.InformationalResponseReceived) -> None:
        """A 1xx response has come."""
        exchange = self.exchange
        if exchange is None:
            return
        try:
            head = read_response(response_to_http1(event.headers or [], True), False)
            if head.status == 101:
                raise BadResponse("upgrade", "101 in HTTP/2")
        except (BadResponse, ValueError) as error:
            self._bad(exchange, error)
            return
        exchange.interim(head)

    @serving
    def data(self, event: h2.events.DataReceived) -> None:
        """A piece of the body has come."""
        exchange = self.exchange
        head = self._head
        length = event.flow_controlled_length or 0
        if exchange is None or head is None:
            self.connection.acknowledge(self.number, length)
            return
        data = event.data or b""
        self._came += len(data)
        if self._came > head.content_length >= 0:
            self.connection.acknowledge(self.number, length)
            self._bad(exchange, BadResponse("content_length", "more than its length"))
            return
        if data:
            exchange.response_body(data)
        if self._paused and not self.closed:
            self._held += length
        else:
            self.connection.acknowledge(self.number, length)

    @serving
    def trailers(self, event: h2.events.TrailersReceived) -> None:
        """Fields have come behind the body."""
        self._response_trailers = trailers_to_http1(event.headers or [])

    @serving
    def finished(self, event: h2.events.StreamEnded) -> None:
        """The server has sent END_STREAM."""
        exchange = self.exchange
        if exchange is None:
            return
        if self._head is None:
            self.lost()
        elif self._came < self._head.content_length:
            self._bad(exchange, BadResponse("content_length", "less than its length"))
        else:
            exchange.response_end(self._response_trailers)

    @serving
    def reset(self, event: h2.events.StreamReset) -> None:
        """The server has given it up: whole responses have ended before."""
        self.lost(stale=event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM)

    @serving
    def lost(self, stale: bool = False) -> None:
        """The stream or its connection is gone; ``stale``: the server has done nothing with the request."""
        exchange = self.exchange
        self._forget()
        if exchange is not None:
            exchange.server_gone(
                Reason.SERVER_UNSEEN if stale and self._head is None else Reason.SERVER_GONE,
                "closed the connection before its response was whole",
            )

    def _bad(self, exchange: FromServer, why: BadResponse | ValueError) -> None:
        """The server said something that must not be passed on."""
        self.abort()
        self.core.count_bad_response(why if isinstance(why, BadResponse) else BadResponse("field_line"))
        exchange.server_gone(Reason.SERVER_BAD, f"bad response: {why}")

    # Ends

    def _cancel(self) -> None:
        try:
            self.connection.h2.reset_stream(self.number, h2.errors.ErrorCodes.CANCEL)
            self.connection.soon()
        except h2.exceptions.H2Error:
            pass  # it had ended

    def _forget(self) -> None:
        self.exchange = None
        if not self.closed:
            self.closed = True
            self.connection.acknowledge(self.number, self._held)
            self.connection.stream_over(self.number)

    def crashed(self, error: Exception, exchange: FromServer | None) -> None:
        """An error of pylb's own: it costs this stream, and the exchange that it worked for."""
        connection = self.connection
        self.exchange = None
        self.closed = True
        try:
            connection.stream_over(self.number)
            self._cancel()
            connection.acknowledge(self.number, self._held)
        except Exception as another:
            connection.crashed(another)
        if exchange is not None:
            exchange.crashed(error)
        else:
            self.core.internal(error)
