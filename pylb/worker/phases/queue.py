"""The queue: who may be at a server, where ``maxconn`` bounds that, and who waits for a place.

A backend with bounded servers, its own bound, a circuit breaker, or a time for each try has a `Gate`. Its
requests are given a server at once (`pick`) where the gate knows a place for them without further ado;
otherwise they come to the gate, which gives a server, or a `Waiter` for a phase that waits, or why there is
none. Other backends pay nothing for it.

What holds: a request takes a place atomically, over all workers (`pylb.places`). While any request of the
backend waits in any worker, new ones wait behind it. A place that becomes free goes to the worker whose first
request is before those of the others (`pylb.queue.order`), told by an eventfd; so requests of all workers
are served in the order in which they came, but for those that take or leave a place within the microseconds
in which the workers hear of each other. A worker that doesn't hear is overtaken within a tenth of a second.

Requests that belong to one server (a hash, a cookie) wait for that one, others for any.

Floor: phases.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pylb.http.errors import Answer
from pylb.places import Holder, Places, Tally, row_before
from pylb.queue.order import Entry, Order
from pylb.retry.breaker import Breaker
from pylb.scoreboard import OTHER_BACKENDS, Scoreboard, SupervisorField
from pylb.worker.backend import Backend, Server
from pylb.worker.core import Core
from pylb.worker.frontend import Wait
from pylb.worker.phases import keys
from pylb.worker.phases.choose import Choose, by_cookie
from pylb.worker.phases.doors import Door, Doors
from pylb.worker.phases.pick import count, known, nobody
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction

_SEVERAL = 16  # of those that wait are looked at, where the first one can't have what is free
_LAST = (1 << 63) - 1  # of ranks
_TAKES = 4  # tries to take a place at a server that seemed to have one

class Waiter(Wait):
    """A request that waits for a place."""

    __slots__ = ("gate", "tx", "server", "index", "entry", "since", "_go_on")

    def __init__(self, gate: Gate, tx: Transaction, index: int | None, now_ns: int) -> None:
        self.gate = gate
        self.tx = tx
        self.server: Server | None = None
        """Set before it goes on, unless it goes on with an answer."""
        self.index = index
        """Of the one server that it waits for; None: any."""
        self.entry: Entry[Waiter] = None  # type: ignore[assignment]  # set when it waits
        self.since = now_ns
        self._go_on: Callable[[Answer | None], None] | None = None

    @property
    def seconds(self) -> float:
        """How long it may wait."""
        return self.gate.timeout

    def start(self, go_on: Callable[[Answer | None], None]) -> None:
        self._go_on = go_on

    def cancel(self) -> None:
        self.gate.leave(self)

    def go_on(self) -> None:
        """It has what it has waited for, or there is nothing left to wait for."""
        if self._go_on is not None:
            self._go_on(None)


class Gate:
    """A backend's, in one worker."""

    def __init__(self, core: Core, backend: Backend, board: Scoreboard, row: int, holder: Holder) -> None:
        config = backend.config
        queue = config.queue
        places = board.places
        self.core = core
        self.backend = backend
        self.places: Places = places
        self.row = row
        self.holder = holder
        # One that has got its first `maxconn` at run time may share that. Then its requests may not be
        # served in the order in which they came; its servers' places are theirs all the same.
        index = board.backends.get(config.name, OTHER_BACKENDS)
        self._place = places.of_backend(index)
        self._bound = config.maxconn > 0
        self._queue = Order[Waiter](fair=queue is not None and queue.fair is not None)
        self._queues: dict[int, Order[Waiter]] = {}  # of single servers, by their index
        self._first = places.first(self._place)
        self._figures = places.tally(index, row)
        self._lengths = places.tallies(index, Tally.LENGTH)
        self._rows = board.supervisor
        self._size = queue.size if queue is not None else 1000
        self._key = keys.of(queue.fair) if queue is not None and queue.fair is not None else None
        self.timeout = backend.timeouts.connect
        if queue is not None and queue.timeout is not None:
            self.timeout = queue.timeout
        self.timed = backend.retry.timed
        breaker = config.breaker
        self.breaker: Breaker | None = None
        if breaker is not None:
            self.breaker = Breaker(breaker.share, breaker.least, breaker.window, breaker.rest)
        self._pumping = self._once_more = False
        self._kept = by_cookie(backend)
        self._waited = places.waited
        self._doors: list[Door | None] = []
        """By position, what takes the places that a request there has, and gives them back; None: it has
        none."""
        self._made: dict[int, Door] = {}  # by the server's place; -1: it has none
        self.doors = Doors(holder, self._place, self._bound, self.pump)
        self._note()

    # Requests

    def pick(self, tx: Transaction) -> Server | Waiter | Reason:
        """A server for the request, which is counted there; or what it waits with; or why there is none."""
        backend = self.backend
        if self.breaker is not None and not tx.retries and not self.breaker.passes(self.core.now):
            return Reason.BREAKER_OPEN
        own = self._own(tx)
        if own is not None:
            server = self._at(tx, own)
            return server if server is not None else self._join(tx, backend.servers[own].index)
        if not self._waited[self._place] or not self._waited_for(self._place):
            server = self._free(tx)
            if server is not None:
                return server
        if backend.balancer.pick(self._tried(tx)) is None:
            return Reason.NO_SERVER
        return self._join(tx, None)

    def _tried(self, tx: Transaction) -> frozenset[int]:
        """Positions of the servers that have failed it."""
        return self.backend.positions(tx.tried) if tx.tried else tx.tried

    def _own(self, tx: Transaction) -> int | None:
        """The one server that the request belongs to; None where any will do."""
        if tx.client.own is not None and (position := known(tx)) is not None:
            return position
        if (position := self._kept(tx)) is not None:
            return position
        key = self.backend.key
        value = key(tx) if key is not None else None
        return self.backend.balancer.pick(self._tried(tx), value) if value is not None else None

    def _at(self, tx: Transaction, position: int) -> Server | None:
        """This server, if it has a place for the request."""
        server = self.backend.servers[position]
        if server.maxconn and self._waited_for(server.index):
            return None
        return self._take(tx, position)

    def _free(self, tx: Transaction) -> Server | None:
        """A server with a place for the request, by the algorithm."""
        backend = self.backend
        tried = excluded = self._tried(tx)
        for _ in range(_TAKES):
            position = backend.balancer.pick(excluded)
            if position is None:
                return None
            server = self._take(tx, position)
            if server is not None:
                return server
            excluded = tried | self._full()
        return None

    def _full(self) -> frozenset[int]:
        """Positions of the servers without a free place, or that others wait for."""
        free, servers = self.places.free, self.backend.servers
        return frozenset(
            [position for position, one in enumerate(servers) if one.maxconn and not free[one.index]]
        )

    def _take(self, tx: Transaction, position: int) -> Server | None:
        """Have this server's place, and the backend's, and count the request as its."""
        door = self._doors[position]
        if door is not None:
            take, give = door
            if not take():
                return None
            tx.held = give
        server = self.backend.servers[position]
        count(tx, server)
        return server

    # Those that wait

    def _used(self) -> int:
        """All workers have rows below this one."""
        return self._rows[SupervisorField.ROWS] or self.places.rows  # 0 without a supervisor (in tests)

    def _waited_for(self, place: int) -> bool:
        """Whether any worker's request waits for it."""
        return self.places.waited_for(place, self._used())

    def _order(self, index: int | None) -> Order[Waiter]:
        if index is None:
            return self._queue
        order = self._queues.get(index)
        if order is None:
            order = self._queues[index] = Order[Waiter](self._key is not None)
        return order

    def _note(self) -> None:
        """Note what follows from which servers there are."""
        before, self._made, self._doors = self._made, {}, []
        for server in self.backend.servers:
            place = server.index if server.maxconn else -1
            door = self._made.get(place) or before.get(place) or self.doors.door(place)
            if door is not None:
                self._made[place] = door
            self._doors.append(door)
        has_say = self.backend.key is not None or self.backend.sticky is not None
        simple = self.breaker is None and not has_say and not self.timed
        self.backend.choose = self._at_once() if simple else nobody

    def _at_once(self) -> Choose:
        """Gives the position of a server, whose place the request has from then on, where nobody waits."""
        doors, pick = self._doors, self.backend.balancer.pick
        waited, own = self._waited, self._place

        def choose(tx: Transaction) -> int | None:
            if waited[own] or tx.tried or tx.client.own is not None:
                return None
            position = pick()
            if position is not None:
                door = doors[position]
                if door is not None:
                    if not door[0]():
                        return None
                    tx.held = door[1]
            return position

        return choose

    def _publish(self, index: int | None) -> None:
        """Tell the others of the first one that waits, and how many do."""
        if index is None:
            self._first[self.row] = self._queue.rank
        else:
            order = self._queues.get(index)
            self.places.first(index)[self.row] = order.rank if order is not None else 0
            if order is not None and not order:
                del self._queues[index]
        self._figures[Tally.LENGTH] = len(self)

    def __len__(self) -> int:
        """How many wait in this worker."""
        return len(self._queue) + sum([len(order) for order in self._queues.values()])

    def _join(self, tx: Transaction, index: int | None) -> Server | Waiter | Reason:
        """Wait; or have the place that became free meanwhile."""
        used = self._used()
        ahead = sum(self._lengths[:used])
        figures = self._figures
        if ahead >= self._size:
            figures[Tally.FULL] += 1
            return Reason.QUEUE_FULL
        order = self._order(index)
        waiter = Waiter(self, tx, index, time.monotonic_ns())
        first = self._first if index is None else self.places.first(index)
        others = min([rank for rank in first[:used] if rank], default=0)
        key = self._key(tx) if self._key is not None else None
        waiter.entry = order.add(waiter, waiter.since // 1000, _priority(tx), key, others)
        if index is None:
            tx.backend_queue = ahead
        else:
            tx.srv_queue = len(order) - 1
        figures[Tally.QUEUED] += 1
        self._publish(index)
        self._waited[self._place] = 1
        self.pump()  # a place that was given back before this was told of
        return waiter if waiter.server is None else waiter.server

    def leave(self, waiter: Waiter) -> None:
        """It doesn't wait any more: the client has left, or it has taken too long."""
        if waiter.entry.item is None:
            return
        self._order(waiter.index).remove(waiter.entry)
        if self.core.now >= waiter.since / 1e9 + self.timeout:
            self._figures[Tally.LATE] += 1
        self._publish(waiter.index)

    def pump(self, place: int = -1, whoever: bool = False) -> None:
        """Give the free places to those that are next, here or in another worker.

        Args:
            place: of a server, which has become free.
            whoever: is first in this worker, though another one's request is before it; for when that worker
                doesn't hear.
        """
        if self._pumping:
            self._once_more = True
            return
        self._pumping = True
        try:
            if place >= 0 and place not in self._queues:
                self._is_next(self.places.first(place), 0, whoever)  # another worker's, if any waits for it
            more = True
            while more:
                self._once_more = False
                more = self._serve(whoever) or self._once_more
        finally:
            self._pumping = False

    def _serve(self, whoever: bool) -> bool:
        """Serve one; whether somebody was."""
        free = self.places.free
        if self._bound and not free[self._place]:
            return False
        for index, order in list(self._queues.items()):
            first = order.first()
            if first is None or first.item is None or not free[index]:
                continue
            if not self._is_next(self.places.first(index), first.rank, whoever):
                continue
            for position in self.backend.positions(frozenset({index})):
                if self._grant(first.item, self._take(first.item.tx, position)):
                    return True
        if not whoever:
            if self.backend.balancer.pick(self._full()) is None:
                return False
            if not self._is_next(self._first, self._queue.rank, False):
                return False
        first = self._queue.first()
        if first is None or first.item is None:
            return False
        for entry in (first, *self._queue.some(_SEVERAL)[1:]) if first.item.tx.tried else (first,):
            waiter = entry.item
            if waiter is not None and self._grant(waiter, self._free(waiter.tx)):
                return True
        return False

    def _is_next(self, first: memoryview, rank: int, whoever: bool) -> bool:
        """Whether this worker's request is next; else the worker is told whose is."""
        if whoever:
            return rank > 0
        row = row_before(first[: self._used()], rank or _LAST)
        if row < 0 or row == self.row:
            return rank > 0
        self.places.wake(row)
        return False

    def _grant(self, waiter: Waiter, server: Server | None) -> bool:
        if server is None:
            return False
        waiter.server = server
        now = time.monotonic_ns()
        self._figures[Tally.WAITED_US] += (now - waiter.since) // 1000
        self._order(waiter.index).remove(waiter.entry, served=True)
        self._publish(waiter.index)
        waiter.go_on()
        return True

    # What happens to servers, and time

    def look(self) -> None:
        """Servers have come, gone, or changed: nobody waits for one that isn't there any more."""
        self._note()
        servers = self.backend.servers
        shares = self.backend.shares
        usable = {server.index for position, server in enumerate(servers) if shares.is_usable(position)}
        for index, order in list(self._queues.items()):
            if index in usable:
                continue
            self.places.first(index)[self.row] = 0
            del self._queues[index]
            for entry in order.some(len(order)):
                waiter = entry.item
                if waiter is not None:
                    order.remove(entry)
                    waiter.index = None
                    key = self._key(waiter.tx) if self._key is not None else None
                    waiter.entry = self._queue.add(waiter, waiter.since // 1000, _priority(waiter.tx), key)
        self._publish(None)
        self.pump()

    def tick(self) -> None:
        """Ten times a second: what another worker should have taken, and has not."""
        if len(self):
            self._waited[self._place] = 1
            self.pump(whoever=True)
        elif self._waited[self._place]:
            self._waited[self._place] = 0
            used = self._used()
            if any(self._lengths[:used]):
                self._waited[self._place] = 1


def _priority(tx: Transaction) -> int:
    """What a rule says."""
    return 0 if tx.plan is None else tx.plan.changes.priority
