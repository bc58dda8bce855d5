"""The server side in HTTP/2: one connection per worker and server, its streams in the place of connections.

An exchange sees a stream as it sees an HTTP/1 connection to a server (`server.py`): it gets an HTTP/1.1
request, and gives back heads and bodies.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import h2.config
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from pylb.http.chunked import ChunkError, ChunkScanner
from pylb.http.frames import H2Connection
from pylb.http.response import BadResponse, ResponseHead, read_response
from pylb.http.translate import request_to_http2, response_to_http1, trailers_to_http1, trailers_to_http2
from pylb.worker.guard import guarded, serving
from pylb.worker.server import WRITE_BUFFER

if TYPE_CHECKING:
    from collections.abc import Callable

    from pylb.worker.exchange import HttpExchange
    from pylb.worker.main import Worker
    from pylb.worker.pool import Upstream

_WINDOW = 256 * 1024  # bytes that a server may send ahead, per stream
_CONNECTION_WINDOW = 16 << 20
_LAST_STREAM = 2**31 - 1000  # identifiers are used once (RFC 9113 §5.1.1)
_QUEUE = 128 * 1024  # bytes of a request that wait for the server's window before the client is paused


class Http2Upstream(asyncio.Protocol):
    """A connection to a server."""

    def __init__(self, worker: Worker, upstream: Upstream, scheme: bytes) -> None:
        self.worker = worker
        self.upstream = upstream
        self.scheme = scheme
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.closed = False
        self.leaving = False
        self.write_paused = False
        self.streams: dict[int, Http2ServerStream] = {}
        self.deadline = math.inf
        self._flushing = False
        config = h2.config.H2Configuration(client_side=True, header_encoding=False)
        self.h2 = H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
            },
        )
        limits = worker.limits
        self.h2.decoder.max_header_list_size = limits.header_bytes + 32 * limits.header_count

    @property
    def free(self) -> bool:
        """Whether one more stream may be opened."""
        most = self.h2.remote_settings.max_concurrent_streams
        used_up = self.h2.highest_outbound_stream_id > _LAST_STREAM
        return not (self.closed or self.leaving or used_up) and len(self.streams) < most

    # asyncio's side

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        self.worker.server_connections.add(self)
        self.deadline = self.worker.now + self.worker.timeouts.server_idle
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW - 65535)
        self.flush()

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.worker.server_connections.discard(self)
        if self in self.upstream.multiplexed:
            self.upstream.multiplexed.remove(self)
        for stream in list(self.streams.values()):
            stream.lost()

    def crashed(self, error: Exception) -> None:
        """An error of our own that is no single stream's: it costs the connection."""
        self.worker.internal(error)
        self.closed = True  # for new streams; those that it has hear of its end
        if self.transport is not None:
            self.transport.abort()

    @guarded
    def pause_writing(self) -> None:
        self.write_paused = True

    @guarded
    def resume_writing(self) -> None:
        self.write_paused = False
        for stream in list(self.streams.values()):
            stream.push()
        self.flush()

    @guarded
    def data_received(self, data: bytes) -> None:
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.upstream.failed(self.worker, "http2", f"broke the rules of HTTP/2: {error}")
            self.flush()
            self.transport.close()
            return
        for event in events:
            if isinstance(event, h2.events.ConnectionTerminated):
                self._goaway(event)
            elif isinstance(event, h2.events.RemoteSettingsChanged) or (
                isinstance(event, h2.events.WindowUpdated) and not event.stream_id
            ):
                for stream in list(self.streams.values()):
                    stream.push()
            else:
                known = self.streams.get(getattr(event, "stream_id", None) or 0)
                handler = _HANDLERS.get(type(event))
                if known is not None and handler is not None:
                    handler(known, event)
                elif isinstance(event, h2.events.DataReceived):
                    self.acknowledge(event.stream_id or 0, event.flow_controlled_length or 0)
        self.flush()

    def _goaway(self, event: h2.events.ConnectionTerminated) -> None:
        """The server takes no more streams, and has not looked at those above the last one."""
        self.leaving = True
        if self in self.upstream.multiplexed:
            self.upstream.multiplexed.remove(self)
        for number, stream in list(self.streams.items()):
            if number > (event.last_stream_id or 0):
                stream.reused = True  # safe to send again, as on a connection that had gone stale
                stream.lost()
        if not self.streams:
            self.transport.close()

    # For streams and the worker

    @guarded
    def expire(self) -> None:
        """Unused for too long."""
        if self.transport.is_closing():
            self.transport.abort()  # it does not take what was written
        elif not self.streams:
            self.transport.close()

    def acknowledge(self, number: int, length: int) -> None:
        """Let the server send so much more."""
        if length and not self.closed:
            try:
                self.h2.acknowledge_received_data(length, number)
            except h2.exceptions.ProtocolError:
                return
            self.soon()

    def soon(self) -> None:
        """Send what h2 has to say at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self.worker.loop.call_soon(self.flush)

    @guarded
    def flush(self) -> None:
        """Send what h2 has to say."""
        self._flushing = False
        data = self.h2.data_to_send()
        if data and not self.closed:
            self.transport.write(data)

    def stream_over(self, number: int) -> None:
        """A stream has ended."""
        self.streams.pop(number, None)
        if not self.streams:
            self.deadline = self.worker.now + self.worker.timeouts.server_idle
            if self.leaving and not self.closed:
                self.flush()
                self.transport.close()


class Http2ServerStream:
    """One request to a server; an exchange uses it as a `ServerConnection`."""

    def __init__(self, connection: Http2Upstream) -> None:
        self.connection = connection
        self.worker = connection.worker
        self.upstream = connection.upstream
        self.number = 0
        self.client: HttpExchange | None = None
        self.head: ResponseHead = None  # type: ignore[assignment]  # set before any use
        self.deadline = math.inf
        self.closed = False
        self.reused = False
        self.write_paused = False
        self.buffer = b""
        self._chunks: ChunkScanner | None = None
        self._left = 0  # bytes of a request body of known length still to come
        self._queue: list[bytes] = []
        self._queued = 0
        self._request_ended = False
        self._paused = False
        self._unacknowledged = 0
        self._came = 0  # bytes of the response's body
        self._ended = False

    # The request

    def begin(self, client: HttpExchange, request: bytes) -> None:
        """Send a request: an HTTP/1.1 head and what there is of its body."""
        self.client = client
        self.deadline = self.worker.now + self.worker.timeouts.server
        end = request.index(b"\r\n\r\n") + 4
        headers = request_to_http2(request[:end], self.connection.scheme)
        fields = dict(headers)
        length = int(fields.get(b"content-length", b"0"))
        chunked = b"\r\ntransfer-encoding:" in request[:end].lower()
        if chunked:
            self._chunks = ChunkScanner()
        self._left = length
        connection = self.connection
        try:
            self.number = connection.h2.get_next_available_stream_id()
            ended = not chunked and not length
            connection.h2.send_headers(self.number, headers, end_stream=ended)
        except h2.exceptions.H2Error as error:
            self.upstream.failed(self.worker, "stream", f"HTTP/2: {error}")
            self.closed = True
            client.server_failed(502)
            return
        self._request_ended = self._ended = ended
        connection.streams[self.number] = self
        connection.deadline = math.inf
        self.worker.server_connections.add(self)
        connection.soon()
        if end < len(request):
            self.write(request[end:])

    def write(self, data: bytes) -> None:
        """A piece of the request's body, framed as HTTP/1.1 frames it."""
        if self._chunks is not None:
            payload: list[bytes] = []
            try:
                self._chunks.feed(data, payload)
            except ChunkError:
                return  # the client side has checked it
            self._queue += payload
            self._queued += sum(map(len, payload))
            self._request_ended = self._chunks.done
        else:
            self._queue.append(data)
            self._queued += len(data)
            self._left -= len(data)
            self._request_ended = self._left <= 0
        self.push()

    @serving
    def push(self) -> None:
        """Send of the queue what the server's window and the connection take."""
        connection = self.connection
        if self.closed or self._ended:
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
            if self._request_ended and not self._queue:
                self._ended = True
                trailers = trailers_to_http2(self._chunks.trailers) if self._chunks is not None else []
                if trailers:
                    connection.h2.send_headers(self.number, trailers, end_stream=True)
                else:
                    connection.h2.end_stream(self.number)
        except h2.exceptions.H2Error:
            return  # the stream has ended; the event for it is on its way
        connection.soon()
        paused = self._queued > _QUEUE
        if paused != self.write_paused:
            self.write_paused = paused
            if self.client is not None:
                self.client.update_reading()

    # The response

    @serving
    def _response(self, event: h2.events.ResponseReceived) -> None:
        client = self.client
        if client is None:
            return
        self.deadline = self.worker.now + self.worker.timeouts.server
        ended = event.stream_ended is not None
        try:
            chunk = not (client.dechunk and client.plain)
            raw = response_to_http1(event.headers or [], ended, chunk)
            head = self.head = read_response(raw, client.method == b"HEAD")
        except (BadResponse, ValueError) as error:
            self._bad(client, str(error))
            return
        client.response_started = True
        if head.chunked and client.dechunk:
            client.before_open_end()
        client.write_head(head, b"")

    @serving
    def _interim(self, event: h2.events.InformationalResponseReceived) -> None:
        client = self.client
        if client is None:
            return
        try:
            head = read_response(response_to_http1(event.headers or [], True, False), False)
            if head.status == 101:
                raise BadResponse("101 in HTTP/2")
        except (BadResponse, ValueError) as error:
            self._bad(client, str(error))
            return
        client.write_interim(head)

    @serving
    def _data(self, event: h2.events.DataReceived) -> None:
        client = self.client
        length = event.flow_controlled_length or 0
        if client is None or not client.response_started:
            self.connection.acknowledge(self.number, length)
            return
        self.deadline = self.worker.now + self.worker.timeouts.server
        data = event.data or b""
        self._came += len(data)
        if self._came > self.head.content_length >= 0:
            self.connection.acknowledge(self.number, length)
            self._bad(client, "more than its length")
            return
        if data:
            chunked = self.head.chunked and not client.dechunk
            client.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if self._paused:
            self._unacknowledged += length
        else:
            self.connection.acknowledge(self.number, length)

    @serving
    def _trailers(self, event: h2.events.TrailersReceived) -> None:
        if self.client is not None:
            self.client.write_trailers(trailers_to_http1(event.headers or []))

    @serving
    def _finished(self, event: h2.events.StreamEnded) -> None:
        client = self.client
        if client is None:
            return
        if not client.response_started:
            self.lost()
            return
        if self._came < self.head.content_length:
            self._bad(client, "less than its length")
            return
        if self.head.chunked and not client.dechunk:
            client.write(b"0\r\n" + b"".join(line + b"\r\n" for line in client.trailer_lines) + b"\r\n")
        client.response_done(True)

    @serving
    def _reset(self, event: h2.events.StreamReset) -> None:
        self.reused = event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
        if event.error_code == h2.errors.ErrorCodes.NO_ERROR and self.client is not None:
            return  # an answer before the end of the request; the stream has ended on its own
        self.lost()

    def _bad(self, client: HttpExchange, reason: str) -> None:
        """The server said something that must not be passed on."""
        self.upstream.failed(self.worker, "response", f"bad response: {reason}")
        self.abort()
        client.server_failed(502)

    @serving
    def lost(self) -> None:
        """The stream or its connection is gone."""
        client = self.client
        self._forget()
        if client is not None:
            client.server_lost()

    # As a `ServerConnection`

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        length, self._unacknowledged = self._unacknowledged, 0
        self.connection.acknowledge(self.number, length)

    def release(self) -> None:
        """The exchange is over."""
        self._forget()

    def abort(self) -> None:
        """Let go, whatever the state."""
        if not self.closed:
            try:
                self.connection.h2.reset_stream(self.number, h2.errors.ErrorCodes.CANCEL)
                self.connection.soon()
            except h2.exceptions.H2Error:
                pass
        self._forget()

    def _forget(self) -> None:
        self.client = None
        self.deadline = math.inf
        if not self.closed:
            self.closed = True
            self.worker.server_connections.discard(self)
            self.connection.acknowledge(self.number, self._unacknowledged)
            self.connection.stream_over(self.number)

    @serving
    def expire(self) -> None:
        """The deadline has passed."""
        client = self.client
        self.abort()
        if client is not None:
            self.upstream.failed(self.worker, "late", "no answer in time (timeouts.server)")
            client.server_failed(504)

    def crashed(self, error: Exception, client: HttpExchange | None) -> None:
        """An error of our own: it costs this stream, and the request that it worked for."""
        connection = self.connection
        self.client = None
        self.deadline = math.inf
        self.closed = True
        self.worker.server_connections.discard(self)
        connection.streams.pop(self.number, None)
        try:
            connection.h2.reset_stream(self.number, h2.errors.ErrorCodes.CANCEL)
            connection.acknowledge(self.number, self._unacknowledged)
            connection.stream_over(self.number)
        except h2.exceptions.H2Error:
            pass
        except Exception as another:
            connection.crashed(another)
        if client is not None:
            client.crashed(error)
        else:
            self.worker.internal(error)


_HANDLERS: dict[type[h2.events.Event], Callable[[Http2ServerStream, object], None]] = {
    h2.events.ResponseReceived: Http2ServerStream._response,  # type: ignore[dict-item]
    h2.events.InformationalResponseReceived: Http2ServerStream._interim,  # type: ignore[dict-item]
    h2.events.DataReceived: Http2ServerStream._data,  # type: ignore[dict-item]
    h2.events.TrailersReceived: Http2ServerStream._trailers,  # type: ignore[dict-item]
    h2.events.StreamEnded: Http2ServerStream._finished,  # type: ignore[dict-item]
    h2.events.StreamReset: Http2ServerStream._reset,  # type: ignore[dict-item]
    h2.events.WindowUpdated: lambda stream, event: stream.push(),
}
