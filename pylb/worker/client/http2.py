"""HTTP/2 towards clients (RFC 9113): one connection; its streams are client sides (`http2stream`).

h2 keeps the protocol's state; this module hands what it says to the streams. Flow control is passed on both
ways: what a client sends is acknowledged when there is room towards the server, and a server is read only
while the client's window is open.

How a connection ends (RFC 9113 §6.8). First the client is asked to open no more streams, by a GOAWAY that
names the highest number there is, so that nothing that it has sent meanwhile is refused. When `GRACE` has
passed and no stream is under way, the last GOAWAY follows, and the close. Some clients (Java's, httpx) give
up every stream at any GOAWAY; so the moment of the first one is chosen:

* with the end of the response that leaves no stream, in the same write: who has one request at a time reads
  both before it sends the next one;
* on a connection that is never without streams, with the end of one of them, after `Core.spread`;
* into an idle connection when nothing has come for `QUIET`, and only where the connection has to end: the
  worker leaves, or `timeouts.keep_alive` has passed;
* never while streams are silently under way.

Floor: client side. Knows nothing of servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import termios
from array import array
from collections.abc import Callable

import h2.errors
import h2.events
import h2.exceptions
from hyperframe.frame import GoAwayFrame

from pylb.http.errors import Refused
from pylb.http.flood import Patience
from pylb.http.frames import towards_client
from pylb.http.translate import trailers_to_http1
from pylb.scoreboard import Field
from pylb.worker import core as core_
from pylb.worker.client.http2stream import Http2Stream, Streams
from pylb.worker.core import WRITE_BUFFER, Core
from pylb.worker.facts import Client
from pylb.worker.frontend import Bind
from pylb.worker.guard import guarded

MAX_STREAMS = 100
WINDOW = 256 * 1024  # bytes that a client may send ahead, per stream
_CONNECTION_WINDOW = 1 << 20
_ENHANCE_YOUR_CALM = int(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
_ANY_STREAM = (1 << 31) - 1
GRACE = 2.0
"""Seconds in which a client reads the first GOAWAY and what it had sent before arrives: a long round trip."""
QUIET = 1.0
"""Seconds without a request after which the next one is not expected at once."""
_LONG = 1.0  # seconds from which a stream is long


class Http2Connection(Streams, core_.ClientConnection, asyncio.Protocol):
    """Reads frames and hands them to streams."""

    def __init__(self, core: Core, bind: Bind, facts: Client) -> None:
        self.core = core
        self.bind = bind
        self.facts = facts
        facts.protocol = "HTTP/2"
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.movable = False
        self.closed = False
        self.write_paused = False
        self.leaving = False
        self.streams: dict[int, Http2Stream] = {}
        self.born = core.now
        self.recall_at = math.inf
        self._idle_deadline = math.inf
        self._idle_since = core.now
        self._due = math.inf  # since when the client is to be asked to come back
        self._announced = math.inf  # when it was asked
        self._farewell = b""  # a GOAWAY that leaves with the next write
        self._unsent = 0  # bytes that weren't taken when last looked at
        self._last_stream = 0
        self._flushing = False
        self._patience = Patience()
        limits = core.limits
        self.h2 = towards_client(limits.header_bytes, limits.header_count, MAX_STREAMS, WINDOW)

    # From the process

    @property
    def busy(self) -> bool:
        return bool(self.streams)

    @property
    def long(self) -> bool:
        since = self.core.now - _LONG
        return any(stream.tunnelled or stream.born < since for stream in self.streams.values())

    def due(self) -> float:
        if not self.streams or self.transport.is_closing():
            return self._idle_deadline
        return min(stream.due() for stream in self.streams.values())

    @guarded
    def expire(self) -> None:
        """A deadline has passed: that of a stream, or of an idle connection."""
        now = self.core.now
        if self.transport.is_closing():
            left = self.unsent
            if left and left != self._unsent:
                self._unsent = left  # taken slowly, but taken
                self._idle_deadline = now + self.core.timeouts.client
            else:
                self.transport.abort()
            return
        late = [stream for stream in self.streams.values() if stream.due() < now]
        for stream in late:
            self._of(stream, stream.expire)
        if late or self.streams:
            return
        if self._announced == math.inf:
            self._announce()
            self.flush()
        else:
            self._goaway(0)
            self._close()

    def _close(self) -> None:
        """Close after what was written has gone out, if the client takes it."""
        self._idle_deadline = self.core.now + self.core.timeouts.client
        self.transport.close()

    def lively(self) -> bool:
        """As in `ClientConnection`; a stream is under way, or was one just now."""
        return bool(self.streams) or self._idle_since > self.core.now - 2 * QUIET

    def recall(self) -> None:
        if self._due == math.inf:
            self._due = self.core.now

    @guarded
    def drain(self) -> None:
        self.recall()
        if self.closed or self.leaving or self.streams or self._announced < math.inf:
            return
        quiet = self.core.now - self._idle_since
        if quiet < QUIET:
            self.core.loop.call_later(QUIET - quiet, self.drain)
        else:
            self._announce()
            self.flush()

    def _good_moment(self) -> bool:
        """Whether the client is to be asked with what is about to be written, the end of a response."""
        if self._announced < math.inf or self.leaving:
            return False
        core = self.core
        if self._due == math.inf:
            if not core.recalls.open or any(stream.tunnelled for stream in self.streams.values()):
                return False
            idle = not self.streams and not self._unread()
            return core.recalls.take(self, core.loop.time(), idle)
        return core.now >= self._due + core.spread or (not self.streams and not self._unread())

    def _unread(self) -> bool:
        """Whether the kernel has bytes that were not read yet, most likely the next request."""
        size = array("i", [0])
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, size)
        return bool(size[0])

    def _announce(self) -> None:
        """Ask for no more streams; those that come nevertheless are served, for a while."""
        self._announced = self.core.now
        self._idle_deadline = self._announced + GRACE
        self._farewell = GoAwayFrame(0, last_stream_id=_ANY_STREAM).serialize()
        self.soon()

    # From the event loop

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(WRITE_BUFFER)
        self.core.clients.add(self)
        self._idle_deadline = self.core.now + self.core.timeouts.keep_alive
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW - 65535)
        self.flush()
        if self.core.leaving:
            self.recall()
            self.core.loop.call_later(self.core.spread, self.drain)

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.core.clients.discard(self)
        for stream in list(self.streams.values()):
            self._of(stream, stream.gone)
        self.facts.end()
        self.core.emptier()

    def eof_received(self) -> bool:
        return False

    @guarded
    def pause_writing(self) -> None:
        self.write_paused = True
        for stream in list(self.streams.values()):
            self._of(stream, stream.update)

    @guarded
    def resume_writing(self) -> None:
        self.write_paused = False
        for stream in list(self.streams.values()):
            self._of(stream, stream.push)
        self.flush()

    @guarded
    def data_received(self, data: bytes) -> None:
        self.core.counters[Field.BYTES_IN] += len(data)
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            # Also a header list that is too large, and a flood of CONTINUATION; h2 has written the GOAWAY.
            self._refuse()
            return
        if self.h2.silent:
            count, self.h2.silent = self.h2.silent, 0
            if self._had_enough(self._patience.updates, count):
                return
        for event in events:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                try:
                    handler(self, event)
                except Exception as error:
                    # What is a stream's is that stream's error, all else the connection's.
                    (self.streams.get(getattr(event, "stream_id", None) or 0) or self).crashed(error)
                if self.closed or self.transport.is_closing():
                    return
        self.flush()

    def _of(self, stream: Http2Stream, do: Callable[..., None], *arguments: object) -> None:
        """Call a stream's method; an error there costs that stream alone."""
        try:
            do(*arguments)
        except Exception as error:
            stream.crashed(error)

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own that is no single stream's: it costs the connection."""
        self.core.internal(error)
        self.closed = True
        self.core.clients.discard(self)
        self.transport.abort()
        for stream in list(self.streams.values()):
            self._of(stream, stream.gone)

    def _refuse(self) -> None:
        self.core.count_refusal(Refused(400, "http2"))
        self.flush()
        self._close()

    def _goaway(self, code: int) -> None:
        # By hand: for h2 a connection is over with its GOAWAY, but streams may still be under way.
        self.flush()
        frame = GoAwayFrame(0, last_stream_id=self._last_stream, error_code=code)
        self.transport.write(frame.serialize())

    def _had_enough(self, spend: Callable[..., bool], *count: int) -> bool:
        """Spend of the connection's `Patience`; when it is used up, end the connection and give True."""
        if spend(self.core.loop.time(), *count):
            return False
        self.core.count_refusal(Refused(400, "http2"))
        self._goaway(_ENHANCE_YOUR_CALM)
        self.transport.abort() if self.write_paused else self._close()
        return True

    # Events

    def _request(self, event: h2.events.RequestReceived) -> None:
        number = event.stream_id
        assert number is not None
        if self.leaving and number > self._last_stream:
            with contextlib.suppress(h2.exceptions.H2Error):  # it may have been reset in the same packet
                self.h2.reset_stream(number, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        self._last_stream = max(self._last_stream, number)
        stream = Http2Stream(self, number)
        self.streams[number] = stream
        stream.begin(event.headers or [], event.stream_ended is not None)
        if not self.leaving and self.core.now - self._announced > GRACE:
            self.leaving = True  # the client opens streams all the same: this one was the last
            self._goaway(0)

    def _data(self, event: h2.events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id or 0)
        length = event.flow_controlled_length or 0
        if not event.data and event.stream_ended is None and self._had_enough(self._patience.noise):
            return
        if stream is None:
            self.acknowledge(event.stream_id or 0, length)
        else:
            stream.received(event.data or b"", length)

    def _ended(self, event: h2.events.StreamEnded) -> None:
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            stream.request_ended()

    def _trailers(self, event: h2.events.TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            stream.request_trailers = trailers_to_http1(event.headers or [])

    def _reset(self, event: h2.events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            if self._had_enough(self._patience.reset):
                return
            stream.gone()

    def _window(self, event: h2.events.WindowUpdated) -> None:
        if self._had_enough(self._patience.updates, 1):
            return
        if event.stream_id:
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.push()
        else:
            for stream in list(self.streams.values()):
                self._of(stream, stream.push)

    def _noise(self, event: h2.events.Event) -> None:
        self._had_enough(self._patience.noise)

    def _settings(self, event: h2.events.Event) -> None:
        if not self._had_enough(self._patience.noise):
            for stream in list(self.streams.values()):
                self._of(stream, stream.push)  # the initial window may have grown

    def _closed(self, event: h2.events.Event) -> None:
        self.leaving = True
        if not self.streams:
            self._close()
        else:
            self._had_enough(self._patience.noise)

    # From the streams

    @property
    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def sent(self, size: int) -> None:
        self._patience.sent(size)

    def acknowledge(self, number: int, length: int) -> None:
        if length and not self.closed:
            try:
                self.h2.acknowledge_received_data(length, number)
            except h2.exceptions.ProtocolError:
                return  # the connection or the stream has ended
            self.soon()

    def soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.core.loop.call_soon(self.flush)

    @guarded
    def flush(self) -> None:
        self._flushing = False
        data = self.h2.data_to_send()
        if self._farewell:
            data, self._farewell = data + self._farewell, b""
        if data and not self.closed:
            self.core.counters[Field.BYTES_OUT] += len(data)
            self.transport.write(data)

    def stream_over(self, number: int) -> None:
        self.streams.pop(number, None)
        if self.closed:
            return
        if not self.streams:
            now = self._idle_since = self.core.now
            if self.leaving or now - self._announced > GRACE:
                if not self.leaving:
                    self.leaving = True
                    self._goaway(0)
                self.flush()
                self._close()
                return
            self._idle_deadline = min(now + self.core.timeouts.keep_alive, self._announced + GRACE)
        if self._good_moment():
            self._announce()


_HANDLERS: dict[type[h2.events.Event], Callable[[Http2Connection, object], None]] = {
    h2.events.RequestReceived: Http2Connection._request,  # type: ignore[dict-item]
    h2.events.DataReceived: Http2Connection._data,  # type: ignore[dict-item]
    h2.events.TrailersReceived: Http2Connection._trailers,  # type: ignore[dict-item]
    h2.events.StreamEnded: Http2Connection._ended,  # type: ignore[dict-item]
    h2.events.StreamReset: Http2Connection._reset,  # type: ignore[dict-item]
    h2.events.WindowUpdated: Http2Connection._window,  # type: ignore[dict-item]
    h2.events.RemoteSettingsChanged: Http2Connection._settings,  # type: ignore[dict-item]
    h2.events.PingReceived: Http2Connection._noise,  # type: ignore[dict-item]
    h2.events.PingAckReceived: Http2Connection._noise,  # type: ignore[dict-item]
    h2.events.SettingsAcknowledged: Http2Connection._noise,  # type: ignore[dict-item]
    h2.events.PriorityUpdated: Http2Connection._noise,  # type: ignore[dict-item]
    h2.events.UnknownFrameReceived: Http2Connection._noise,  # type: ignore[dict-item]
    h2.events.ConnectionTerminated: Http2Connection._closed,  # type: ignore[dict-item]
}
