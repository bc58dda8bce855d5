"""A stream of HTTP/2 towards clients: the client side of one exchange, and after an extended CONNECT a pipe.

Floor: client side. Knows its exchange, its connection as `Streams`, and nothing of servers.
"""

from __future__ import annotations

import base64
import math
import os
from functools import partial

from pylb.http.errors import Refused
from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.http2.codes import Code
from pylb.http2.decode import Section
from pylb.http2.encode import response_block, trailers_block, tunnel_block
from pylb.http2.heads import Malformed, is_connect, request_head, trailer_lines, usual_head
from pylb.http2.stream import Stream
from pylb.scoreboard import Field
from pylb.worker.client.streams import SPARE, Streams
from pylb.worker.exchange import Exchange, begin
from pylb.worker.guard import hand_back
from pylb.worker.reasons import Reason
from pylb.worker.sides import ClientSide, FromPipe, Pipe, Spans, Trailers, contents

QUEUE = 128 * 1024
"""Bytes of a response that wait for the client's window; the server isn't read above it."""
QUEUES = 1024 * 1024
"""The same over all streams of a connection; above it no server is read whose response waits."""
LINGER = 5.0
"""Seconds in which a client that was answered may still send the rest of its request; it is dropped."""
LINGER_BYTES = 4 * 1024 * 1024
"""How much of it, at most."""


class Http2Stream(Stream, ClientSide, Pipe):
    """One request of an HTTP/2 connection; when that is over, the same object serves for another one."""

    __slots__ = (
        *("connection", "core", "facts", "born", "closed", "exchange", "deadline", "_reader"),
        # of the request
        *("upgrading", "chunked", "length", "came", "body_done", "request_trailers", "_bad", "_dropped"),
        # of the response
        *("_full", "tunnelled", "_listener", "_early", "_stopped"),
        # of both
        *("bare", "plain"),
    )

    def __init__(self, connection: Streams) -> None:
        self.connection = connection
        self.core = connection.core
        self.facts = connection.facts
        self._reader: RequestHead | None = None
        self.plain = False
        """Whether it has served for a request without a body, with a response that went out as a whole."""
        super().__init__(connection)

    def begin(self, number: int) -> None:
        if self.plain:  # so nothing else has changed, but what `ask` sets
            self.number = number
            self.window = self.wire.first_window
            self.born = self.core.now
            self.whole = self.ended = self.closed = self.plain = False
            return
        super().begin(number)
        self.bare = False  # a request without a body, and none for another protocol
        self.born = self.core.now
        self.closed = False
        self.exchange: Exchange | None = None
        self.deadline = math.inf  # of a response that is being taken, or a request that is dropped
        self.upgrading = False  # an extended CONNECT that is not answered yet
        self.chunked = False  # the body's length is not known
        self.length = 0  # of the body, unless it is chunked
        self.came = 0  # bytes of the body
        self.body_done = True  # the exchange has been told that the request is whole
        self.request_trailers: list[bytes] = []
        self._bad = False  # the client has broken a rule of HTTP/2
        self._dropped = 0  # bytes that have come after the response
        self._full = False  # the exchange, or the tunnel, has been told so
        self.tunnelled = False
        self._listener: FromPipe | None = None
        self._early = b""  # what has come for the tunnel before there was one
        self._stopped = False  # the tunnel, or the exchange, reads nothing for the moment

    @property
    def carrier(self) -> object:
        return self.connection

    # From the connection: the request

    def ask(self, section: Section, ended: bool, body: bytes = b"") -> None:
        """The header section of the request has come; ``ended``: that is all; ``body``: all of it has come,
        too."""
        connection = self.connection
        bind = connection.bind
        exchange = self.exchange = begin(self.core, self.facts, bind.frontend)
        exchange.client = self  # from here on, whatever happens, the client is to be answered
        self.body_done = self.bare = ended
        self.peer_ended = ended or bool(body)
        head = self._reader
        if head is None:
            head = self._reader = bind.reader(self.facts)
        connect = False
        try:
            raw = section.made.get(ended)
            if raw is None and ended and section.tail is not None:
                raw = section.made[ended] = usual_head(section)
            if raw is None:
                fields = section.fields
                if fields is None:
                    raise Refused(431, "header_bytes")
                connect = is_connect(fields)
                if connect:
                    self.bare = False
                key = base64.b64encode(os.urandom(16)) if connect else b""
                raw = request_head(fields, ended, key)
                if not connect:
                    section.made[ended] = raw
            head.read(raw)
            if ended and head.content_length:
                raise Malformed("content_length")
            if connect:
                self.upgrading = bool(head.upgrade)
                if not self.upgrading:
                    raise Refused(400, "method")  # to no known protocol: its data would be passed on unread
                self.pause_peer()  # until there is a tunnel
                self._early, body = body, b""
            elif body:
                if not head.chunked and head.content_length != len(body):
                    raise Malformed("content_length")
                self.body_done = True
        except Refused as error:
            error.to_head = (b":method", b"HEAD") in [one[1:3] for one in section.fields or ()]
            self._refused(exchange, error)
            return
        if body:
            exchange.request(self, head, body, True)
            return
        if not ended and not connect:
            self.chunked = head.chunked
            self.length = head.content_length
            # A length of nothing says all; the END_STREAM that follows says nothing more.
            ended = self.body_done = not head.chunked and not head.content_length
        exchange.request(self, head, b"", ended or connect)

    def _refused(self, exchange: Exchange, refused: Refused) -> None:
        self.body_done = True
        self._bad = isinstance(refused, Malformed)
        exchange.refuse(refused, self)
        if self._bad:
            self.connection.patience.reset(self.connection.now())

    def data(self, payload: bytes) -> None:
        exchange = self.exchange
        if self._listener is not None:
            self._listener.came(payload)
        elif self.upgrading or self.tunnelled:
            self._early += payload  # bounded by the window: nothing is given back before there is a tunnel
        elif exchange is not None and not self.body_done:
            self.came += len(payload)
            if self.came > self.length and not self.chunked:
                self._refused(exchange, Malformed("content_length"))
            else:
                exchange.request_body(payload)
        elif exchange is not None:
            if not self._bad:
                self._refused(exchange, Malformed("content_length"))  # it has said that there is none
        else:
            self._dropped += len(payload)
            if self._dropped > LINGER_BYTES:
                self.reset(Code.NO_ERROR)

    def section(self, section: Section, ended: bool) -> None:
        fields = section.fields
        self.peer_ended = ended
        why = ""
        if not ended:
            why = "a second header section"
        elif fields is None:
            why = "trailers that are too long"
        else:
            try:
                self.request_trailers = trailer_lines(fields)
            except ValueError as error:
                why = str(error)
        if why:
            self.broken(Code.PROTOCOL_ERROR, why)
            self.connection.patience.reset(self.connection.now())
        else:
            self.end_came()

    def end_came(self) -> None:
        exchange = self.exchange
        if self._listener is not None:
            if not self._listener.ended():
                self.close()
        elif self.ended:
            self._end_clean()  # it was answered before
        elif not self.body_done:
            self.body_done = True
            if exchange is not None and not self.upgrading:
                if self.came < self.length and not self.chunked:
                    self._refused(exchange, Malformed("content_length"))
                else:
                    exchange.request_end(self.request_trailers)

    def broken(self, code: Code, why: str) -> None:
        """The client has broken a rule; where it was not answered yet, it gets 400 and then the reset."""
        exchange = self.exchange
        if exchange is not None and code is Code.PROTOCOL_ERROR and not self._bad:
            self.body_done = True
            self._bad = True
            exchange.refuse(Refused(400, "http2"), self)
        elif not self.closed:
            self.core.count_refusal(Refused(400, "http2"))
            self.reset(code)

    def was_reset(self, code: int) -> None:
        over = self.exchange is None and not self.tunnelled
        self.over()
        self.gone()
        if not over:
            self.connection.patience.reset(self.connection.now())

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
        self.over()
        self._tell_tunnel()

    def _tell_tunnel(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self.core.loop.call_soon(listener.gone, False)  # later: who ends it isn't called back

    # From the connection: deadlines and room

    def due(self) -> float:
        """When `expire` is to be called, on the worker's clock."""
        return self.deadline if self.exchange is None else self.exchange.due()

    def expire(self) -> None:
        """The exchange's deadline has passed; or the response wasn't taken, or the request ended, in time."""
        if self.exchange is not None:
            self.exchange.expire(say=False)
        elif self.ended:
            self.reset(Code.NO_ERROR)  # RFC 9113 §8.1: the answer is whole; the rest isn't needed
        else:
            self.core.counters[Field.TIMEOUTS] += 1
            self.reset(Code.CANCEL)

    def level(self) -> None:
        if self.whole:
            self._await()
        self.update()

    def update(self) -> None:
        """Tell who writes to the stream when it should not, and when it may again."""
        connection = self.connection
        queued = self.queued
        full = queued > QUEUE or connection.write_paused or (queued > 0 and connection.queued > QUEUES)
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
        if self.upgrading and head.status < 300 and self.exchange is not None:
            # To a CONNECT this would mean that there is a tunnel (RFC 8441 §5).
            self.exchange.unusable(f"{head.status} to a request for another protocol")
            return
        if self.closed:
            return
        piece = contents(buffer, spans) if spans is not None else buffer[at:] if at else buffer
        block = response_block.known.get(head.out) or response_block(head.out)
        if end:
            if self.bare and not (self._full or self._bad) and self.sent_at_once(block, piece, True):
                # The usual, in one step: all that follows from the end of both sides.
                self.exchange = None
                self.whole = self.ended = self.closed = self.plain = True
                self.connection.answered(self)
                return
            self._let_go()
            self.send_message(block, piece)
        else:
            self.send_message(block, piece, False)
            if self.queued:
                self.update()

    def interim(self, head: ResponseHead) -> None:
        if not self.closed:
            self.send_head(response_block(head.out))

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        self._write(contents(buffer, spans))

    def end(self, trailers: Trailers) -> None:
        block = trailers_block(trailers) if trailers else b""
        if not self.closed:
            self._let_go()
            self.finish_sending(block)

    def tunnel(self, head: ResponseHead) -> Pipe:
        self.exchange = None  # the tunnel has it from now on, and its deadline
        self.upgrading = False
        self.tunnelled = True
        self._full = False
        if not self.closed:
            self.send_head(tunnel_block(head.out))
        return self

    def stay(self) -> None:
        """HTTP/2 does so anyway."""

    def last(self) -> None:
        """A stream has one response only."""

    def abort(self, reason: Reason = Reason.CUT) -> None:
        """End now; as the end of an exchange with its reason, as that of a pipe without."""
        self.exchange = None
        if self._bad:
            code = Code.PROTOCOL_ERROR
        elif reason is Reason.SERVER_UNSEEN:
            code = Code.REFUSED_STREAM  # nobody has looked at it, so it may be repeated (RFC 9113 §8.7)
        elif reason in (Reason.CUT, Reason.CLIENT_LATE):
            code = Code.CANCEL
        else:
            code = Code.INTERNAL_ERROR
        self.reset(code)

    def pause(self) -> None:
        self._stopped = True
        self.pause_peer()

    def resume(self) -> None:
        self._stopped = False
        if not self.upgrading and (not self.tunnelled or self._listener is not None):
            self.resume_peer()

    @property
    def unsent(self) -> int:
        connection = self.connection
        return self.queued + (connection.unsent if connection.write_paused else 0)

    # From the tunnel (RFC 8441)

    def start(self, listener: FromPipe) -> None:
        if self.closed:
            listener.gone(False)
            return
        self._listener = listener
        early, self._early = self._early, b""
        if early:
            listener.came(early)
        if not self._stopped:
            self.resume_peer()
        if self.peer_ended and not listener.ended():
            self.close()
        self.update()

    def send(self, data: bytes) -> None:
        if not self.closing:
            self._write(data)

    def finish(self) -> bool:
        return False  # END_STREAM is sent when both directions are done

    def close(self) -> None:
        if not self.closing:
            self._let_go()
            self.finish_sending()

    @property
    def closing(self) -> bool:
        return self.whole or self.closed

    # To the client

    def _write(self, data: bytes) -> None:
        if data and not self.closed:
            self.write(data)
            self.update()

    def _let_go(self) -> None:
        """Nothing more will be written by whoever has written."""
        self.exchange = None
        if self.paused:
            self.resume_peer()  # what still comes is dropped
        self._await()

    def _await(self) -> None:
        # Of a tunnel the deadline is the tunnel's.
        if not self.tunnelled:
            self.deadline = self.core.now + self.core.timeouts.client

    def sent_end(self) -> None:
        if self.peer_ended:
            self._end_clean()
        elif self._bad:
            self.reset(Code.PROTOCOL_ERROR)
        else:
            # The answer is whole, and the request isn't. A reset at once makes clients lose the answer, and
            # most end the stream by themselves.
            self.deadline = self.core.now + LINGER
            if self.tunnelled:
                self._tell_tunnel()

    def _end_clean(self) -> None:
        """Both directions have come to their end."""
        if self._bad:
            self.reset(Code.PROTOCOL_ERROR)
            return
        self.closed = True
        connection = self.connection
        connection.patience.good += 1
        if self._listener is None and len(connection.spare) < SPARE:
            connection.spare.append(self)
        self.over()
        self._tell_tunnel()

    def reset(self, code: Code) -> None:
        """End the stream from this side with an error code."""
        if self.connection.streams.get(self.number) is self:
            self.cancel(code)
        self.gone()

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own: the request is answered with 500, or the stream ends; raises nothing."""
        hand_back(self, error, partial(self.reset, Code.INTERNAL_ERROR))
