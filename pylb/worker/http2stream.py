"""A stream of an HTTP/2 client connection: one exchange."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import time
from typing import TYPE_CHECKING

import h2.errors
import h2.exceptions

from pylb.http.body import body_deadline
from pylb.http.errors import Refused, https_location
from pylb.http.response import ResponseHead
from pylb.http.translate import request_to_http1, response_to_http2, trailers_to_http2
from pylb.scoreboard import Field
from pylb.worker.exchange import Endpoint, HttpExchange, endpoint, tls_facts
from pylb.worker.http2tunnel import StreamTransport
from pylb.worker.tunnel import Tunnel

if TYPE_CHECKING:
    from pylb.worker.http2 import Http2Connection
    from pylb.worker.server import ServerConnection

QUEUE = 128 * 1024
"""Bytes of a response that wait for the client's window; the server isn't read above it."""


class Http2Stream(HttpExchange):
    """One request of an HTTP/2 connection."""

    __slots__ = (
        "connection",
        "number",
        "deadline",
        "eof",
        "transport",
        "chunked",
        "unacknowledged",
        "queue",
        "queued",
        "ending",
        "ended",
        "request_trailers",
        "trailers",
        "paused_server",
        "upgrading",
        "early",
        "tunnelled",
        "received_bytes",
        "length",
        "began",
    )

    def __init__(self, connection: Http2Connection, number: int) -> None:
        super().__init__(connection.worker, connection.listener.backend)
        self.connection = connection
        self.number = number
        self.deadline = math.inf
        self.eof = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # of a tunnel only
        self.plain = False
        self.dechunk = True
        self.chunked = False
        self.unacknowledged = 0  # bytes of the request that the client's window still lacks
        self.received_bytes = 0
        self.began = 0.0  # when the request's body did
        self.length = 0  # of the request's body, unless it is chunked
        self.queue: list[bytes] = []  # of the response, waiting for the client's window
        self.queued = 0
        self.ending = False  # nothing more will be put in the queue
        self.ended = False  # the client knows
        self.request_trailers: list[bytes] = []
        self.trailers: list[tuple[bytes, bytes]] = []  # of the response
        self.paused_server = False
        self.upgrading = False  # an extended CONNECT that is not answered yet
        self.early = b""  # what the client sent for the tunnel meanwhile
        self.tunnelled: StreamTransport | None = None

    # The request

    def begin(self, headers: list[tuple[bytes, bytes]], ended: bool) -> None:
        """The header section has come."""
        listener = self.connection.listener
        self.busy = True
        self.started_ns = time.monotonic_ns()
        head = listener.request_head(self.connection.transport, self.connection.peer)
        try:
            key = base64.b64encode(os.urandom(16))
            outgoing = head.parse(request_to_http1(headers, ended, key))
            self.upgrading = head.fields is not None and bool(head.fields.upgrade)
            if head.content_length > listener.body_bytes > 0:
                raise Refused(413, "body_bytes")
            if ended and head.content_length:
                raise Refused(400, "content_length")
            if (b":method", b"CONNECT") in headers and not self.upgrading:
                raise Refused(400, "method")  # to a protocol that is none; its data would follow as they are
            host = head.fields.host if head.fields is not None else None
            health = listener.health(outgoing) if listener.answers else 0
            location = https_location(host, outgoing) if listener.redirect and not health else b""
        except Refused as refused:
            self.refuse(refused)
            return
        self.method = head.method
        self.chunked = head.chunked
        self.length = head.content_length
        self.body_done = ended or self.upgrading
        self.outgoing = outgoing
        self.replayable = self.body_done
        if health:
            self.counters[Field.STATUS_1XX - 1 + health // 100] += 1
            self._own(listener.health_response(health, False, False))
            self.done(times=self.worker.times)
            return
        if location:
            self._redirect(location)
            return
        if not self.body_done:
            self.began = self.worker.now
            self._body_deadline()
        self.send()

    def _redirect(self, location: bytes) -> None:
        """The same place, by https."""
        self.counters[Field.STATUS_3XX] += 1
        self.ended = True
        self._headers([(b":status", b"308"), (b"location", location), (b"content-length", b"0")], True)
        self.done(times=self.worker.times)

    def received(self, data: bytes, length: int) -> None:
        """A piece of the body, and how much of the window it has cost."""
        if self.tunnelled is not None:
            self.tunnelled.received(data, length)
            return
        if self.upgrading:
            self.early += data
            self.unacknowledged += length  # until there is a tunnel; so at most a window full
            return
        if not self.busy or self.body_done:
            self.connection.acknowledge(self.number, length)
            return
        self.received_bytes += len(data)
        if self.received_bytes > self.connection.listener.body_bytes > 0:
            self.refuse(Refused(413, "body_bytes"))
            return
        if not self.chunked and self.received_bytes > self.length:
            self.refuse(Refused(400, "content_length"))
            return
        self.unacknowledged += length
        self._body_deadline()
        if data:
            self._forward(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        self.update_reading()

    def _body_deadline(self) -> None:
        worker = self.worker
        idle, rate = worker.timeouts.client, worker.limits.body_rate
        self.deadline = body_deadline(worker.now, idle, rate, self.began, self.received_bytes)

    def request_ended(self) -> None:
        """The client has said all."""
        if self.tunnelled is not None:
            self.tunnelled.ended()
        elif self.upgrading:
            self.eof = True
        elif self.busy and not self.body_done:
            self.body_done = True
            self.deadline = math.inf
            if not self.chunked and self.received_bytes < self.length:
                # h2 looks at this, but not where trailers follow. The server would wait for the rest.
                self.refuse(Refused(400, "content_length"))
                return
            if self.chunked:
                lines = b"".join(line + b"\r\n" for line in self.request_trailers)
                self._forward(b"0\r\n" + lines + b"\r\n")
            if self.server is None:
                self.replayable = True

    def _forward(self, data: bytes) -> None:
        server = self.server
        if server is not None:
            self.replayable = False
            server.deadline = self.worker.now + self.worker.timeouts.server
            server.write(data)
        else:
            self.outgoing += data  # still connecting; bounded by the client's window

    def update_reading(self) -> None:
        server = self.server
        if self.unacknowledged and server is not None and not server.write_paused:
            length, self.unacknowledged = self.unacknowledged, 0
            self.connection.acknowledge(self.number, length)

    def client_tls(self) -> dict[str, bytes]:
        return tls_facts(self.connection.transport)

    def endpoints(self) -> tuple[Endpoint | None, Endpoint | None]:
        transport = self.connection.transport
        return self.connection.peer or endpoint(transport, "peername"), endpoint(transport, "sockname")

    def refuse(self, refused: Refused) -> None:
        """Answer a request that is not passed on."""
        self.worker.count_refusal(refused)
        times = self.worker.times if self.upstream is None else None
        self.leave_server()
        if self.response_started:
            self.done(abort=True)
        else:
            self.fail(refused.status, times)

    # The response

    def write_head(self, head: ResponseHead, body: bytes | memoryview) -> None:
        if self.upgrading and head.status < 300:
            # To a CONNECT this would mean that there is a tunnel (RFC 8441 §5).
            self.response_started = False
            self.server_failed(502)
            return
        headers = response_to_http2(head.out)
        extra = self.connection.listener.response_fields
        if extra:
            name, _, value = extra.rstrip().partition(b": ")
            headers.append((name.lower(), value))
        # In one frame where there is no body: gRPC reads such a head as its trailers.
        self.ended = not head.content_length and not head.chunked
        self._headers(headers, self.ended)
        if body:
            self.write(body)

    def write_interim(self, head: ResponseHead) -> None:
        self._headers(response_to_http2(head.out))

    def _headers(self, headers: list[tuple[bytes, bytes]], end: bool = False) -> None:
        try:
            self.connection.h2.send_headers(self.number, headers, end_stream=end)
        except h2.exceptions.H2Error:
            self.abandon(h2.errors.ErrorCodes.INTERNAL_ERROR)
            return
        self.connection.soon()

    def write(self, data: bytes | memoryview) -> None:
        if data:
            self.queue.append(bytes(data))
            self.queued += len(data)
            self.push()

    def write_trailers(self, lines: list[bytes]) -> None:
        self.trailers = trailers_to_http2(lines)

    def write_error(self, status: int) -> None:
        self._own(self.connection.listener.error(status, False))

    def _own(self, raw: bytes) -> None:
        """Send a response of pylb's own."""
        end = raw.index(b"\r\n\r\n") + 4
        self._headers(response_to_http2(raw[:end]))
        if self.method != b"HEAD":
            self.write(raw[end:])

    def over(self, abort: bool) -> None:
        if self.closed:
            return
        if abort:
            self.abandon(h2.errors.ErrorCodes.INTERNAL_ERROR)
            return
        self.ending = True
        self.push()

    def push(self) -> None:
        """Send of the queue what the client's window and the connection take."""
        connection = self.connection
        if self.closed:
            return
        try:
            while self.queue and not connection.write_paused:
                window = connection.h2.local_flow_control_window(self.number)
                size = min(window, connection.h2.max_outbound_frame_size, len(self.queue[0]))
                if size <= 0:
                    break
                piece = self.queue[0]
                connection.h2.send_data(self.number, piece[:size])
                connection.sent(size)
                if size == len(piece):
                    del self.queue[0]
                else:
                    self.queue[0] = piece[size:]
                self.queued -= size
                if self.queued:
                    connection.flush()
                else:
                    connection.soon()
            if self.ending and not self.queue:
                self._end()
                return
        except h2.exceptions.H2Error:
            self.abandon(None)
            return
        # A client that doesn't open its window is one that doesn't read.
        if self.queue:
            self.deadline = self.worker.now + self.worker.timeouts.client
        elif self.body_done:
            self.deadline = math.inf
        self.update_server()
        if self.tunnelled is not None:
            self.tunnelled.pushed()

    def _end(self) -> None:
        if self.ended:
            pass
        elif self.trailers:
            self.connection.h2.send_headers(self.number, self.trailers, end_stream=True)
        else:
            self.connection.h2.end_stream(self.number)
        if not self.body_done:
            # RFC 9113 §8.1: the answer is whole; the rest of the request isn't needed.
            self.connection.h2.reset_stream(self.number, h2.errors.ErrorCodes.NO_ERROR)
        self.connection.soon()
        self.closed = True
        self.connection.acknowledge(self.number, self.unacknowledged)
        self.connection.stream_over(self.number)

    def update_server(self) -> None:
        """Read from the server only while there is room towards the client."""
        server = self.server
        wanted = self.queued > QUEUE or self.connection.write_paused
        if server is not None and wanted != self.paused_server:
            self.paused_server = wanted
            if wanted:
                server.deadline = math.inf
                server.pause_reading()
            else:
                server.deadline = self.worker.now + self.worker.timeouts.server
                server.resume_reading()

    # Ends

    def cut_off(self) -> None:
        connection = self.connection
        tunnelled, self.tunnelled = self.tunnelled, None
        self.closed = True
        self.busy = False
        try:
            connection.h2.reset_stream(self.number, h2.errors.ErrorCodes.INTERNAL_ERROR)
            connection.soon()
        except h2.exceptions.H2Error:
            pass  # it had ended
        finally:
            connection.streams.pop(self.number, None)
        if tunnelled is not None:
            tunnelled.lost()
        connection.acknowledge(self.number, self.unacknowledged)
        connection.stream_over(self.number)

    def gone(self) -> None:
        """The client has reset the stream, or the connection is gone."""
        if self.closed:
            return
        self.closed = True
        if self.tunnelled is not None:
            self.tunnelled.lost()
        elif self.busy:
            self.counters[Field.ABORTED] += 1
            self.leave_server()
            self.done()
        self.connection.acknowledge(self.number, self.unacknowledged)
        self.connection.stream_over(self.number)

    def abandon(self, code: h2.errors.ErrorCodes | None) -> None:
        """End the stream from our side with an error code."""
        if self.closed:
            return
        if code is not None:
            try:
                self.connection.h2.reset_stream(self.number, code)
                self.connection.soon()
            except h2.exceptions.H2Error:
                pass
        self.gone()

    # Extended CONNECT (RFC 8441)

    def wants_upgrade(self, head: ResponseHead) -> bool:
        return self.upgrading

    def tunnel(self, server: ServerConnection, head: ResponseHead, rest: bytes) -> None:
        headers = [
            (name, value)
            for name, value in response_to_http2(head.out)[1:]
            if name != b"sec-websocket-accept"
        ]
        self._headers([(b":status", b"200"), *headers])
        self.tunnelled = StreamTransport(self)
        self.transport = self.tunnelled
        early, self.early = self.early, b""
        self.upgrading = False
        self.response_started = True
        Tunnel(self.worker, self, server, self.worker.timeouts.tunnel, head.upgrade).start(early, rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """The tunnel has ended on both sides."""
        self.connection.stream_over(self.number)
