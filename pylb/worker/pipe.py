"""A connection as a pipe: what a codec turns its transport into when bytes are to be relayed as they are.

Floor: above the vocabulary, below both sides, which use it. Knows no requests.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pylb.scoreboard import Field
from pylb.worker.core import Core, Unsent
from pylb.worker.guard import guarded
from pylb.worker.sides import FromPipe, Pipe

# Plain integers: an enum member costs a lookup and an __index__ call each time.
_BYTES_IN = int(Field.BYTES_IN)
_BYTES_OUT = int(Field.BYTES_OUT)


class Owner(Protocol):
    """The codec whose connection it was; it is told of the connection's end."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""

    def cut_off(self) -> None:
        """End the connection at once, whatever state it is in."""


class ConnectionPipe(asyncio.Protocol, Pipe, Unsent):
    """Takes over a transport.

    Args:
        early: bytes that have come and that the codec has not passed on; it has counted them.
        eof: whether the peer has said that nothing more comes.
        full: whether more waits for the peer than should.
        rest: bytes that are to be sent to the peer first, and are counted already.
        owner: of a client's connection, told when that has ended, after the tunnel was. What is read from a
            client and written to it is counted (BYTES_IN, BYTES_OUT).
    """

    __slots__ = (
        *("_core", "_transport", "_early", "_eof", "_full", "_owner", "_listener", "_paused", "_gone"),
        *("_trail", "_trailed", "_detached"),
    )

    def __init__(
        self,
        core: Core,
        transport: asyncio.Transport,
        early: bytes = b"",
        eof: bool = False,
        owner: Owner | None = None,
        full: bool = False,
        rest: bytes = b"",
    ) -> None:
        self._core = core
        self._transport = transport
        self._early = early
        self._eof = eof
        self._full = full
        self._owner = owner
        self._listener: FromPipe | None = None
        self._paused = False  # as the listener wants it
        self._gone: list[Exception | None] = []  # the connection's end, if before `start`
        # What was written last, as far as it may not have left: an event loop doesn't give it back.
        self._trail: deque[bytes] | None = None
        self._trailed = 0  # bytes
        self._detached: Callable[[bytes], None] | None = None
        transport.set_protocol(self)
        if rest:
            transport.write(rest)
            self._follow(rest, transport.get_write_buffer_size())

    # As a pipe

    def start(self, listener: FromPipe) -> None:
        self._listener = listener
        # First, since what is told below may make the listener pause it again. It may have done so already,
        # where the other end of its tunnel is full.
        if not self._paused:
            self._transport.resume_reading()
        if self._full:
            listener.full()
        early, self._early = self._early, b""
        if early:
            listener.came(early)
        if self._eof and not listener.ended():
            self.close()
        for exc in self._gone:
            listener.gone(exc is not None)

    def send(self, data: bytes) -> None:
        if self._owner is not None:
            self._core.counters[_BYTES_OUT] += len(data)
        transport = self._transport
        transport.write(data)
        left = transport.get_write_buffer_size()
        if left or self._trailed:
            self._follow(data, left)

    def _follow(self, data: bytes, left: int) -> None:
        """Bytes were written, and so many of all have not left."""
        if not self.movable:
            return
        if self._trail is None:
            self._trail = deque()
        self._trail.append(data)
        self._trailed += len(data)
        self._forget(left)

    def _forget(self, left: int) -> None:
        """Keep no more than what is needed for the last so many bytes."""
        trail = self._trail
        while trail and self._trailed - len(trail[0]) >= left:
            self._trailed -= len(trail.popleft())
        if trail:
            self._core.unsent.add(self)
        else:
            self._trail = None
            self._core.unsent.discard(self)

    def look(self) -> None:
        """Forget what has left meanwhile."""
        self._forget(self._transport.get_write_buffer_size())

    def finish(self) -> bool:
        if not self._transport.can_write_eof():
            return False  # there is no half-close with TLS
        self._transport.write_eof()
        return True

    def close(self) -> None:
        self._transport.close()
        if not self._transport.can_write_eof():  # TLS, whose close waits for its peer
            self._look_again(self._transport.get_write_buffer_size())

    def _look_again(self, left: int) -> None:
        self._core.loop.call_later(self._core.timeouts.client, self._late, left)

    @guarded
    def _late(self, left: int) -> None:
        """The peer may take what is left slowly, but it must take something or let itself be closed."""
        now = self._transport.get_write_buffer_size()
        if now and now != left:
            self._look_again(now)
        else:
            self._transport.abort()

    def abort(self) -> None:
        self._transport.abort()

    def pause(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        self._transport.resume_reading()

    @property
    def closing(self) -> bool:
        return self._transport.is_closing()

    # To another process

    @property
    def movable(self) -> bool:
        return self._transport.can_write_eof()  # without TLS

    def copy(self) -> int | None:
        transport = self._transport
        if not self.movable or self._listener is None or transport.is_closing():
            return None
        if transport.get_write_buffer_size() > self._trailed:
            return None  # something that was written before this was a pipe
        return os.dup(transport.get_extra_info("socket").fileno())

    def detach(self, over: Callable[[bytes], None]) -> None:
        self._detached = over
        # Which closes this process's descriptor without a shutdown. The event loop may write a last time
        # before it says that the connection is lost; what is unsent then stays so.
        self._transport.abort()

    def _let_go(self, over: Callable[[bytes], None]) -> None:
        left = self._transport.get_write_buffer_size()
        trail = b"".join(self._trail or ())
        self._forget(0)
        over(trail[len(trail) - left :])

    # From the event loop

    @guarded
    def data_received(self, data: bytes) -> None:
        if self._owner is not None:
            self._core.counters[_BYTES_IN] += len(data)
        if self._listener is not None:
            self._listener.came(data)
        else:
            self._early += data
            self._transport.pause_reading()

    @guarded
    def eof_received(self) -> bool:
        if self._listener is None:
            self._eof = True
            return self._transport.can_write_eof()
        return self._listener.ended() and self._transport.can_write_eof()

    @guarded
    def pause_writing(self) -> None:
        if self._detached is not None:
            return
        if self._listener is not None:
            self._listener.full()
        else:
            self._full = True

    @guarded
    def resume_writing(self) -> None:
        if self._detached is not None:
            return
        if self._listener is not None:
            self._listener.ready()
        else:
            self._full = False

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        if self._detached is not None:
            self._let_go(self._detached)
        else:
            self._forget(0)
            if self._listener is not None:
                self._listener.gone(exc is not None)
            else:
                self._gone = [exc]
        if self._owner is not None:
            self._owner.connection_lost(exc)

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own: it costs the connection, and with it the tunnel."""
        if self._listener is not None:
            self._listener.crashed(error)
        else:
            self._core.internal(error)
        if self._owner is not None:
            self._owner.cut_off()
        self._transport.abort()
