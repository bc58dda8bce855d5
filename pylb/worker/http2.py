"""The client side in HTTP/2 (RFC 9113): one connection, and its streams as exchanges.

h2 keeps the protocol's state; this module connects it to exchanges. Flow control is passed on both ways: what
a client sends is acknowledged when there is room towards the server, and a server is read only while the
client's window is open.
"""

from __future__ import annotations

import asyncio
import base64
import math
import os
import time
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame

from pylb.http.errors import Refused, error_response
from pylb.http.flood import Budget
from pylb.http.response import ResponseHead
from pylb.http.translate import request_to_http1, response_to_http2, trailers_to_http2
from pylb.scoreboard import Field
from pylb.worker.exchange import Endpoint, Exchange, endpoint
from pylb.worker.server import WRITE_BUFFER
from pylb.worker.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from pylb.worker.listener import Listener, Peer
    from pylb.worker.main import Worker
    from pylb.worker.server import ServerConnection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_STREAMS = 100
WINDOW = 256 * 1024  # bytes that a client may send ahead, per stream
_CONNECTION_WINDOW = 1 << 20
# Bytes of a response that wait for the client's window; the server isn't read above it.
_QUEUE = 128 * 1024
_ENHANCE_YOUR_CALM = int(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
_GOING_AWAY = (1 << 31) - 1


class Http2Connection(asyncio.Protocol):
    """Reads frames and hands them to streams."""

    def __init__(self, worker: Worker, listener: Listener, peer: Peer | None) -> None:
        self.worker = worker
        self.listener = listener
        self.peer = peer
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.movable = False
        self.closed = False
        self.write_paused = False
        self.leaving = False
        self.streams: dict[int, Http2Stream] = {}
        self._idle_deadline = math.inf
        self._last_stream = 0
        self._flushing = False
        # Resets of unfinished streams, and frames that ask for nothing.
        self._resets = Budget(100, 20)
        self._chatter = Budget(1000, 200)
        config = h2.config.H2Configuration(client_side=False, header_encoding=False)
        self.h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        limit = worker.limits.header_bytes
        self.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                codes.INITIAL_WINDOW_SIZE: WINDOW,
                codes.MAX_HEADER_LIST_SIZE: limit,
                codes.ENABLE_CONNECT_PROTOCOL: 1,
            },
        )
        # Holds from the first byte, acknowledged or not; room for HPACK's 32 bytes of overhead per field.
        self.h2.decoder.max_header_list_size = limit + 32 * worker.limits.header_count

    # What the worker asks of a client connection

    @property
    def busy(self) -> bool:
        return bool(self.streams)

    @property
    def deadline(self) -> float:
        if not self.streams:
            return self._idle_deadline
        return min(stream.deadline for stream in self.streams.values())

    def expire(self) -> None:
        """A deadline has passed: that of a stream, or of an idle connection."""
        now = self.worker.now
        late = [stream for stream in self.streams.values() if stream.deadline < now]
        for stream in late:
            self.worker.counters[Field.TIMEOUTS] += 1
            stream.abandon(h2.errors.ErrorCodes.CANCEL)
        if not late and not self.streams:
            self._goaway(0)
            self.transport.close()

    def drain(self) -> None:
        """Take no more streams; end when those under way are over (RFC 9113 §6.8)."""
        if self.leaving or self.closed:
            return
        self.leaving = True
        self._goaway(0, self._last_stream)
        if not self.streams:
            self.transport.close()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        self.worker.clients.add(self)
        self.worker.counters[Field.CONNECTIONS] += 1
        self._idle_deadline = self.worker.now + self.worker.timeouts.keep_alive
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW - 65535)
        self.flush()
        if self.worker.leaving:
            self.drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.worker.clients.discard(self)
        self.worker.counters[Field.CONNECTIONS] -= 1
        for stream in list(self.streams.values()):
            stream.gone()
        self.worker.client_gone()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.write_paused = True
        for stream in self.streams.values():
            stream.update_server()

    def resume_writing(self) -> None:
        self.write_paused = False
        for stream in list(self.streams.values()):
            stream.push()
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.worker.counters[Field.BYTES_IN] += len(data)
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            # Also a header list that is too large, and a flood of CONTINUATION; h2 has written the GOAWAY.
            self._refuse()
            return
        for event in events:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)
                if self.closed or self.transport.is_closing():
                    return
        self.flush()

    def _refuse(self) -> None:
        self.worker.count_refusal(Refused(400, "http2"))
        self.flush()
        self.transport.close()

    def _goaway(self, code: int, last: int | None = None) -> None:
        # By hand: for h2 a connection is over with its GOAWAY, but streams may still be under way.
        self.flush()
        last = self._last_stream if last is None else last
        self.transport.write(GoAwayFrame(0, last_stream_id=last, error_code=code).serialize())

    def _too_much(self, budget: Budget) -> bool:
        if budget.spend(self.worker.loop.time()):
            return False
        self.worker.count_refusal(Refused(400, "http2"))
        self._goaway(_ENHANCE_YOUR_CALM)
        self.transport.abort() if self.write_paused else self.transport.close()
        return True

    # Events

    def _request(self, event: h2.events.RequestReceived) -> None:
        number = event.stream_id
        assert number is not None
        if self.leaving and number > self._last_stream:
            self.h2.reset_stream(number, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        self._last_stream = max(self._last_stream, number)
        stream = Http2Stream(self, number)
        self.streams[number] = stream
        stream.begin(event.headers or [], event.stream_ended is not None)

    def _data(self, event: h2.events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id or 0)
        length = event.flow_controlled_length or 0
        if not event.data and event.stream_ended is None and self._too_much(self._chatter):
            return
        if stream is None:
            self.acknowledge(event.stream_id or 0, length)
        else:
            stream.received(event.data or b"", length)

    def _ended(self, event: h2.events.StreamEnded) -> None:
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            stream.request_ended()

    def _reset(self, event: h2.events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            if self._too_much(self._resets):
                return
            stream.gone()

    def _window(self, event: h2.events.WindowUpdated) -> None:
        if self._too_much(self._chatter):
            return
        if event.stream_id:
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.push()
        else:
            for stream in list(self.streams.values()):
                stream.push()

    def _noise(self, event: h2.events.Event) -> None:
        self._too_much(self._chatter)

    def _settings(self, event: h2.events.Event) -> None:
        if not self._too_much(self._chatter):
            for stream in list(self.streams.values()):
                stream.push()  # the initial window may have grown

    def _closed(self, event: h2.events.Event) -> None:
        self.leaving = True
        if not self.streams:
            self.transport.close()

    # For streams

    def acknowledge(self, number: int, length: int) -> None:
        """Let the client send so much more."""
        if length and not self.closed:
            try:
                self.h2.acknowledge_received_data(length, number)
            except h2.exceptions.ProtocolError:
                return  # the connection or the stream has ended
            self.soon()

    def soon(self) -> None:
        """Send what h2 has to say at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self.worker.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what h2 has to say."""
        self._flushing = False
        data = self.h2.data_to_send()
        if data and not self.closed:
            self.worker.counters[Field.BYTES_OUT] += len(data)
            self.transport.write(data)

    def stream_over(self, number: int) -> None:
        """A stream has ended."""
        self.streams.pop(number, None)
        if not self.streams:
            self._idle_deadline = self.worker.now + self.worker.timeouts.keep_alive
            if self.leaving:
                self.flush()
                self.transport.close()


_HANDLERS: dict[type[h2.events.Event], Callable[[Http2Connection, object], None]] = {
    h2.events.RequestReceived: Http2Connection._request,  # type: ignore[dict-item]
    h2.events.DataReceived: Http2Connection._data,  # type: ignore[dict-item]
    h2.events.StreamEnded: Http2Connection._ended,  # type: ignore[dict-item]
    h2.events.StreamReset: Http2Connection._reset,  # type: ignore[dict-item]
    h2.events.WindowUpdated: Http2Connection._window,  # type: ignore[dict-item]
    h2.events.RemoteSettingsChanged: Http2Connection._settings,  # type: ignore[dict-item]
    h2.events.PingReceived: Http2Connection._noise,  # type: ignore[dict-item]
    h2.events.PriorityUpdated: Http2Connection._noise,  # type: ignore[dict-item]
    h2.events.UnknownFrameReceived: Http2Connection._noise,  # type: ignore[dict-item]
    h2.events.ConnectionTerminated: Http2Connection._closed,  # type: ignore[dict-item]
}


class Http2Stream(Exchange):
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
        "trailers",
        "paused_server",
        "upgrading",
        "early",
        "tunnelled",
        "received_bytes",
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
        self.queue: list[bytes] = []  # of the response, waiting for the client's window
        self.queued = 0
        self.ending = False  # nothing more will be put in the queue
        self.ended = False  # the client knows
        self.trailers: list[tuple[bytes, bytes]] = []
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
            if head.content_length > listener.body_bytes > 0:
                raise Refused(413, "body_bytes")
        except Refused as refused:
            self.refuse(refused)
            return
        self.method = head.method
        self.chunked = head.chunked
        self.upgrading = head.fields is not None and bool(head.fields.upgrade)
        self.body_done = ended or self.upgrading
        self.outgoing = outgoing
        self.replayable = self.body_done
        if not self.body_done:
            self.deadline = self.worker.now + self.worker.timeouts.client
        self.send()

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
        self.unacknowledged += length
        self.deadline = self.worker.now + self.worker.timeouts.client
        if data:
            self._forward(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        self.update_reading()

    def request_ended(self) -> None:
        """The client has said all."""
        if self.tunnelled is not None:
            self.tunnelled.ended()
        elif self.upgrading:
            self.eof = True
        elif self.busy and not self.body_done:
            self.body_done = True
            self.deadline = math.inf
            if self.chunked:
                self._forward(b"0\r\n\r\n")
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

    def endpoints(self) -> tuple[Endpoint | None, Endpoint | None]:
        transport = self.connection.transport
        return self.connection.peer or endpoint(transport, "peername"), endpoint(transport, "sockname")

    def refuse(self, refused: Refused) -> None:
        """Answer a request that is not passed on."""
        self.worker.count_refusal(refused)
        self.leave_server()
        if self.response_started:
            self.done(abort=True)
        else:
            self.fail(refused.status)

    # The response

    def write_head(self, head: ResponseHead, body: bytes | memoryview) -> None:
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
        raw = error_response(status, False)
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
        wanted = self.queued > _QUEUE or self.connection.write_paused
        if server is not None and wanted != self.paused_server:
            self.paused_server = wanted
            if wanted:
                server.deadline = math.inf
                server.pause_reading()
            else:
                server.deadline = self.worker.now + self.worker.timeouts.server
                server.resume_reading()

    # Ends

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
        Tunnel(self.worker, self, server, self.worker.timeouts.tunnel).start(early, rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """The tunnel has ended on both sides."""
        self.connection.stream_over(self.number)


class StreamTransport(asyncio.Transport):
    """A stream as one end of a tunnel."""

    def __init__(self, stream: Http2Stream) -> None:
        super().__init__()
        self._stream = stream
        self._protocol: asyncio.Protocol | None = None
        self._paused = False  # the tunnel doesn't want more from the client
        self._full = False  # the tunnel was told not to write
        self._closing = False
        self._lost = False

    # From the stream

    def received(self, data: bytes, length: int) -> None:
        stream = self._stream
        if self._protocol is not None and data:
            self._protocol.data_received(data)
        if self._paused:
            stream.unacknowledged += length
        else:
            stream.connection.acknowledge(stream.number, length)

    def ended(self) -> None:
        if self._protocol is not None:
            self._protocol.eof_received()

    def pushed(self) -> None:
        """Some of what was written has left."""
        full = self._stream.queued > _QUEUE
        if full != self._full and self._protocol is not None:
            self._full = full
            if full:
                self._protocol.pause_writing()
            else:
                self._protocol.resume_writing()

    def lost(self) -> None:
        """The stream is over."""
        if not self._lost:
            self._lost = self._closing = True
            if self._protocol is not None:
                self._stream.worker.loop.call_soon(self._protocol.connection_lost, None)

    # For the tunnel

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._stream.write(bytes(data))

    def can_write_eof(self) -> bool:
        return False  # END_STREAM is sent when both directions are done

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        stream = self._stream
        length, stream.unacknowledged = stream.unacknowledged, 0
        stream.connection.acknowledge(stream.number, length)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._stream.ending = True
            self._stream.push()
            self.lost()

    def abort(self) -> None:
        if not self._lost:
            self._stream.abandon(h2.errors.ErrorCodes.CANCEL)
