"""Gates: who may be at a server, over several workers' gates of one scoreboard, and who is next."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Server as ServerConfig
from pylb.places import Tally
from pylb.scoreboard import Field, Scoreboard, State
from pylb.supervisor.places import PlaceKeeper
from pylb.worker.backend import Backend, Server
from pylb.worker.phases import choose, keys
from pylb.worker.phases.gates import Gates
from pylb.worker.phases.pick import pick
from pylb.worker.phases.queue import Gate, Waiter
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction
from tests.http.wire import TestCore
from tests.worker.stand_ins import request_head


class Fleet:
    """Workers of one backend, each with its gate; `wake` is what the eventfd would do.

    Args:
        servers: their ``maxconn``.
        more: the backend's configuration, beside the usual.
    """

    def __init__(self, *servers: int, workers: int = 2, **more: Any) -> None:
        board = self.board = Scoreboard(workers)
        board.add_backends(["b"], [])
        made = tuple(
            ServerConfig(name=f"s{number}", address=parse_address(f"10.0.0.{number}:80"), maxconn=most)
            for number, most in enumerate(servers)
        )
        config = self.config = BackendConfig(name="b", servers=made, **more)
        self.keeper = PlaceKeeper(board, lambda config: {})
        self.board.places.wake = self._wake  # type: ignore[method-assign]
        for index, most in enumerate(servers):
            board.places.audit(index, most)
        board.places.audit(board.places.of_backend(board.backends["b"]), config.maxconn)
        self.cores = [TestCore() for _ in range(workers)]
        self.backends = []
        self.gates: list[Gate] = []
        for row in range(workers):
            board.row(row)[Field.STATE] = State.SERVING
            backend = Backend(config, board, made.index, row)
            backend.key = keys.compiled(config)
            backend.choose = choose.compiled(backend)
            Gates(self.cores[row], board, row).watch(backend)
            self.backends.append(backend)
            self.gates.append(backend.gate)
        for backend in self.backends:
            backend.look_at(range(workers))
        self.went_on: list[Transaction] = []
        self.woken: list[int] = []

    def _wake(self, row: int) -> None:
        self.woken.append(row)

    def hear(self) -> None:
        """The workers that were woken look at their queues."""
        while self.woken:
            self.gates[self.woken.pop(0)].pump()

    def ask(self, row: int = 0, head: bytes = b"", priority: int = 0) -> tuple[Transaction, Any]:
        """A request comes; gives what the gate says."""
        tx = Transaction()
        tx.backend = self.backends[row]
        tx.client = SimpleNamespace(own=None)  # type: ignore[assignment]
        tx.head = request_head(b"GET /a HTTP/1.1\r\nHost: h\r\n%b\r\n" % head)
        tx.plan = SimpleNamespace(changes=SimpleNamespace(priority=priority))  # type: ignore[assignment]
        found = pick(tx) or self.gates[row].pick(tx)
        if isinstance(found, Waiter):
            found.start(self._noting(tx, found))
        return tx, found

    def _noting(self, tx: Transaction, waiter: Waiter) -> Callable[[object], None]:
        def go_on(answer: object) -> None:
            assert waiter.server is tx.server
            self.went_on.append(tx)

        return go_on

    def over(self, tx: Transaction) -> None:
        """Its response has come."""
        counted, held = tx.counted, tx.held
        assert counted is not None
        counted.active[counted.row] -= 1
        tx.counted = tx.held = None
        if held is not None:
            held()
        self.hear()

    def active(self) -> list[int]:
        """Requests at each server, over all workers."""
        return [sum(server.active) for server in self.backends[0].servers]

    def take(self) -> list[Transaction]:
        """Those that have gone on since the last look."""
        went, self.went_on = self.went_on, []
        return went


def test_no_server_has_more_than_its_places_over_all_workers() -> None:
    fleet = Fleet(2, 2, 2)
    found = [fleet.ask(number % 2) for number in range(6)]
    assert all(isinstance(what, Server) for _, what in found)
    assert fleet.active() == [2, 2, 2]
    waiting = [fleet.ask(number % 2) for number in range(4)]
    assert all(isinstance(what, Waiter) for _, what in waiting)
    assert fleet.active() == [2, 2, 2]
    assert [len(gate) for gate in fleet.gates] == [2, 2]


@pytest.mark.parametrize("gone", [0, 1])
def test_the_first_to_come_is_served_first_in_whichever_worker_it_waits(gone: int) -> None:
    fleet = Fleet(1, workers=3)
    before, _ = fleet.ask(gone)
    waiting = [fleet.ask(row)[0] for row in (2, 0, 1, 2)]
    for tx in waiting:
        fleet.over(before)
        assert fleet.take() == [tx]
        before = tx
    fleet.over(before)
    assert fleet.active() == [0]


def test_who_comes_while_others_wait_is_not_served_before_them() -> None:
    fleet = Fleet(1)
    first, _ = fleet.ask(0)
    second, _ = fleet.ask(1)
    counted, held = first.counted, first.held
    assert counted is not None and held is not None
    counted.active[counted.row] -= 1
    held()  # the worker that is told of it has not had its turn yet
    third, what = fleet.ask(0)
    assert isinstance(what, Waiter)
    fleet.hear()
    assert fleet.take() == [second]
    fleet.over(second)
    assert fleet.take() == [third]


def test_a_worker_that_does_not_hear_keeps_no_place_idle() -> None:
    fleet = Fleet(1)
    first, _ = fleet.ask(0)
    fleet.ask(1)
    mine, _ = fleet.ask(0)
    counted, held = first.counted, first.held
    assert counted is not None and held is not None
    counted.active[counted.row] -= 1
    held()
    assert fleet.woken == [1] and not fleet.went_on
    fleet.gates[0].tick()
    assert fleet.take() == [mine]


def test_a_client_that_leaves_leaves_the_queue() -> None:
    fleet = Fleet(1)
    first, _ = fleet.ask(0)
    _, waiter = fleet.ask(1)
    last, _ = fleet.ask(1)
    waiter.cancel()
    waiter.cancel()
    fleet.over(first)
    assert fleet.take() == [last]


def test_the_queue_has_an_end() -> None:
    fleet = Fleet(1, queue={"size": 2})
    fleet.ask(0)
    fleet.ask(0)
    tx, what = fleet.ask(1)
    assert isinstance(what, Waiter) and tx.backend_queue == 1
    assert fleet.ask(1)[1] is Reason.QUEUE_FULL
    index = fleet.board.backends["b"]
    assert sum(fleet.board.places.tallies(index, Tally.FULL)) == 1
    assert sum(fleet.board.places.tallies(index, Tally.LENGTH)) == 2


def test_without_a_queue_none_waits() -> None:
    fleet = Fleet(1, queue={"size": 0})
    fleet.ask(0)
    assert fleet.ask(0)[1] is Reason.QUEUE_FULL


def test_priorities_go_first() -> None:
    fleet = Fleet(1)
    tx, _ = fleet.ask(0)
    low, _ = fleet.ask(0, priority=5)
    usual, _ = fleet.ask(1)
    high, _ = fleet.ask(0, priority=-5)
    for wanted in (high, usual, low):
        fleet.over(tx)
        assert fleet.take() == [wanted]
        tx = wanted


def test_who_asks_much_waits_behind_himself() -> None:
    fleet = Fleet(1, workers=1, queue={"fair": "header:X-User"})
    tx, _ = fleet.ask(0)
    many = [fleet.ask(0, b"X-User: many\r\n")[0] for _ in range(4)]
    few = [fleet.ask(0, b"X-User: few\r\n")[0] for _ in range(2)]
    served = []
    for _ in range(6):
        fleet.over(tx)
        (tx,) = fleet.take()
        served.append(tx)
    assert served == [many[0], few[0], many[1], few[1], many[2], many[3]]


def test_a_backend_has_a_limit_of_its_own() -> None:
    fleet = Fleet(0, 2, maxconn=3)
    asked = [fleet.ask(number % 2) for number in range(4)]
    assert [isinstance(what, Server) for _, what in asked] == [True, True, True, False]
    fleet.over(asked[0][0])
    assert fleet.take() == [asked[3][0]]
    assert sum(fleet.active()) == 3


def test_a_hashed_request_waits_for_its_own_server() -> None:
    fleet = Fleet(1, 1, balance="header:X-User")
    first, what = fleet.ask(0, b"X-User: a\r\n")
    assert isinstance(what, Server)
    second, waiter = fleet.ask(1, b"X-User: a\r\n")
    assert isinstance(waiter, Waiter) and waiter.index is not None
    assert (second.srv_queue, second.backend_queue) == (0, 0)
    other, free = fleet.ask(1)
    assert isinstance(free, Server) and free is not what
    fleet.over(other)
    assert not fleet.went_on
    fleet.over(first)
    assert fleet.take() == [second]
    assert second.server is not None and second.server.name == what.name


def test_a_server_that_has_failed_the_request_is_not_waited_for() -> None:
    fleet = Fleet(1, 1, workers=1)
    one, _ = fleet.ask()
    two, _ = fleet.ask()
    tx = Transaction()
    tx.backend = fleet.backends[0]
    tx.client = SimpleNamespace(own=None)  # type: ignore[assignment]
    tx.head = request_head()
    tx.tried = frozenset({one.index})
    waiter = fleet.gates[0].pick(tx)
    assert isinstance(waiter, Waiter)
    behind, _ = fleet.ask()
    fleet.over(one)
    assert fleet.take() == [behind]
    fleet.over(two)
    assert waiter.server is not None and waiter.server.name == f"s{two.index}"
    tx.tried = frozenset({0, 1})
    assert fleet.gates[0].pick(tx) is Reason.NO_SERVER


def test_a_dead_workers_places_are_given_to_those_that_wait() -> None:
    fleet = Fleet(1)
    fleet.ask(0)
    waiting, _ = fleet.ask(1)
    fleet.board.retire(0)
    fleet.keeper._wanted[0] = 1  # as `follow` would say
    fleet.keeper.look()
    assert not fleet.keeper.tick(0.0)
    fleet.hear()
    assert fleet.take() == [waiting]
    assert fleet.active() == [1]


def test_a_failure_while_one_is_served_does_not_stop_the_others() -> None:
    """Who gets a place may give it back at once: that is no deeper call for each of those that wait."""
    fleet = Fleet(1, workers=1, queue={"size": 5000})
    tx, _ = fleet.ask()
    waiting = [fleet.ask() for _ in range(3000)]
    for one, waiter in waiting:
        waiter.start(lambda answer, one=one: fleet.over(one))
    fleet.over(tx)
    assert fleet.active() == [0] and len(fleet.gates[0]) == 0
