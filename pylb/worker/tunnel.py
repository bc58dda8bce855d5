"""Two connections relayed into each other, byte for byte: after an upgrade, and in TCP mode."""

from __future__ import annotations

import asyncio
import math
import os
from typing import TYPE_CHECKING, TypeAlias

from pylb.http.websocket import GOING_AWAY, Frames, close_frame
from pylb.scoreboard import Field
from pylb.worker.guard import guarded

if TYPE_CHECKING:
    from pylb.worker.client import ClientConnection
    from pylb.worker.http2stream import Http2Stream
    from pylb.worker.main import Worker
    from pylb.worker.server import ServerConnection
    from pylb.worker.tcp import TcpConnection

    Tunnelled: TypeAlias = ClientConnection | TcpConnection | Http2Stream


class Tunnel:
    """Takes over both transports of an exchange.

    Each direction ends on its own (half-close), is stopped while its receiver doesn't read, and
    both end when nothing has moved in either for ``idle`` seconds. Of a WebSocket the frames are followed, so
    that both sides can be told when it must be cut.
    """

    def __init__(
        self,
        worker: Worker,
        client: Tunnelled,
        server: ServerConnection,
        idle: float,
        protocol: bytes = b"",
    ) -> None:
        """``protocol`` is what an upgrade has led to."""
        self.worker = worker
        self.counters = worker.counters
        self.idle = idle
        self.deadline = worker.now + idle
        self._client = client
        self._server_eof = server.eof
        client.deadline = math.inf
        websocket = protocol.lower() == b"websocket"
        self._near = _End(self, client.transport, Field.BYTES_IN, websocket)
        self._far = _End(self, server.detach(), None, websocket)
        self._near.peer, self._far.peer = self._far, self._near
        self._open = 2
        self.cutting = False

    @guarded
    def start(self, from_client: bytes, from_server: bytes) -> None:
        """Relay, first what has come already."""
        self.worker.tunnels.add(self)
        for end, early in ((self._near, from_client), (self._far, from_server)):
            end.transport.set_protocol(end)
            if early:
                end.data_received(early)
            end.transport.resume_reading()
        if self._client.eof:
            self._near.eof_received()
        if self._server_eof:
            self._far.eof_received()

    @guarded
    def expire(self) -> None:
        """Nothing has moved for too long."""
        self.counters[Field.TIMEOUTS] += 1
        self._near.transport.abort()
        self._far.transport.abort()

    @guarded
    def cut(self) -> None:
        """The worker can't wait any longer: say so where that is possible, and close."""
        self.cutting = True
        self._near.leave(b"")
        self._far.leave(os.urandom(4))

    def ended(self) -> None:
        """One of the two connections is gone."""
        self._open -= 1
        if not self._open:
            self.worker.tunnels.discard(self)
            self._client.tunnel_over()
            self._client.connection_lost(None)
            self.worker.client_gone()

    def crashed(self, error: Exception) -> None:
        """An error of our own: it costs both connections."""
        self._open = 0
        self.worker.tunnels.discard(self)
        for end in (self._near, self._far):
            end.transport.abort()
        self._client.crashed(error)
        self._client.cut_off()


class _End(asyncio.Protocol):
    """One of the two connections."""

    __slots__ = ("tunnel", "transport", "peer", "eof", "_field", "_frames")

    def __init__(
        self, tunnel: Tunnel, transport: asyncio.Transport, field: Field | None, websocket: bool
    ) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.peer: _End = self
        self.eof = False
        self._frames = Frames() if websocket else None  # that have come from here
        # Bytes from the client count as in, all others go to it.
        self._field = int(Field.BYTES_OUT if field is None else field)

    @guarded
    def data_received(self, data: bytes) -> None:
        tunnel = self.tunnel
        tunnel.counters[self._field] += len(data)
        tunnel.deadline = tunnel.worker.now + tunnel.idle
        frames = self._frames
        if frames is not None:
            frames.feed(data)
            if tunnel.cutting:
                if frames.closed and frames.between:
                    self.transport.close()
                return
        self.peer.transport.write(data)

    def leave(self, mask: bytes) -> None:
        """Close this connection: a WebSocket with a word, unless it is within a frame (RFC 6455 §5.5.1).

        It is closed when the other side has answered; or when the process ends, which doesn't wait for long.
        """
        written = self.peer._frames  # what has come from there went out here
        if written is None or not written.between or written.closed or self.peer.eof:
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write(close_frame(GOING_AWAY, mask))
            self.transport.resume_reading()

    @guarded
    def pause_writing(self) -> None:
        self.peer.transport.pause_reading()

    @guarded
    def resume_writing(self) -> None:
        self.tunnel.deadline = self.tunnel.worker.now + self.tunnel.idle
        self.peer.transport.resume_reading()

    @guarded
    def eof_received(self) -> bool:
        self.eof = True
        if self.tunnel.cutting:
            return False
        peer = self.peer
        if peer.eof or not peer.transport.can_write_eof():
            # Both directions are done, or (TLS) there is no half-close: what was written still leaves.
            peer.transport.close()
            return False
        if not peer.transport.is_closing():
            peer.transport.write_eof()
        return self.transport.can_write_eof()

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        if self.tunnel.cutting:
            pass  # the other side has a farewell of its own
        elif exc is not None:
            self.peer.transport.abort()
        else:
            self.peer.transport.close()
        self.tunnel.ended()

    def crashed(self, error: Exception) -> None:
        self.tunnel.crashed(error)
