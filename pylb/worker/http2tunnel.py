"""An HTTP/2 stream as one end of a tunnel (RFC 8441)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h2.errors

if TYPE_CHECKING:
    from pylb.worker.http2stream import Http2Stream

_QUEUE = 128 * 1024  # bytes waiting for the client's window above which the server isn't read


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
