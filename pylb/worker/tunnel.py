"""A tunnel: drives two pipes, byte for byte, after an upgrade and in TCP mode.

Each direction ends on its own (half-close), is stopped while its receiver doesn't read, and both end when
nothing has moved in either for ``timeouts.tunnel``. The frames of a WebSocket are followed, so that both
sides can be sent a Close frame when it must be cut.

A tunnel between two connections without TLS can be let go of (`Tunnel.detach`): what is left are two
descriptors and what is known of each direction, with which another process goes on (`Tunnel.go_on`).

Floor: below the exchange, which makes it and is called when it is over. Knows pipes, and neither codecs nor
requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pylb.http.websocket import GOING_AWAY, Frames, close_frame
from pylb.scoreboard import Field
from pylb.worker.core import Core, Tunnelled
from pylb.worker.guard import guarded
from pylb.worker.reasons import Reason
from pylb.worker.sides import FromPipe, Pipe


@dataclass(slots=True)
class Half:
    """What must be known of one end of a tunnel to go on with it elsewhere."""

    descriptor: int
    """Of its connection; whoever has this object closes it."""
    rest: bytes
    """What is to be sent to its peer first."""
    came: int
    """How many bytes have come from there."""
    eof: bool
    """Whether nothing more comes from there."""
    frames: tuple[int, bytes, bool] | None
    """How far the frames that come from there were followed, of a WebSocket."""


Halves = tuple[Half, Half]
"""The client's and the server's."""


class Tunnel(Tunnelled):
    """Relays between the client's pipe and the server's.

    Args:
        protocol: what an upgrade has led to; empty in TCP mode.
        over: called once, when both pipes are closed, with why if that was not their wish, and with the bytes
            that came from the client's pipe and from the server's.
        idle: seconds without a byte after which it is closed.
    """

    def __init__(
        self,
        core: Core,
        client: Pipe,
        server: Pipe,
        protocol: bytes,
        over: Callable[[Reason | None, int, int], None],
        idle: float,
    ) -> None:
        self.core = core
        self.idle = idle
        self.deadline = core.now + self.idle
        self.cutting = False
        self.server: object = None
        self.exchange: Any = None
        """Whose request has led to it."""
        self.protocol = protocol
        self._over = over
        self._detached: Callable[[Halves | None], None] | None = None
        self._detaching: list[Half] = []
        self._reason: Reason | None = None
        self._open = 2
        self._told = False
        websocket = protocol.lower() == b"websocket"
        self._near = _End(self, client, websocket)
        self._far = _End(self, server, websocket)
        self._near.other, self._far.other = self._far, self._near

    @guarded
    def start(self) -> None:
        """Relay, first what has come already."""
        self.core.tunnels.add(self)
        self._near.pipe.start(self._near)
        self._far.pipe.start(self._far)
        if self.core.leaving:
            self.core.offer(self)

    @guarded
    def expire(self) -> None:
        self.core.counters[Field.TIMEOUTS] += 1
        self._reason = Reason.TUNNEL_LATE
        self._near.pipe.abort()
        self._far.pipe.abort()

    @guarded
    def down(self) -> None:
        self._reason = Reason.SERVER_DOWN
        self._near.pipe.abort()
        self._far.pipe.abort()

    @guarded
    def cut(self) -> None:
        self.cutting = True
        self._reason = Reason.CUT
        self._near.leave(b"")
        self._far.leave(os.urandom(4))

    # To another process

    @property
    def movable(self) -> bool:
        """Whether another process could go on with it, now or later."""
        return self._open == 2 and self._near.pipe.movable and self._far.pipe.movable

    def detach(self, over: Callable[[Halves | None], None]) -> bool:
        """Let go of both connections without a word to the peers; false where that can't be done now.

        Args:
            over: called later than this call, with what is left, client's end first. None where an error of
                pylb's own has ended the tunnel meanwhile.
        """
        if self._open != 2 or self.cutting or self._reason is not None:
            return False
        halves: list[Half] = []
        for end in (self._near, self._far):
            copy = None
            with suppress(OSError):
                copy = end.pipe.copy()
            if copy is None:
                for half in halves:
                    os.close(half.descriptor)
                return False
            frames = end.frames.state if end.frames is not None else None
            halves.append(Half(copy, b"", end.bytes, end.eof, frames))
        self._detaching = halves
        self._detached = over
        self._open = -2  # nothing that comes now counts
        self.core.tunnels.discard(self)
        left = [2]

        def detached(half: Half, rest: bytes) -> None:
            half.rest = rest
            left[0] -= 1
            if not left[0]:
                self._told = True
                self._detaching = []
                over((halves[0], halves[1]))

        for end, half in zip((self._near, self._far), halves, strict=True):
            end.pipe.detach(partial(detached, half))
        return True

    def go_on(self, halves: Halves, deadline: float) -> None:
        """Be at where another one was that was let go of; before `start`. What is to be sent first, and
        whether something comes, its pipes were told."""
        self.deadline = deadline
        for end, half in zip((self._near, self._far), halves, strict=True):
            end.bytes = half.came
            if half.frames is not None:
                end.frames = Frames(half.frames)

    def ended(self, end: _End, broken: bool) -> None:
        """One of the two pipes is gone; a connection that broke is why the tunnel ends."""
        if broken and self._open == 2 and self._reason is None:
            self._reason = Reason.CLIENT_GONE if end is self._near else Reason.SERVER_GONE
        self._open -= 1
        if not self._open:
            self.core.tunnels.discard(self)
            self._over(self._reason, self._near.bytes, self._far.bytes)
            self._told = True
            self.core.emptier()

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own: it costs both connections."""
        self.core.internal(error)
        self.core.tunnels.discard(self)
        for end in (self._near, self._far):
            try:
                end.pipe.abort()
            except Exception as another:
                self.core.internal(another)
        self._open = -2  # nothing that comes now counts
        for half in self._detaching:
            os.close(half.descriptor)
        self._detaching = []
        if not self._told:
            self._told = True
            try:
                self._over(Reason.INTERNAL, self._near.bytes, self._far.bytes)
                if self._detached is not None:
                    self._detached(None)
            except Exception as another:
                self.core.internal(another)


class _End(FromPipe):
    """One of the two directions: what comes from a pipe goes to the other one."""

    __slots__ = ("tunnel", "pipe", "other", "eof", "bytes", "frames")

    def __init__(self, tunnel: Tunnel, pipe: Pipe, websocket: bool) -> None:
        self.tunnel = tunnel
        self.pipe = pipe
        self.other: _End = self
        self.eof = False
        self.bytes = 0
        """How many have come from here."""
        self.frames = Frames() if websocket else None  # that have come from here

    @guarded
    def came(self, data: bytes) -> None:
        tunnel = self.tunnel
        self.bytes += len(data)
        tunnel.deadline = tunnel.core.now + tunnel.idle
        frames = self.frames
        if frames is not None:
            frames.feed(data)
            if tunnel.cutting:
                if frames.closed and frames.between:
                    self.pipe.close()
                return
        self.other.pipe.send(data)

    def leave(self, mask: bytes) -> None:
        """Close this pipe; a WebSocket's after a Close frame, unless it is within a frame (RFC 6455 §5.5.1).

        Then it is closed when the peer has answered with a Close frame, or when the process ends.

        Args:
            mask: of the Close frame, four bytes towards a server, none towards a client.
        """
        written = self.other.frames  # frames that came by the other pipe were written to this one
        if written is None or not written.between or written.closed or self.other.eof:
            self.pipe.close()
        elif not self.pipe.closing:
            self.pipe.send(close_frame(GOING_AWAY, mask))
            self.pipe.resume()

    @guarded
    def full(self) -> None:
        self.other.pipe.pause()

    @guarded
    def ready(self) -> None:
        self.tunnel.deadline = self.tunnel.core.now + self.tunnel.idle
        self.other.pipe.resume()

    def ended(self) -> bool:
        try:
            return self._ended()
        except Exception as error:
            self.crashed(error)
            return False

    def _ended(self) -> bool:
        self.eof = True
        if self.tunnel.cutting:
            return False
        other = self.other
        if other.eof or other.pipe.closing or not other.pipe.finish():
            # Both directions are done, or there is no half-close: what was sent still leaves.
            other.pipe.close()
            return False
        return True

    @guarded
    def gone(self, broken: bool) -> None:
        if self.tunnel.cutting:
            pass  # `leave` has both closed, each in its way
        elif broken:
            self.other.pipe.abort()
        else:
            self.other.pipe.close()
        self.tunnel.ended(self, broken)

    def crashed(self, error: Exception) -> None:
        self.tunnel.crashed(error)
