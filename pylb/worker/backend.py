"""Backends as a worker sees them: their servers, with pooled connections, and the algorithm that picks one.

Which servers a backend has changes while the worker runs (`Backend.set_servers`), and so does what is true of
them (`Backend.look`, which goes by the table of servers). A server that isn't one any more answers what it
has, and loses its connections as they become idle.

Floor: below the frontend. Knows the configuration, the scoreboard and the interface of a server side; opens
no connection (`pylb.worker.server.connect` does) and knows no request.
"""

from __future__ import annotations

import logging
import ssl
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pylb import latency
from pylb.balance import ALGORITHMS, known
from pylb.balance.loads import Loads
from pylb.balance.members import Balancer, Latencies, Members, Nobody, Observer
from pylb.balance.ring import BOUNDED, FACTORS
from pylb.balance.shares import Shares, WithBackups
from pylb.config import changes
from pylb.config.address import CLIENTS_PORT
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Server as ServerConfig
from pylb.config.model import Timeouts
from pylb.health import panic
from pylb.log import log
from pylb.net.serverlists import Listed
from pylb.retry.budget import Budget
from pylb.scoreboard import OTHER_BACKENDS, Scoreboard, ServerField
from pylb.servers import Table, differing
from pylb.servers import members as members_of
from pylb.sticky.sticky import Sticky
from pylb.worker.core import Core
from pylb.worker.outcomes import Outcomes
from pylb.worker.pool import Pool, Shared

_AT_ONCE = 100  # servers whose counters are written with each tick
_TURNS = 10  # ticks in which those of more servers are: else ticks would cost more than requests
_FAILED = 5.0  # seconds that count as the response time of a try that has failed


class Server:
    """One server: its address, its connections, its cells of the scoreboard."""

    __slots__ = (
        *("index", "name", "backend", "cookie", "address", "context"),
        *("server_name", "send_proxy", "send_proxy_tlvs", "http2"),
        *("private", "pool", "shared", "active", "row", "requests", "errors", "failing", "_failing_since"),
        *("_requests", "_errors", "observe", "returned", "down", "maxconn", "avoided", "outcomes"),
    )

    def __init__(
        self,
        config: ServerConfig,
        backend: BackendConfig,
        board: Scoreboard,
        index: int,
        row: int,
        context: ssl.SSLContext | None,
        idle: float = Timeouts().server_idle,
    ) -> None:
        # What it is, for its life.
        self.index = index
        """Of its cells of the scoreboard: no other server has it as long as a process knows this one."""
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
        self.pool = Pool(backend.pool, idle)
        self.avoided: dict[Any, float] = {}
        """Of the addresses of its name, those that did not answer, and until when they are tried last."""
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
        # What the table of servers says of it.
        self.down = False
        """Whether it also loses the clients that stick to it."""
        self.maxconn = 0
        """How many requests it may have, over all workers; 0 for any number."""

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

    def removed(self) -> None:
        """It is none of its backend's servers any more: from now on it writes nothing but its active
        requests, since another server may have its index as soon as there are none."""
        self._requests[self.row] = self._errors[self.row] = 0
        if self.outcomes is not None:
            self.outcomes.removed()
        self.observe = self.returned = None

    def close_idle(self) -> bool:
        """Close the connections that are idle; whether there is nothing left of it."""
        self.pool.close()
        for shared in list(self.shared):
            shared.leave()
        return not (self.active[self.row] or self.shared)


class Backend:
    """A group of servers and its balancing algorithm.

    Args:
        servers: those that it begins with; or what gives an index to each that the configuration names.
        row: this worker's.
        context: for TLS to the servers.
        timeouts: those of the configuration, which the backend's own go before.

    Raises:
        ValueError: the configuration says TLS, and there is no context.
    """

    # What each request reads. (An object of more than 30 attributes is a slow one to Python 3.11.)
    __slots__ = (
        *("versions", "seen", "choose", "balancer", "servers", "timeouts", "body_bytes", "times", "retries"),
        "__dict__",
    )

    def __init__(
        self,
        config: BackendConfig,
        board: Scoreboard,
        servers: Sequence[Listed] | Callable[[ServerConfig], int],
        row: int,
        context: ssl.SSLContext | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        if config.tls is not None and context is None:
            raise ValueError(f"backend {config.name}: no TLS context")
        self.config = config
        self.name = config.name
        self.retry = config.policy
        """When a request is tried again."""
        wanted = config.retry
        self._budget = (
            Budget(wanted.budget, wanted.budget_least, time.monotonic())
            if wanted is not None and wanted.budget is not None
            else None
        )
        self.timeouts = changes.with_waits(timeouts or Timeouts(), changes.waits(config.timeouts))
        self.counted = config.min_servers > 0
        """Whether so many servers are to be usable; `short` says whether they are."""
        self.judged = config.outliers is not None
        """Whether servers are judged by their answers."""
        self.body_bytes = config.body_bytes
        """The most bytes of a request's body; 0 for no limit, None for the frontend's."""
        # Counted here and written to the scoreboard with each tick.
        self.times = [0] * latency.WIDTH
        self._times = board.times(board.backends.get(config.name, OTHER_BACKENDS), row)
        self.key: Callable[[Any], bytes | None] | None = None
        """Of a transaction, what the algorithm hashes; None where it hashes nothing. (`phases.keys`)"""
        self.choose: Callable[[Any], int | None] | None = None
        """Picks for a transaction that has a say in it; None where the algorithm picks alone."""
        self.gate: Any = None
        """Who says when a request may go to a server (`phases.queue.Gate`); None where it always may."""
        self.on_look: Callable[[Backend], None] = lambda backend: None
        """Called when servers have come, gone, or changed."""
        self.sticky: Sticky | None = None
        self.on_down: list[Callable[[Server], None]] = []
        """Called with each server that goes down (`pylb.servers.Table.down`), once each time."""
        self._board = board
        self._row = row
        self._context = context
        self.upgrade_context: ssl.SSLContext | None = None
        """With HTTP/2, for TLS in HTTP/1.1: upgrades that the servers take in no other way."""
        self._latencies = Latencies()
        self._make = ALGORITHMS[known(config.balance) or config.balance]
        self._rows: Sequence[int] = ()
        self._flushed = 0
        # Its servers, and who picks one.
        self.servers: list[Server] = []
        """By position, which is that in the newest list."""
        self._leaving: list[Server] = []  # that are in no list any more, and not idle yet
        self._listed: list[Listed] = []
        self._positions: dict[int, int] = {}  # by index
        # What the table of servers says.
        self._table = Table(board)
        self.versions = self._table.versions
        """One cell, which another number in means that `look` has something to see."""
        self.panicking = False
        """Whether all servers are used, healthy or not."""
        self.short = False
        """Whether fewer servers are usable than there should be."""
        self.seen = -1
        """The number that was in it then."""
        self._span = (0, 0)  # of the indices
        self._records = b""
        self.observes = isinstance(self._make, type) and issubclass(self._make, Observer)
        """Whether the algorithm goes by response times."""
        self.shares: Shares
        """Through which a server becomes usable, or stops to be."""
        self.balancer: Balancer
        if callable(servers):
            servers = [Listed(server, servers(server)) for server in config.servers]
        self.set_servers(servers)

    # -- which servers it has --------------------------------------------------------------------

    def set_servers(self, listed: Sequence[Listed]) -> None:
        """These are its servers from now on. Those that stay keep their connections and counters; those that
        go are picked no more, and answer what they have."""
        first = self.seen < 0
        before = {one.index: (one, server) for one, server in zip(self._listed, self.servers, strict=True)}
        started = {
            self.servers[position].index: began
            for position in range(len(self.servers))
            if (began := self.shares.began(position)) is not None
        }
        self._listed = list(listed)
        self.servers = [
            before[one.index][1]
            if one.index in before
            else self._server(one)
            for one in listed
        ]
        self._positions = {one.index: position for position, one in enumerate(listed)}
        for index, (_, server) in before.items():
            if index not in self._positions:
                server.removed()
                self._leaving.append(server)
        if not first:
            for one, server in zip(listed, self.servers, strict=True):
                if one.index not in before:
                    server.flush()  # the cells may hold what another server of this index has left
        self._compile()
        self.stick(self.sticky)
        now = time.monotonic()
        for position, one in enumerate(listed):
            if one.index in started:
                self.shares.go_on(position, started[one.index], now)
            elif one.index not in before and not first and one.config.slow_start:
                self._returned(position)
        self._close_idle()
        self.on_look(self)

    def _server(self, one: Listed) -> Server:
        idle = self.timeouts.server_idle
        return Server(one.config, self.config, self._board, one.index, self._row, self._context, idle)

    def _compile(self) -> None:
        """Make the algorithm for the list as it is."""
        listed = self._listed
        indices = [one.index for one in listed]
        self._loads = Loads(indices, self._board.active(self._row))
        self.look_at(self._rows)
        weights = [self._weight(one) for one in listed]
        factor = self.config.hash_factor
        members = Members(
            weights=weights,
            names=[str(one.config.address) for one in listed],
            loads=self._loads,
            clock=time.monotonic,
            fills=[one.config.fill for one in listed],
            latencies=self._latencies,
            factor=FACTORS.get(self.config.balance, BOUNDED) if factor is None else factor,
        )
        backups = [one.config.backup for one in listed]
        if not listed:
            self.balancer = Nobody()
        else:
            self.balancer = WithBackups(self._make, members, backups) if any(backups) else self._make(members)
        self.shares = Shares(self.balancer, weights, [one.config.slow_start for one in listed])
        for position, (one, server) in enumerate(zip(listed, self.servers, strict=True)):
            if isinstance(self.balancer, Observer):
                server.observe = partial(self.balancer.observe, position)
            server.returned = partial(self._returned, position) if one.config.slow_start else None
        self._span = (min(indices), max(indices) + 1) if indices else (0, 0)
        self.seen = self._table.version
        self._records = self._table.records(*self._span)
        self._judge()
        for position, one in enumerate(listed):
            self._apply(position, one)

    def _weight(self, one: Listed) -> float:
        return self._table.weight(one.index, one.config.weight) * self._table.part(one.index)

    def positions(self, indices: frozenset[int]) -> frozenset[int]:
        """Of these servers, those that are in the list."""
        return frozenset(self._positions[index] for index in indices if index in self._positions)

    def stick(self, sticky: Sticky | None) -> None:
        """Have clients keep to their servers by a cookie."""
        self.sticky = sticky
        if sticky is not None:
            sticky.know([(server.name, server.cookie, str(server.address)) for server in self.servers])

    def _returned(self, position: int) -> None:
        """A server can be connected to again: it begins slowly."""
        if self._table.usable(self.servers[position].index):
            now = time.monotonic()
            self.shares.usable(position, False, now)
            self.shares.usable(position, True, now)

    def _close_idle(self) -> None:
        """Close what former servers have, as far as it is idle."""
        self._leaving = [server for server in self._leaving if not server.close_idle()]

    # -- what the table says of them -------------------------------------------------------------

    def look(self) -> None:
        """Go by the table of servers as it is now; called where `versions` has another number than `seen`."""
        self.seen = self._table.version
        before, after = self._records, self._table.records(*self._span)
        if before == after:
            return
        self._records = after
        now = time.monotonic()
        if self._judge():
            for at, one in enumerate(self._listed):
                self._apply(at, one)
        for index in differing(before, after, self._span[0]):
            position = self._positions.get(index)
            if position is not None:
                one = self._listed[position]
                self.shares.weigh(position, self._weight(one), now)
                self._apply(position, one)
        self.on_look(self)

    def _judge(self) -> bool:
        """Whether so few servers are healthy that all are used; gives whether that is so from now on, or not
        any more."""
        config = self.config
        if not config.panic and not config.min_servers:
            return False
        servers = ((one.index, one.config.weight, one.config.backup) for one in self._listed)
        found = members_of(self._table, servers)
        self.short = panic.usable(found) < config.min_servers
        before, self.panicking = self.panicking, panic.panics(found, config.panic)
        return before is not self.panicking

    def _apply(self, position: int, one: Listed) -> None:
        """Take a server into the picks, or out of them."""
        table, server = self._table, self.servers[position]
        usable = table.usable(one.index) or (self.panicking and table.ready(one.index))
        if usable is not self.shares.is_usable(position):
            self.shares.usable(position, usable, time.monotonic())
        server.maxconn = table.maxconn(one.index, one.config.maxconn)
        down = table.down(one.index)
        if down is not server.down:
            server.down = down
            if down:
                for call in self.on_down:
                    call(server)

    # -- now and then ----------------------------------------------------------------------------

    def may_retry(self, now: float) -> bool:
        """Whether the budget allows one more try that isn't a request's first."""
        budget = self._budget
        return budget is None or budget.take(sum([server.requests for server in self.servers]), now)

    def look_at(self, rows: Sequence[int]) -> None:
        """Count active requests over these rows, and this worker's own."""
        self._rows = rows
        self._loads.look_at([self._board.active(row) for row in rows if row != self._row])

    def flush(self, all_servers: bool = False) -> None:
        """Write what was counted to the scoreboard, and raise the weights of servers that begin slowly.

        Of many servers a part has its turn each time, unless it is to be ``all_servers``."""
        if self.shares.rising:
            self.shares.step(time.monotonic())
        if self._leaving:
            self._close_idle()
        self._times[:] = memoryview(array("q", self.times))
        servers = self.servers
        if len(servers) > _AT_ONCE and not all_servers:
            step = -(-len(servers) // _TURNS)
            self._flushed = begin = (self._flushed + step) % (step * _TURNS)
            servers = servers[begin : begin + step]
        for server in servers:
            server.flush()
