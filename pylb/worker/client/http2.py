"""HTTP/2 towards clients (RFC 9113): one connection; its streams are client sides (`http2stream`).

`pylb.http2` keeps the protocol's state and tells the streams what comes. Flow control is passed on both ways:
what a client sends is given back to its window when there is room towards the server, and a server is read
only while the client's window is open.

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
import fcntl
import math
import termios
from array import array
from collections.abc import Callable

from pylb.http.errors import Refused
from pylb.http2 import frames
from pylb.http2.codes import Code, Fault, Setting
from pylb.http2.connection import Connection
from pylb.http2.decode import Section
from pylb.http2.stream import Stream
from pylb.scoreboard import Field
from pylb.worker import core as core_
from pylb.worker.client.http2stream import Http2Stream
from pylb.worker.client.lingering import Lingering
from pylb.worker.client.streams import SPARE, Streams
from pylb.worker.core import Core
from pylb.worker.facts import Client
from pylb.worker.frontend import Bind
from pylb.worker.guard import guarded

MAX_STREAMS = 100
_CONNECTION_WINDOW = 1 << 20  # bytes that a client may send ahead on all streams, once it has sent so much
_WRITE_BUFFER = 128 * 1024  # bytes that wait in the transport: what is in it can't be overtaken
_ANY_STREAM = frames.MOST
_BYTES_IN, _BYTES_OUT = int(Field.BYTES_IN), int(Field.BYTES_OUT)  # an enum member costs a lookup each time
GRACE = 2.0
"""Seconds in which a client reads the first GOAWAY and what it had sent before arrives: a long round trip."""
QUIET = 1.0
"""Seconds without a request after which the next one is not expected at once."""
_PROBE = b"pylb?pyl"
_LONG = 1.0  # seconds from which a stream is long


class Http2Connection(Connection, Streams, core_.ClientConnection, asyncio.Protocol):
    """Reads requests and hands them to streams."""

    def __init__(self, core: Core, bind: Bind, facts: Client) -> None:
        limits = core.limits
        settings = {
            Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_bytes,
            Setting.ENABLE_CONNECT_PROTOCOL: 1,
        }
        # Room for HPACK's 32 bytes of overhead per field.
        most = limits.header_bytes + 32 * limits.header_count
        super().__init__(False, most, settings, _CONNECTION_WINDOW, _CONNECTION_WINDOW)
        self.core = core
        self.bind = bind
        self.facts = facts
        facts.protocol = "HTTP/2"
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.movable = False
        self.closed = False
        self.leaving = False
        self.spare: list[Http2Stream] = []
        self.born = core.now
        self.recall_at = math.inf
        self._idle_deadline = math.inf
        self._idle_since = core.now
        self._due = math.inf  # since when the client is to be asked to come back
        self._announced = math.inf  # when it was asked
        self._farewell = b""  # a GOAWAY that leaves with the next write
        self._unsent = 0  # bytes that weren't taken when last looked at
        self._quiet = core.timeouts.http2_ping or math.inf  # seconds of silence before one, with streams
        self._heard = core.now  # when something has come last; followed only with pings
        self._probing = math.inf  # until when something must come after a PING
        self._last_stream = 0  # that something was done with
        self._flushing = False

    # From the process

    @property
    def busy(self) -> bool:
        return bool(self.streams)

    @property
    def long(self) -> bool:
        since = self.core.now - _LONG
        return any(stream.tunnelled or stream.born < since for stream in self.streams.values())

    def due(self) -> float:
        if not self.streams or self.over or self.transport.is_closing():
            return self._idle_deadline
        due: float = min(stream.due() for stream in self.streams.values())
        if self._quiet == math.inf:
            return due
        return min(due, self._probing if self._probing < math.inf else self._heard + self._quiet)

    @guarded
    def expire(self) -> None:
        """A deadline has passed: that of a stream, or of an idle connection."""
        now = self.core.now
        if self.transport.is_closing() or self.over:
            left = self.unsent
            if left and left != self._unsent:
                self._unsent = left  # taken slowly, but taken
                self._idle_deadline = now + self.core.timeouts.client
            else:
                self.transport.abort()
            return
        if self._probing <= now:
            self.transport.abort()  # it is gone, and its packets' way with it
            return
        if self.streams and self._heard + self._quiet <= now and self._probing == math.inf:
            self._probing = now + self.core.timeouts.connect
            self.out.append(frames.ping(_PROBE, False))
            self.soon()
        late = [stream for stream in self.streams.values() if stream.due() < now]
        for stream in late:
            if not stream.closed:
                self._of(stream, stream.expire)
        if late or self.streams:
            return
        if self._announced == math.inf:
            self._announce()
            self.flush()
        else:
            self._say_goaway(Code.NO_ERROR)
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
        self._farewell = frames.goaway(_ANY_STREAM, Code.NO_ERROR)
        self.soon()

    # From the event loop

    @guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(_WRITE_BUFFER)
        self.core.clients.add(self)
        self._idle_deadline = self.core.now + self.core.timeouts.keep_alive
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
        self.pump()
        for stream in list(self.streams.values()):
            self._of(stream, stream.update)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.core.counters[_BYTES_IN] += len(data)
        if self.over:
            return  # it has to end; what still comes is dropped
        if self._quiet < math.inf:
            self._heard = self.core.now
            self._probing = math.inf
        try:
            self.receive(data)
        except Fault as fault:
            self._refuse(fault)
        except Exception as error:  # as `guarded` does
            self.crashed(error)

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

    def failed(self, number: int, error: Exception) -> None:
        # What is a stream's is that stream's error, all else the connection's.
        (self.streams.get(number) or self).crashed(error)

    @guarded
    def _refuse(self, fault: Fault) -> None:
        """The client has broken a rule of the connection: say so, and read no more."""
        self.core.count_refusal(Refused(400, "http2"))
        self._say_goaway(fault.code)
        for stream in list(self.streams.values()):
            self._of(stream, stream.gone)
        if self.write_paused:
            self.transport.abort()
        elif self.closed or self.transport.is_closing():
            return
        elif self.transport.can_write_eof():
            # A close with unread input resets the connection, and the client might not read why it ended.
            self._idle_deadline = self.core.now + self.core.timeouts.client
            Lingering(self.core, self.transport, True, self)
        else:
            self._close()

    def cut_off(self) -> None:
        """An error of pylb's own while it closes."""
        self.transport.abort()

    def _say_goaway(self, code: int) -> None:
        self.out.append(frames.goaway(self._last_stream, code))
        self.flush()

    # From the protocol

    def now(self) -> float:
        return self.core.loop.time()

    def opened(self, number: int, section: Section, ended: bool, body: bytes = b"") -> None:
        if self.leaving:
            self.refuse(number)
            return
        self._last_stream = number
        spare = self.spare
        stream = spare.pop() if spare else Http2Stream(self)
        stream.begin(number)
        self.streams[number] = stream
        stream.ask(section, ended, body)
        if self.core.now - self._announced > GRACE and not self.leaving:
            self.leaving = True  # the client opens streams all the same: this one was the last
            self._say_goaway(Code.NO_ERROR)

    def went_away(self, last: int, code: int) -> None:
        """The client opens no more streams."""
        if not self.leaving:
            self.leaving = True
            if not self.streams:
                self._close()

    # From the streams

    @property
    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def soon(self) -> None:
        if not self._flushing:
            self.core.flush_soon(self)
            self._flushing = True

    @guarded
    def flush(self) -> None:
        self._flushing = False
        out = self.out
        if self._farewell:
            out.append(self._farewell)
            self._farewell = b""
        if out and not self.closed:
            data = b"".join(out)
            out.clear()
            self.core.counters[_BYTES_OUT] += len(data)
            self.transport.write(data)

    def answered(self, stream: Http2Stream) -> None:
        number = stream.number
        streams = self.streams
        del streams[number]
        self._closed.append(number)
        self.patience.good += 1
        if len(self.spare) < SPARE:
            self.spare.append(stream)
        if not streams or self._due != math.inf or self.core.recalls.open:
            self._fewer()

    def forget(self, stream: Stream, reset: bool) -> None:
        known = self.streams.get(stream.number) is stream
        super().forget(stream, reset)
        if known:
            self._fewer()

    def _fewer(self) -> None:
        """A stream is over: perhaps the connection is so, too."""
        if self.closed or self.over:
            return
        if not self.streams:
            del self.spare[SPARE // 4 :]
            now = self._idle_since = self.core.now
            if self.leaving or now - self._announced > GRACE:
                if not self.leaving:
                    self.leaving = True
                    self._say_goaway(Code.NO_ERROR)
                self.flush()
                self._close()
                return
            self._idle_deadline = min(now + self.core.timeouts.keep_alive, self._announced + GRACE)
        if self._good_moment():
            self._announce()
