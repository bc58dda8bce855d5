"""What every connection of a worker needs of its process: clock, counters, limits, registries, tasks.

The process makes one `Core` and hands it down. What only the process can do (give a connection to another
worker, stop accepting) it puts here as a function, so that nobody else has to know it.

Floor: beside the vocabulary. Knows no protocol and no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Protocol

from pylb import latency
from pylb.config.logtarget import Target
from pylb.config.model import Limits, Timeouts
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits
from pylb.http.response import BadResponse, ResponseHead
from pylb.log import log
from pylb.net.tcpoptions import Option
from pylb.repeats import Repeats
from pylb.scoreboard import BAD_RESPONSES, REASONS, Field
from pylb.worker.descriptors import Descriptors
from pylb.worker.facts import Client
from pylb.worker.logwriter import LogWriter
from pylb.worker.recall import Recalls

WRITE_BUFFER = 16 * 1024
"""Bytes written and not yet taken by the kernel, per side, above which the other side is not read."""

SPARE = 256
"""Exchanges that are kept for the next requests."""


class ClientConnection(ABC):
    """What the process asks of a client connection, whatever it speaks."""

    __slots__ = ("movable", "recall_at")

    facts: Client
    movable: bool
    """Whether it could be given to another worker between two messages."""
    recall_at: float
    """When its client is asked to connect anew, on the worker's clock; inf: never."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether something is under way on it."""

    @property
    @abstractmethod
    def long(self) -> bool:
        """Whether what is under way has been so for more than a second."""

    @abstractmethod
    def due(self) -> float:
        """By when something must have happened, on the worker's clock; else `expire` is called."""

    @abstractmethod
    def expire(self) -> None:
        """It has not happened in time: answer, or end the connection."""

    @abstractmethod
    def lively(self) -> bool:
        """Whether its client is at work, so that it relieves this worker by connecting to another one."""

    @abstractmethod
    def recall(self) -> None:
        """Ask the client to come back on another connection when there is a good moment for it."""

    @abstractmethod
    def drain(self) -> None:
        """The worker leaves: `recall`, and if nothing comes, end."""


class Flushed(Protocol):
    """A connection that gathers what it writes."""

    def flush(self) -> None:
        """Write it. Raises nothing."""


class ServerConnection(ABC):
    """What the process asks of a connection to a server."""

    __slots__ = ()

    @abstractmethod
    def due(self) -> float:
        """Until when it may be idle; inf while it works for an exchange, which has deadlines of its own."""

    @abstractmethod
    def expire(self) -> None:
        """It was idle for too long."""


class Unsent(ABC):
    """What keeps bytes until they have left."""

    __slots__ = ()

    @abstractmethod
    def look(self) -> None:
        """Forget what has left meanwhile."""


class Tunnelled(ABC):
    """What the process asks of a tunnel."""

    __slots__ = ()

    deadline: float
    server: object
    """Whose the far end is."""

    @abstractmethod
    def expire(self) -> None:
        """Nothing has moved for too long."""

    @abstractmethod
    def down(self) -> None:
        """The server went down, and keeps none of its connections."""

    @abstractmethod
    def cut(self) -> None:
        """The worker can't wait any longer: say so where that is possible, and close."""


class Core:
    """The services and registries that all connections of a worker share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeouts: Timeouts,
        limits: Limits,
        spread: float,
        descriptors: Descriptors,
    ) -> None:
        # Of the process, for its life.
        self.loop = loop
        self.timeouts = timeouts
        self.limits = limits
        self.head_limits = HeadLimits(limits.line_bytes, limits.header_bytes, limits.header_count)
        self.spread = spread
        """Seconds over which clients are asked to connect anew."""
        self.descriptors = descriptors
        self.tcp_options: tuple[Option, ...] = ()
        """Of the sockets that are connected to servers."""
        self.recalls = Recalls(spread)
        self.repeats = Repeats()
        # Counted in lists and written to the scoreboard with each tick: a cell costs several times as much.
        self.counters = [0] * int(Field.END)
        self.times = [0] * latency.WIDTH
        """Response times of requests that are for no backend (`pylb.latency`)."""
        self.now = 0.0
        """The worker's clock (monotonic seconds), as of the last tick."""
        # Registries.
        self.clients: set[ClientConnection] = set()
        self.server_connections: set[ServerConnection] = set()
        self.tunnels: set[Tunnelled] = set()
        self.unsent: set[Unsent] = set()
        """Those that keep bytes which may not have left."""
        self.spare: list[Any] = []
        """Exchanges that are over and serve again; the process sees to it that they don't become too many."""
        self.exchanges: weakref.WeakSet[Any] = weakref.WeakSet()
        """All of them, under way or spare."""
        self.on_tick: list[Callable[[], None]] = []
        """Called with each tick: what was worked out until the next one is old."""
        self.response_heads: dict[str, tuple[bytes, ResponseHead]] = {}
        """By backend, the last head that was read, and what it says: its servers often answer alike, so that
        one connection need not read what another one has, and what they all keep is one object."""
        self.access_logs: dict[Target, LogWriter] = {}
        self.adopting = 0
        """Connections that have a descriptor and aren't in `clients` yet: they begin with TLS or a PROXY
        header, or come from another worker."""
        self.held_by_others = 0
        """Client connections of the other workers, as of the last tick."""
        # The state of the worker.
        self.moves = False
        """Whether connections are to be given to other workers (`offer`)."""
        self.leaving = False
        """Whether the worker has been told to retire."""
        self.stopping = False
        """Whether no worker will take over: connections close."""
        self.announcing: Callable[[], bool] = lambda: self.stopping
        """Whether load balancers before this one should be told to look elsewhere."""
        # What only the process can do.
        self.offer: Callable[[Any], None] = lambda client: None
        """Give a connection that is between two messages, or a tunnel, to another worker, if one is to have
        it."""
        self.pause: Callable[[float], None] = lambda seconds: None
        """Accept nothing until there are fewer connections, and not for so many seconds."""
        self.emptier: Callable[[], None] = lambda: None
        """A client connection or a tunnel has ended."""
        self.free_a_descriptor: Callable[[], None] = lambda: None
        """Close an idle connection to a server, if there is one."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_flush: list[Flushed] = []

    def flush_soon(self, connection: Flushed) -> None:
        """Have a connection write what it has gathered, at the end of this turn of the loop."""
        if not self._to_flush:
            self.loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()

    # Limits

    def full(self) -> bool:
        """Whether there are as many client connections, over all workers, as there may be."""
        limit = self.limits.connections
        return bool(limit) and len(self.clients) + self.held_by_others >= limit

    def held(self) -> int:
        """How many client connections have a descriptor, those included that aren't in `clients` yet."""
        return len(self.clients) + self.adopting

    def recall_at(self, born: float) -> float:
        """When a client that connected at ``born`` (on the worker's clock) is asked to connect anew."""
        age = self.limits.connection_age
        return born + age * random.uniform(0.9, 1.1) if age else math.inf

    # Counters and log

    def count_refusal(self, refused: Refused) -> None:
        """A client's request is not passed on."""
        self.counters[Field.REFUSED] += 1
        self.counters[Field.REFUSED_FOR + REASONS.index(refused.reason)] += 1

    def count_bad_response(self, why: BadResponse) -> None:
        """A server's response is not passed on."""
        self.counters[Field.BAD_RESPONSE_FOR + BAD_RESPONSES.index(why.reason)] += 1

    def say(self, level: int, kind: Hashable, text: str) -> None:
        """Log what may happen again and again; repetitions of a ``kind`` are counted."""
        if self.repeats.happened(kind, self.now, level, text):
            log.log(level, "%s", text)

    def internal(self, error: BaseException) -> None:
        """An error of pylb's own has ended a request or a connection. Raises nothing."""
        self.counters[Field.INTERNAL] += 1
        with contextlib.suppress(Exception):
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = "?"
            if place is not None:
                where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}"
            text = f"an error of pylb's own at {where}: {error!r}"
            kind = ("internal", type(error), where)
            if self.repeats.happened(kind, self.now, logging.ERROR, text):
                log.error("%s", text, exc_info=(type(error), error, error.__traceback__))

    def out_of_descriptors(self, error: OSError) -> None:
        """The process or the machine has no descriptor left: log it, and pause accepting."""
        self.say(logging.ERROR, "descriptors", f"out of descriptors: {error.strerror}")
        if not self.leaving:
            self.pause(1.0)

    # Tasks and exchanges

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something rare beside the connections; its errors are logged."""
        task = self.loop.create_task(self._spawned(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _spawned(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as error:
            self.internal(error)
