"""HTTP/2 towards servers (RFC 9113): a connection that several exchanges share; its streams are server sides.

h2 keeps the protocol's state; this module hands what it says to the streams (`http2stream`).

Floor: server side. Knows nothing of exchanges and clients.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import h2.errors
import h2.events
import h2.exceptions

from pylb.http.frames import towards_server
from pylb.worker import core as core_
from pylb.worker.backend import Server, Shared
from pylb.worker.core import WRITE_BUFFER, Core
from pylb.worker.guard import guarded
from pylb.worker.server.http2stream import Http2ServerStream, Streams
from pylb.worker.sides import ServerSide

_WINDOW = 256 * 1024  # bytes that a server may send ahead, per stream
_CONNECTION_WINDOW = 16 << 20
_LAST_STREAM = 2**31 - 1000  # identifiers are used once (RFC 9113 §5.1.1)


class Http2ServerConnection(Streams, core_.ServerConnection, Shared, asyncio.Protocol):
    """A connection to a server."""

    def __init__(self, core: Core, server: Server) -> None:
        self.core = core
        self.server = server
        self.scheme = b"https" if server.context is not None else b"http"
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.closed = False
        self.leaving = False
        """Whether no more streams are to be opened on it."""
        self.write_paused = False
        self.streams: dict[int, Http2ServerStream] = {}
        self.idle_until = math.inf
        self._flushing = False
        limits = core.limits
        self.h2 = towards_server(limits.header_bytes, limits.header_count, _WINDOW)

    @property
    def free(self) -> bool:
        most = self.h2.remote_settings.max_concurrent_streams
        used_up = self.h2.highest_outbound_stream_id > _LAST_STREAM
        return not (self.closed or self.leaving or used_up) and len(self.streams) < most

    def side(self) -> ServerSide:
        return Http2ServerStream(self)

    def leave(self) -> None:
        self.leaving = True
        self._leave()
        if not self.streams and not self.closed:
            self.transport.close()

    # From the event loop

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        self.core.server_connections.add(self)
        self.idle_until = self.core.now + self.core.timeouts.server_idle
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW - 65535)
        self.flush()

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.core.server_connections.discard(self)
        self._leave()
        for stream in list(self.streams.values()):
            stream.lost()

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own that is no single stream's: it costs the connection."""
        self.core.internal(error)
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
            self.server.failed(self.core, "http2", f"broke the rules of HTTP/2: {error}")
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
        self._leave()
        for number, stream in list(self.streams.items()):
            if number > (event.last_stream_id or 0):
                stream.lost(stale=True)
        if not self.streams:
            self.transport.close()

    def _leave(self) -> None:
        if self in self.server.shared:
            self.server.shared.remove(self)

    # From the process

    def due(self) -> float:
        return self.idle_until

    @guarded
    def expire(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()  # it does not take what was written
        elif not self.streams:
            self.transport.close()

    # From the streams

    def acknowledge(self, number: int, length: int) -> None:
        if length and not self.closed:
            try:
                self.h2.acknowledge_received_data(length, number)
            except h2.exceptions.ProtocolError:
                return
            self.soon()

    def soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.core.loop.call_soon(self.flush)

    @guarded
    def flush(self) -> None:
        """Send what h2 has to say."""
        self._flushing = False
        data = self.h2.data_to_send()
        if data and not self.closed:
            self.transport.write(data)

    def stream_begun(self, stream: Http2ServerStream) -> None:
        self.streams[stream.number] = stream
        self.idle_until = math.inf
        self.soon()

    def stream_over(self, number: int) -> None:
        self.streams.pop(number, None)
        if not self.streams:
            self.idle_until = self.core.now + self.core.timeouts.server_idle
            if self.leaving and not self.closed:
                self.flush()
                self.transport.close()


_HANDLERS: dict[type[h2.events.Event], Callable[[Http2ServerStream, object], None]] = {
    h2.events.ResponseReceived: Http2ServerStream.response,  # type: ignore[dict-item]
    h2.events.InformationalResponseReceived: Http2ServerStream.interim,  # type: ignore[dict-item]
    h2.events.DataReceived: Http2ServerStream.data,  # type: ignore[dict-item]
    h2.events.TrailersReceived: Http2ServerStream.trailers,  # type: ignore[dict-item]
    h2.events.StreamEnded: Http2ServerStream.finished,  # type: ignore[dict-item]
    h2.events.StreamReset: Http2ServerStream.reset,  # type: ignore[dict-item]
    h2.events.WindowUpdated: lambda stream, event: stream.push(),
}
