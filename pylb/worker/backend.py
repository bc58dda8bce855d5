"""Backends as a worker sees them: their servers, with pooled connections, and the algorithm that picks one.

Floor: below the frontend. Knows the configuration, the scoreboard and the interface of a server side; opens
no connection (`pylb.worker.server.connect` does) and knows no request.
"""

from __future__ import annotations

import logging
import ssl
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pylb import latency
from pylb.balance import ALGORITHMS, known
from pylb.balance.loads import Loads
from pylb.balance.members import Balancer, Members, Observer
from pylb.balance.ring import BOUNDED, FACTORS
from pylb.balance.shares import Shares, WithBackups
from pylb.config import changes
from pylb.config.address import CLIENTS_PORT
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Server as ServerConfig
from pylb.config.model import Timeouts
from pylb.log import log
from pylb.scoreboard import OTHER_BACKENDS, Scoreboard, ServerField
from pylb.sticky.sticky import Sticky
from pylb.worker.core import Core
from pylb.worker.outcomes import Outcomes
from pylb.worker.sides import ServerSide

_AT_ONCE = 100  # servers whose counters are written with each tick
_TURNS = 10  # ticks in which those of more servers are: else ticks would cost more than requests
_FAILED = 5.0  # seconds that count as the response time of a try that has failed


def with_waits(timeouts: Timeouts, waits: Mapping[str, float]) -> Timeouts:
    """The same, but for some, in seconds by their key."""
    return timeouts.model_copy(update=dict(waits)) if waits else timeouts


class Shared(ABC):
    """A connection that can serve several requests at a time."""

    @property
    @abstractmethod
    def free(self) -> bool:
        """Whether one more request may begin on it."""

    @abstractmethod
    def side(self) -> ServerSide:
        """A server side for one more request."""


class Server:
    """One server: its address, its connections, its cells of the scoreboard."""

    __slots__ = (
        *("name", "backend", "cookie", "address", "context", "server_name", "send_proxy", "send_proxy_tlvs"),
        *("http2", "private", "pool", "shared", "active", "row", "requests", "errors", "failing"),
        *("_failing_since", "_requests", "_errors", "observe", "returned", "outcomes"),
    )

    def __init__(
        self,
        config: ServerConfig,
        backend: BackendConfig,
        board: Scoreboard,
        index: int,
        row: int,
        context: ssl.SSLContext | None,
    ) -> None:
        # What it is, for its life.
        self.name = config.name
        self.backend = backend.name
        self.cookie = config.cookie
        self.address = config.address
        self.context = context
        """What its connections speak TLS with."""
        name = backend.tls.name if backend.tls is not None else None
        self.server_name = name or config.address.host
        self.send_proxy = backend.send_proxy
        self.send_proxy_tlvs = backend.send_proxy_tlvs
        self.http2 = backend.http2
        self.private = backend.send_proxy != "off" or config.address.port == CLIENTS_PORT
        """Whether a connection is one client's: its PROXY header names it, or its port is the client's."""
        # Its connections.
        self.pool: list[ServerSide] = []
        """Idle ones, the one that was used last behind the others."""
        self.shared: list[Shared] = []
        # Columns over all rows; this worker writes its own row's cell only.
        self.active = board.server_column(ServerField.ACTIVE, index)
        self._requests = board.server_column(ServerField.REQUESTS, index)
        self._errors = board.server_column(ServerField.ERRORS, index)
        self.row = row
        # Counted here and written now and then: a cell of the scoreboard costs several times as much.
        self.requests = 0
        self.errors = 0
        self.failing = 0
        """How many connections in a row could not be made."""
        self.outcomes: Outcomes | None = None
        """Its answers, where its backend judges servers by them."""
        if backend.outliers is not None:
            self.outcomes = Outcomes(board, index, row, frozenset(backend.outliers.statuses))
        self._failing_since = 0.0
        # What its backend wants to know of it.
        self.observe: Callable[[float], None] | None = None
        """Where the algorithm goes by response times: called with the seconds of each response."""
        self.returned: Callable[[], None] | None = None
        """Called when it can be connected to again."""

    def failed(self, core: Core, kind: str, why: str) -> None:
        """Log what the server did wrong, once; repetitions of the ``kind`` are counted."""
        if self.observe is not None:
            self.observe(_FAILED)  # a server that fails at once is not a fast one
        if kind == "connect":
            if not self.failing:
                self._failing_since = core.now
            self.failing += 1
        who = f"server {self.backend}/{self.name} at {self.address}"
        core.say(logging.WARNING, ("server", self.backend, self.name, kind), f"{who}: {why}")

    def works(self, core: Core) -> None:
        """Log that the server can be connected to again."""
        if self.returned is not None:
            self.returned()
        seconds, failures = core.now - self._failing_since, self.failing
        self.failing = 0
        core.repeats.over(("server", self.backend, self.name, "connect"))
        log.warning(
            "server %s/%s at %s: can be connected to again, after %d failures in %.0f s",
            *(self.backend, self.name, self.address, failures, seconds),
        )

    def flush(self) -> None:
        """Write the counters to the scoreboard."""
        self._requests[self.row] = self.requests
        self._errors[self.row] = self.errors
        if self.outcomes is not None:
            self.outcomes.flush()


class Backend:
    """A group of servers and its balancing algorithm.

    Args:
        index_of: gives a server's index in the scoreboard.
        row: this worker's.
        context: for TLS to the servers.
        timeouts: those of the configuration, which the backend's own go before.

    Raises:
        ValueError: the configuration says TLS, and there is no context.
    """

    def __init__(
        self,
        config: BackendConfig,
        board: Scoreboard,
        index_of: Callable[[ServerConfig], int],
        row: int,
        context: ssl.SSLContext | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        if config.tls is not None and context is None:
            raise ValueError(f"backend {config.name}: no TLS context")
        self.name = config.name
        self.retries = config.retries
        self.timeouts = with_waits(timeouts or Timeouts(), changes.waits(config.timeouts))
        self.judged = config.outliers is not None
        """Whether servers are judged by their answers."""
        self.body_bytes = config.body_bytes
        """The most bytes of a request's body; 0 for no limit, None for the frontend's."""
        # Counted here and written to the scoreboard with each tick.
        self.times = [0] * latency.WIDTH
        self._times = board.times(board.backends.get(config.name, OTHER_BACKENDS), row)
        # Its servers, and who picks one.
        indices = [index_of(server) for server in config.servers]
        self.servers = [
            Server(server, config, board, index, row, context)
            for server, index in zip(config.servers, indices, strict=True)
        ]
        self._flushed = 0
        self._board = board
        self._row = row
        self._loads = Loads(indices, board.active(row))
        weights = [server.weight for server in config.servers]
        factor = config.hash_factor
        members = Members(
            weights=weights,
            names=[str(server.address) for server in config.servers],
            loads=self._loads,
            clock=time.monotonic,
            fills=[server.fill for server in config.servers],
            factor=FACTORS.get(config.balance, BOUNDED) if factor is None else factor,
        )
        make = ALGORITHMS[known(config.balance) or config.balance]
        backups = [server.backup for server in config.servers]
        self.balancer: Balancer = WithBackups(make, members, backups) if any(backups) else make(members)
        self.key: Callable[[Any], bytes | None] | None = None
        """Of a transaction, what the algorithm hashes; None where it hashes nothing. (`phases.keys`)"""
        self.choose: Callable[[Any], int | None] | None = None
        """Picks for a transaction that has a say in it; None where the algorithm picks alone."""
        self.sticky: Sticky | None = None
        self.shares = Shares(self.balancer, weights, [server.slow_start for server in config.servers])
        """Through which a server becomes usable, or stops to be."""
        for position, server in enumerate(self.servers):
            if isinstance(self.balancer, Observer):
                server.observe = partial(self.balancer.observe, position)
            if config.servers[position].slow_start:
                server.returned = partial(self._returned, position)

    def stick(self, sticky: Sticky | None) -> None:
        """Have clients keep to their servers by a cookie."""
        self.sticky = sticky
        if sticky is not None:
            sticky.know((server.name, server.cookie, str(server.address)) for server in self.servers)

    def keeps(self, position: int) -> bool:
        """Whether a server has those of its clients that are to keep to it."""
        return True

    def _returned(self, position: int) -> None:
        """A server can be connected to again: it begins slowly."""
        now = time.monotonic()
        self.shares.usable(position, False, now)
        self.shares.usable(position, True, now)

    def look_at(self, rows: Sequence[int]) -> None:
        """Count active requests over these rows, and this worker's own."""
        self._loads.look_at([self._board.active(row) for row in rows if row != self._row])

    def flush(self, all_servers: bool = False) -> None:
        """Write what was counted to the scoreboard, and raise the weights of servers that begin slowly.

        Of many servers a part has its turn each time, unless it is to be ``all_servers``."""
        if self.shares.rising:
            self.shares.step(time.monotonic())
        self._times[:] = memoryview(array("q", self.times))
        servers = self.servers
        if len(servers) > _AT_ONCE and not all_servers:
            step = -(-len(servers) // _TURNS)
            self._flushed = begin = (self._flushed + step) % (step * _TURNS)
            servers = servers[begin : begin + step]
        for server in servers:
            server.flush()
