"""A server's pool: its unused connections, whom each may serve next, and how many there may be.

A connection in the pool is anybody's, by the rule of ``pool.reuse``. One that has been a client's in person
(its server asked for NTLM or Negotiate, a PROXY header names the client, or the rule is ``never``) is that
client's *own*: it waits with what is known of the client, is counted here, and ends with it.

Floor: below the backend. Knows a server side's interface, and neither requests nor how connections are made.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from pylb.config.model import Pool as PoolConfig
from pylb.worker.sides import ServerSide

UNBOUNDED = 1 << 62


class Pooled(ServerSide):
    """A server side that serves several requests, one after the other."""

    __slots__ = ()

    idle_until: float = math.inf
    """When it is closed, if it is unused until then, on the worker's clock."""
    uses: int = 0
    """How many requests it has served."""

    @abstractmethod
    def expire(self) -> None:
        """Its time is over: close it."""


class Shared(ABC):
    """A connection that can serve several requests at a time."""

    @property
    @abstractmethod
    def free(self) -> bool:
        """Whether one more request may begin on it."""

    @abstractmethod
    def side(self) -> ServerSide:
        """A server side for one more request."""

    @abstractmethod
    async def tunnel(self, seconds: float) -> ServerSide | None:
        """A server side for a request that asks for a WebSocket; None where the server takes none on it.

        Raises:
            TimeoutError: within ``seconds`` it has not said whether it does.
            ConnectionError: the connection has ended.
        """

    @abstractmethod
    def leave(self) -> None:
        """No further request is to begin on it, and it closes when the last one is over."""


class Pool:
    """The unused connections to one server.

    Args:
        seconds: how long one is kept (``timeouts.server_idle``).
    """

    __slots__ = ("idle", "own", "seconds", "most_idle", "most", "age", "requests", "reuse", "shares")

    def __init__(self, config: PoolConfig, seconds: float) -> None:
        self.idle: dict[Pooled, None] = {}
        """Anybody's, in the order of their last use. A dictionary, so that each can leave at once."""
        self.own: dict[Pooled, None] = {}
        """Those that wait for one client, likewise."""
        self.seconds = seconds
        self.most_idle = config.idle or UNBOUNDED
        self.most = config.connections
        self.age = config.age
        self.requests = config.requests or UNBOUNDED
        self.reuse = config.reuse
        self.shares = config.reuse != "never"
        """Whether a connection may serve several clients."""

    # Out of it

    def take(self, now: float) -> Pooled | None:
        """The one that was used last, which the server is the least likely to be closing; None if it is too
        late for all."""
        idle = self.idle
        while idle:
            side, _ = idle.popitem()
            if side.idle_until >= now:
                return side
            side.expire()
        return None

    def take_for_first(self, now: float) -> Pooled | None:
        """One for a request that can't be sent again, and whose client doesn't know of any that went well.

        Should the server be closing it, the request would fail, which a new connection doesn't.
        """
        if self.reuse == "always":
            return self.take(now) if self.idle else None
        if self.reuse == "aggressive":
            for side in reversed(self.idle):
                if side.uses > 1 and side.idle_until >= now:
                    del self.idle[side]
                    return side
        return None

    def leave(self, side: Pooled) -> None:
        """Forget a connection that has ended, or is in use again."""
        self.idle.pop(side, None)
        self.own.pop(side, None)

    # Bounds

    def room(self, busy: int) -> bool:
        """Whether there may be one more connection, if ``busy`` are used with it; an unused one is closed
        for it where there are too many."""
        most = self.most
        if not most or busy + len(self.idle) + len(self.own) <= most:
            return True
        return self.shrink() or busy + len(self.idle) + len(self.own) <= most

    def shrink(self) -> bool:
        """Close the one that was unused for longest; whether there was one."""
        for unused in (self.idle, self.own):
            for side in unused:
                self.leave(side)
                side.expire()
                return True
        return False

    def close(self) -> None:
        """Close all: the server is no longer one."""
        while self.shrink():
            pass
