"""A stream to a server that is to become a tunnel: a WebSocket by extended CONNECT (RFC 8441).

Towards its exchange it is like an HTTP/1.1 server side that is asked for an upgrade: the server's 2xx becomes
a 101, and any other answer is an ordinary one. As a pipe it has an end for each direction, END_STREAM.

Floor: server side. Knows the exchange as `FromServer`, its connection as `Streams`, and nothing of clients.
"""

from __future__ import annotations

from pylb.http.request import RequestHead
from pylb.http.response import BadResponse, read_response
from pylb.http.websocket import accept
from pylb.http2.codes import Code
from pylb.http2.decode import Section
from pylb.http2.encode import connect_block
from pylb.http2.heads import tunnel_head
from pylb.worker.guard import serving
from pylb.worker.server.http2stream import QUEUE, Http2ServerStream
from pylb.worker.sides import FromPipe, FromServer, Pipe, Spans

PROTOCOL = b"websocket"
"""What a server's SETTINGS_ENABLE_CONNECT_PROTOCOL is taken for; anything else is upgraded to in HTTP/1.1."""
_LINGER = 5.0  # seconds in which a server may end a stream that nobody listens to any more


class Http2ServerTunnel(Http2ServerStream, Pipe):
    """One request for a WebSocket, and then its tunnel."""

    __slots__ = ("_key", "_tunnelled", "_listener", "_left")

    def begin(self, number: int) -> None:
        super().begin(number)
        self._key = b""  # of the client that speaks HTTP/1.1
        self._tunnelled = False
        self._listener: FromPipe | None = None
        self._left = False  # nobody listens any more

    # From the exchange

    def request(
        self, exchange: FromServer, head: RequestHead, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        connection = self.connection
        block = connect_block(head.printed(), connection.scheme, PROTOCOL)
        key = head.field(b"sec-websocket-key")
        connection.stream_begun()
        number = connection.next
        self.begin(number)
        self.exchange = exchange
        self._key = key or b""
        connection.next = number + 2
        connection.streams[number] = self
        self.send_head(block)

    def tunnel(self) -> Pipe:
        self.exchange = None
        self._full = False
        return self

    def abort(self) -> None:
        super().abort()
        self._tell(False)

    # From the connection

    @serving
    def section(self, section: Section, ended: bool) -> None:
        exchange = self.exchange
        fields = section.fields
        if self._tunnelled:
            if ended:  # trailers, which a tunnel has no place for
                self.peer_ended = True
                self.end_came()
            else:
                self.broken(Code.PROTOCOL_ERROR, "a header section in a tunnel")
        elif exchange is not None and fields and fields[0][1] == b":status" and fields[0][2][:1] == b"2":
            try:
                head = read_response(tunnel_head(fields, PROTOCOL), False)
            except (BadResponse, ValueError) as error:
                self._bad(exchange, error)
                return
            if self._key:
                head = head.adding(b"Sec-WebSocket-Accept: %b\r\n" % accept(self._key))
            self.peer_ended = ended
            self._head = head
            self._tunnelled = True
            exchange.switched(head)
        else:
            super().section(section, ended)

    @serving
    def data(self, payload: bytes) -> None:
        if not self._tunnelled:
            super().data(payload)
        elif self._listener is not None:
            self._listener.came(payload)

    @serving
    def end_came(self) -> None:
        if not self._tunnelled:
            super().end_came()
            return
        if self._listener is not None and not self._listener.ended():
            self.close()
        self._settle()

    @serving
    def was_reset(self, code: int) -> None:
        super().was_reset(code)
        self._tell(code != Code.NO_ERROR)

    @serving
    def lost(self, unseen: bool = False) -> None:
        super().lost(unseen)
        self._tell(True)

    def sent_end(self) -> None:
        self._settle()

    @serving
    def level(self) -> None:
        listener = self._listener
        if listener is None:
            super().level()
            return
        full = self.queued > QUEUE
        if full is not self._full:
            self._full = full
            if full:
                listener.full()
            else:
                listener.ready()

    # From the tunnel

    def start(self, listener: FromPipe) -> None:
        if self.closed:
            listener.gone(True)
            return
        self._listener = listener
        if self.peer_ended and not listener.ended():
            self.close()
        self.level()

    def send(self, data: bytes) -> None:
        if not self.whole and not self.closed:
            self.write(data)
            self.level()

    def finish(self) -> bool:
        if not self.whole and not self.closed:
            self.finish_sending()
        return True

    def close(self) -> None:
        if self._left or self.closed:
            return
        self._left = True
        if self.paused:
            self.resume_peer()  # what still comes is dropped
        if not self.whole:
            self.finish_sending()
        else:
            self._settle()

    @property
    def closing(self) -> bool:
        return self._left or self.closed

    def _settle(self) -> None:
        """END_STREAM was sent, or has come, or nobody listens any more."""
        if self.closed or not self.ended:
            return
        if self.peer_ended:
            self.closed = True
            self.connection.patience.good += 1
            self.over()
            self._tell(False)
        elif self._left:
            # Most servers end it now. A reset at once could cost them what they have not read yet.
            self.core.loop.call_later(_LINGER, self._late, self.number)
            self._tell(False)

    @serving
    def _late(self, number: int) -> None:
        if not self.closed and self.number == number:
            self.abort()

    def _tell(self, broken: bool) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self.core.loop.call_soon(listener.gone, broken)  # later: who ends it isn't called back

    def crashed(self, error: Exception, exchange: FromServer | None) -> None:
        super().crashed(error, exchange)
        self._tell(True)
