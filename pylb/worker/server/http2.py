"""HTTP/2 towards servers (RFC 9113): a connection that several exchanges share; its streams are server sides.

`pylb.http2` keeps the protocol's state and tells the streams (`http2stream`) what comes. What comes is given
back to the connection's window at once, and to a stream's when its client takes it: so a client that doesn't
read holds up its own stream, and no other.

Floor: server side. Knows nothing of exchanges and clients.
"""

from __future__ import annotations

import asyncio
import math

from pylb.http2 import frames
from pylb.http2.codes import Code, Fault, Setting
from pylb.http2.connection import Connection
from pylb.http2.decode import Section
from pylb.http2.stream import Stream
from pylb.worker import core as core_
from pylb.worker.backend import Server
from pylb.worker.core import WRITE_BUFFER, Core
from pylb.worker.guard import guarded
from pylb.worker.pool import Shared
from pylb.worker.server.http2stream import SPARE, Http2ServerStream, Streams
from pylb.worker.server.http2tunnel import Http2ServerTunnel
from pylb.worker.sides import ServerSide

_CONNECTION_WINDOW = 16 << 20  # bytes that a server may send ahead on all streams, once it has sent so much
_LAST_STREAM = 2**31 - 1000  # identifiers are used once (RFC 9113 §5.1.1)
_AT_FIRST = 100  # streams until the server has said how many it takes (§6.5.2)
_SILENCE = (
    1.0  # seconds without a byte after which a request that isn't answered makes the connection doubtful
)
_PROBE = b"pylb?pyl"


class Http2ServerConnection(Connection, Streams, core_.ServerConnection, Shared, asyncio.Protocol):
    """A connection to a server."""

    def __init__(self, core: Core, server: Server) -> None:
        limits = core.limits
        most = limits.header_bytes + 32 * limits.header_count
        settings = {Setting.ENABLE_PUSH: 0, Setting.MAX_HEADER_LIST_SIZE: limits.header_bytes}
        super().__init__(True, most, settings, _CONNECTION_WINDOW)
        self.core = core
        self.server = server
        self.scheme = b"https" if server.context is not None else b"http"
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self.closed = False
        self.leaving = False
        """Whether no more streams are to be opened on it."""
        self.spare: list[Http2ServerStream] = []
        self.peer_streams = _AT_FIRST
        self.idle_until = math.inf
        self._heard = 0.0  # when something has come last
        self._probing = math.inf  # until when a PING must be answered
        self._quiet = core.timeouts.http2_ping or math.inf  # seconds of silence before one
        self._begun = 0.0  # when there was a stream again, after there was none; followed only with pings
        self._flushing = False
        self._awaited: asyncio.Future[None] | None = None  # for the first SETTINGS

    @property
    def free(self) -> bool:
        if self.closed or self.leaving or self._probing < math.inf or self.next > _LAST_STREAM:
            return False
        return len(self.streams) < self.peer_streams

    def side(self) -> ServerSide:
        spare = self.spare
        return spare.pop() if spare else Http2ServerStream(self)

    async def tunnel(self, seconds: float) -> ServerSide | None:
        if not self._met and not self.closed:
            if self._awaited is None:
                self._awaited = self.core.loop.create_future()
            await asyncio.wait((self._awaited,), timeout=seconds)
            if not self._met and not self.closed:
                raise TimeoutError
        if self.closed:
            raise ConnectionResetError("closed before its first SETTINGS")
        return Http2ServerTunnel(self) if self.peer_connects else None

    def _settled(self) -> None:
        """Whoever waits for the first SETTINGS need not any more."""
        waiting, self._awaited = self._awaited, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

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
        self._heard = self.core.now
        self.idle_until = self.core.now + self.core.timeouts.server_idle
        self.flush()

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.core.server_connections.discard(self)
        self._leave()
        self._settled()
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
        self.pump()
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self.over:
            return  # it closes; what still comes is dropped
        self._heard = self.core.now
        try:
            self.receive(data)
        except Fault as fault:
            self._broken(fault)
        except Exception as error:  # as `guarded` does
            self.crashed(error)

    @guarded
    def _broken(self, fault: Fault) -> None:
        """The server has broken a rule of the connection."""
        self.server.failed(self.core, "http2", f"broke the rules of HTTP/2: {fault}")
        self.out.append(frames.goaway(0, fault.code))
        self.flush()
        self.transport.close()

    # From the protocol

    def now(self) -> float:
        return self.core.loop.time()

    def opened(self, number: int, section: Section, ended: bool, body: bytes = b"") -> None:
        raise Fault(Code.PROTOCOL_ERROR, "a server opens no streams")

    def failed(self, number: int, error: Exception) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            stream.crashed(error, stream.exchange)
        else:
            self.crashed(error)

    def went_away(self, last: int, code: int) -> None:
        """The server takes no more streams, and has not looked at those above the last one."""
        self.leaving = True
        self._leave()
        for number, stream in list(self.streams.items()):
            if number > last:
                stream.lost(unseen=True)
        if not self.streams:
            self.transport.close()

    def settings_came(self) -> None:
        self._settled()

    def pong(self, payload: bytes) -> None:
        if payload == _PROBE:
            self._probing = math.inf

    def _leave(self) -> None:
        if self in self.server.shared:
            self.server.shared.remove(self)

    # From the process

    def due(self) -> float:
        if self._quiet == math.inf or not self.streams or self._probing < math.inf:
            return min(self.idle_until, self._probing)
        return min(self.idle_until, max(self._heard, self._begun) + self._quiet)

    @guarded
    def expire(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()  # it does not take what was written
        elif self._probing <= self.core.now:
            self._probing = self._heard + self.core.timeouts.connect
            if self._probing <= self.core.now:  # nothing at all has come, be it the answer or not
                self._leave()
                self.transport.abort()
        elif not self.streams:
            self.transport.close()
        elif max(self._heard, self._begun) + self._quiet <= self.core.now:
            self._probe()

    # From the streams

    def soon(self) -> None:
        if not self._flushing:
            self.core.flush_soon(self)
            self._flushing = True

    @guarded
    def flush(self) -> None:
        self._flushing = False
        out = self.out
        if out and not self.closed:
            data = b"".join(out)
            out.clear()
            self.transport.write(data)

    def stream_begun(self) -> None:
        self.idle_until = math.inf
        if self._quiet < math.inf and not self.streams:
            self._begun = self.core.now

    def doubt(self) -> None:
        core = self.core
        if not (self.closed or self._probing < math.inf or core.now - self._heard < _SILENCE):
            self._probe()

    def _probe(self) -> None:
        """Ask whether the server is there."""
        self._probing = self.core.now + self.core.timeouts.connect
        self.out.append(frames.ping(_PROBE, False))
        self.soon()

    def forget(self, stream: Stream, reset: bool) -> None:
        super().forget(stream, reset)
        if not self.streams:
            del self.spare[SPARE // 4 :]
            self.idle_until = self.core.now + self.core.timeouts.server_idle
            if self.leaving and not self.closed and not self.over:
                self.flush()
                self.transport.close()
