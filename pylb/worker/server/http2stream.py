"""A stream of HTTP/2 towards servers: the server side of one exchange.

Floor: server side. Knows the exchange as `FromServer`, its connection as `Streams`, and nothing of clients.
"""

from __future__ import annotations

from abc import abstractmethod

from pylb.http.request import RequestHead
from pylb.http.response import BadResponse, ResponseHead, read_response
from pylb.http2.codes import Code
from pylb.http2.decode import Section
from pylb.http2.encode import request_blocks, trailers_block
from pylb.http2.heads import response_head, trailer_lines
from pylb.http2.stream import Stream, Wire
from pylb.worker.core import Core
from pylb.worker.guard import serving
from pylb.worker.reasons import Reason
from pylb.worker.sides import FromServer, Pipe, ServerSide, Spans, Trailers, contents

QUEUE = 128 * 1024
"""Bytes of a request that wait for the server's window before the client is paused."""
SPARE = 100
"""Streams that a connection keeps to use them again; a quarter of it while none is open."""


class Streams(Wire):
    """What a stream asks of its connection."""

    core: Core
    scheme: bytes
    streams: dict[int, Http2ServerStream]
    next: int
    spare: list[Http2ServerStream]
    """Streams that are over and serve again."""

    @abstractmethod
    def stream_begun(self) -> None:
        """A stream has been opened."""

    @abstractmethod
    def doubt(self) -> None:
        """A stream was given up before its response began: it may be the connection that is to blame."""

    @abstractmethod
    def crashed(self, error: Exception) -> None:
        """An error of pylb's own that is no single stream's; raises nothing."""


class Http2ServerStream(Stream, ServerSide):
    """One request to a server; when that is over, the same object serves for another one."""

    __slots__ = (
        *("connection", "core", "exchange", "closed"),
        # of the request
        *("_head_only", "_full"),
        # of the response
        *("_head", "_came", "_response_trailers"),
    )

    def __init__(self, connection: Streams) -> None:
        self.connection = connection
        self.core = connection.core
        super().__init__(connection)

    def begin(self, number: int) -> None:
        super().begin(number)
        self.exchange: FromServer | None = None
        self.closed = False
        self._head_only = False  # it is a HEAD: the response has no body, whatever it says
        self._full = False  # the exchange has been told so
        self._head: ResponseHead | None = None
        self._came = 0  # bytes of the response's body
        self._response_trailers: list[bytes] = []

    # From the exchange

    def request(
        self, exchange: FromServer, head: RequestHead, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        connection = self.connection
        block = request_blocks[connection.scheme](head.printed())
        piece = contents(buffer, spans)
        connection.stream_begun()
        number = connection.next
        self.begin(number)
        self.exchange = exchange
        self._head_only = head.method == b"HEAD"
        written = len(connection.out)
        connection.next = number + 2
        connection.streams[number] = self
        try:
            if end:
                self.send_message(block, piece)
            else:
                self.send_head(block)
                self.write(piece)
                self.level()
        except BaseException:
            # A reset of a stream that the server doesn't know would end the connection for all.
            if len(connection.out) == written:
                del connection.streams[number]
            raise

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        if not self.closed:
            self.write(contents(buffer, spans))
            self.level()

    def end(self, trailers: Trailers) -> None:
        if not self.closed:
            self.finish_sending(trailers_block(trailers) if trailers else b"")

    def tunnel(self) -> Pipe:
        raise RuntimeError("a stream to a server never says that it changes the protocol")

    @property
    def unsent(self) -> int:
        return self.queued

    def release(self) -> None:
        self.exchange = None
        if self.closed:
            return
        if self.ended and self.peer_ended:
            self.closed = True
            connection = self.connection
            connection.patience.good += 1
            if len(connection.spare) < SPARE:
                connection.spare.append(self)
            self.over()
        else:
            self.abort()  # the server has answered before it had all of the request

    def abort(self) -> None:
        self.exchange = None
        if not self.closed:
            self.closed = True
            if self.connection.streams.get(self.number) is not self:
                return  # it has not begun
            early = self._head is None
            self.cancel(Code.CANCEL)
            if early:
                self.connection.doubt()

    def pause(self) -> None:
        self.pause_peer()

    def resume(self) -> None:
        if not self.closed:
            self.resume_peer()

    # From the connection: the request

    def sent_end(self) -> None:
        """Nothing is to be done: the stream is over with the response."""

    @serving
    def level(self) -> None:
        """The exchange is told when too much waits for the server, and when it no longer does."""
        exchange = self.exchange
        full = self.queued > QUEUE
        if full is not self._full and exchange is not None:
            self._full = full
            if full:
                exchange.server_full()
            else:
                exchange.server_ready()

    # From the connection: the response

    @serving
    def section(self, section: Section, ended: bool) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        made = section.made
        head: ResponseHead | None = self._head
        try:
            if head is not None:
                if section.fields is None or not ended:
                    raise ValueError("trailers that are too long" if ended else "a second header section")
                trailers = made.get(None)
                if trailers is None:
                    trailers = made[None] = trailer_lines(section.fields)
                self._response_trailers = trailers
            else:
                kind = ended + 2 * self._head_only
                head = made.get(kind)
                if head is None:
                    head = made[kind] = self._read(section, ended)
        except (BadResponse, ValueError) as error:
            self._bad(exchange, error)
            return
        self.peer_ended = ended
        if self._head is not None:
            self._finished(exchange)
        elif head.status < 200:
            exchange.interim(head)
        elif ended and head.content_length > 0:
            self._bad(exchange, BadResponse("content_length", "less than its length"))
        else:
            self._head = head
            exchange.response(head, b"", 0, ended)

    def message(self, section: Section, payload: bytes, ended: bool) -> bool:
        exchange = self.exchange
        head: ResponseHead | None = section.made.get(2 * self._head_only)
        if exchange is None or head is None or head.status < 200 or self._head is not None:
            return False
        came = len(payload)
        length = head.content_length
        if came > length >= 0 or (ended and came < length):
            return False
        self._head = head
        self._came = came
        self.peer_ended = ended
        try:
            if ended and length >= 0:
                exchange.response(head, payload, 0, True)
            else:
                exchange.response(head, payload, 0, False)
                if ended and self.exchange is exchange:
                    self._finished(exchange)
        except Exception as error:
            self.crashed(error, exchange)
        return True

    def _read(self, section: Section, ended: bool) -> ResponseHead:
        """A head that has come.

        Raises:
            BadResponse, ValueError: it must not be passed on.
        """
        if section.fields is None:
            raise BadResponse("header_bytes", "its header section is too long")
        head = read_response(response_head(section.fields, ended), self._head_only)
        if head.status == 101:
            raise BadResponse("upgrade", "101 in HTTP/2")
        if head.status < 200 and ended:
            raise BadResponse("status_line", "an interim response that ends")
        return head

    @serving
    def data(self, payload: bytes) -> None:
        exchange = self.exchange
        head = self._head
        if exchange is None:
            return
        if head is None:
            self._bad(exchange, BadResponse("status_line", "a body without a head"))
            return
        self._came += len(payload)
        if self._came > head.content_length >= 0:
            self._bad(exchange, BadResponse("content_length", "more than its length"))
        else:
            exchange.response_body(payload)

    @serving
    def end_came(self) -> None:
        exchange = self.exchange
        if exchange is not None:
            self._finished(exchange)

    def _finished(self, exchange: FromServer) -> None:
        head = self._head
        if head is None:
            self._bad(exchange, BadResponse("status_line", "an end without a head"))
        elif self._came < head.content_length:
            self._bad(exchange, BadResponse("content_length", "less than its length"))
        else:
            exchange.response_end(self._response_trailers)

    @serving
    def was_reset(self, code: int) -> None:
        exchange = self.exchange
        head = self._head
        self.over()
        if (
            code == Code.NO_ERROR
            and exchange is not None
            and head is not None
            and self._came == head.content_length
        ):
            self.closed = True  # all of the response is there: it has not waited for the rest of the request
            exchange.response_end(())
        else:
            self.lost(code == Code.REFUSED_STREAM)

    @serving
    def broken(self, code: Code, why: str) -> None:
        exchange = self.exchange
        if exchange is not None:
            self._bad(exchange, BadResponse("field_line", why))
        elif not self.closed:
            self.abort()

    @serving
    def lost(self, unseen: bool = False) -> None:
        """The stream or its connection is gone; ``unseen``: the server has done nothing with the request."""
        exchange, self.exchange = self.exchange, None
        self.closed = True
        self.over()
        if exchange is not None:
            exchange.server_gone(
                Reason.SERVER_UNSEEN if unseen and self._head is None else Reason.SERVER_GONE,
                "refused the request" if unseen else "closed the connection before its response was whole",
            )

    def _bad(self, exchange: FromServer, why: BadResponse | ValueError) -> None:
        """The server said something that must not be passed on."""
        self.exchange = None
        self.closed = True
        self.cancel(Code.PROTOCOL_ERROR)
        self.core.count_bad_response(why if isinstance(why, BadResponse) else BadResponse("field_line"))
        exchange.server_gone(Reason.SERVER_BAD, f"bad response: {why}")

    def crashed(self, error: Exception, exchange: FromServer | None) -> None:
        """An error of pylb's own: it costs this stream, and the exchange that it worked for."""
        connection = self.connection
        self.exchange = None
        self.closed = True
        try:
            if connection.streams.get(self.number) is self:
                self.cancel(Code.CANCEL)
        except Exception as another:
            connection.crashed(another)
        if exchange is not None:
            exchange.crashed(error)
        else:
            self.core.internal(error)
