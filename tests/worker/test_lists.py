"""A backend whose servers change while it serves, and what the table of servers does to its picks."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import pytest

from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Server as ServerConfig
from pylb.net.serverlists import Listed, packets
from pylb.scoreboard import Field, Scoreboard, ServerField
from pylb.servers import Admin, Column, Health, Table
from pylb.worker.backend import Backend, Server
from pylb.worker.facts import Client
from pylb.worker.lists import Lists
from pylb.worker.phases.pick import pick
from pylb.worker.transaction import Transaction
from tests.http.wire import TestCore, Transport
from tests.worker.stand_ins import FakeServer

ALGORITHMS = ["roundrobin", "leastconn", "random", "first", "leastlatency", "source"]


def listed(*names: str, **settings: Any) -> list[Listed]:
    """Servers by their numbers: ``s3`` has address 10.0.0.3 and index 3."""
    return [
        Listed(
            ServerConfig(name=name, address=parse_address(f"10.0.0.{name[1:]}:80"), **settings),
            int(name[1:]),
        )
        for name in names
    ]


def backend(board: Scoreboard, servers: Iterable[Listed], balance: str = "roundrobin") -> Backend:
    static = tuple(one.config for one in servers)
    return Backend(BackendConfig(name="b", balance=balance, servers=static), board, list(servers), 0)


def picked(made: Backend, tried: frozenset[int] = frozenset(), count: int = 60) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(count):
        tx = Transaction()
        tx.client = Client(cast(asyncio.BaseTransport, Transport()), "127.0.0.1:80")
        tx.backend, tx.tried = made, tried
        server = pick(tx)
        if server is not None:
            found[server.name] += 1
            assert tx.index == server.index
            server.active[0] -= 1
    return found


@pytest.mark.parametrize("balance", ALGORITHMS)
def test_servers_come_and_go(balance: str) -> None:
    board = Scoreboard(1)
    made = backend(board, listed("s1", "s2"), balance)
    made.look_at([0, 1])
    stays = made.servers[1]
    stays.requests = 7
    made.set_servers(listed("s3", "s2"))
    assert [server.name for server in made.servers] == ["s3", "s2"] and made.servers[1] is stays
    assert picked(made).keys() <= {"s2", "s3"}
    assert stays.requests >= 7
    made.set_servers([])
    assert picked(made) == {}
    made.set_servers(listed("s1"))
    assert picked(made) == {"s1": 60}


def test_a_slow_server_is_known_as_slow_when_others_come_or_go() -> None:
    made = backend(Scoreboard(1), listed("s1", "s2"), "leastlatency")
    for server, seconds in zip(made.servers, (0.9, 0.1), strict=True):
        assert server.observe is not None
        server.observe(seconds)
    made.set_servers(listed("s3", "s2", "s1"))
    assert "s1" not in picked(made)
    made.set_servers(listed("s2"))
    made.set_servers(listed("s1", "s2"))  # it was away: nobody knows what is there now
    assert "s1" in picked(made)


@pytest.mark.parametrize("balance", ALGORITHMS)
def test_the_table_takes_servers_out_and_in_again(balance: str) -> None:
    board = Scoreboard(1)
    table = Table(board)
    made = backend(board, listed("s1", "s2"), balance)
    table.control_set(Column.HEALTH, 1, Health.DOWN)
    assert picked(made) == {"s2": 60} and made.servers[0].down
    table.supervisor_set(Column.ADMIN, 2, Admin.DRAIN)
    assert picked(made) == {} and not made.servers[1].down
    made.set_servers(listed("s1", "s2", "s3"))  # what the table says holds for a new list, too
    assert picked(made) == {"s3": 60}
    table.control_set(Column.HEALTH, 1, Health.UP)
    table.supervisor_set(Column.ADMIN, 3, Admin.MAINTENANCE)
    assert picked(made) == {"s1": 60} and not made.servers[0].down


def test_a_weight_of_the_table_goes_before_the_configurations() -> None:
    board = Scoreboard(1)
    table = Table(board)
    made = backend(board, listed("s1", "s2", weight=2))
    table.supervisor_set(Column.WEIGHT, 1, 4)
    assert picked(made) == {"s1": 40, "s2": 20}
    made.set_servers(listed("s1", "s2", "s3", weight=2))
    assert picked(made) == {"s1": 30, "s2": 15, "s3": 15}
    table.supervisor_set(Column.WEIGHT, 1, -1)
    assert picked(made) == {"s1": 20, "s2": 20, "s3": 20}


def test_who_was_tried_stays_excluded_when_the_list_changes() -> None:
    made = backend(Scoreboard(1), listed("s1", "s2"))
    assert picked(made, frozenset({1})) == {"s2": 60}
    made.set_servers(listed("s2"))  # it stands where s1 stood
    assert picked(made, frozenset({1})) == {"s2": 60}
    assert picked(made, frozenset({2})) == {}


def test_a_server_that_goes_down_is_told_once() -> None:
    board = Scoreboard(1)
    table = Table(board)
    made = backend(board, listed("s1", "s2"))
    told: list[Server] = []
    made.on_down.append(told.append)
    table.control_set(Column.HEALTH, 2, Health.DOWN)
    made.look()
    table.control_set(Column.EJECTED, 2, 1)
    made.look()
    made.set_servers(listed("s2"))
    assert [server.name for server in told] == ["s2"]


def test_only_what_has_changed_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Scoreboard(1, 2048)
    table = Table(board)
    servers = [
        Listed(ServerConfig(name=f"s{n}", address=parse_address("10.0.0.1:80")), n) for n in range(2000)
    ]
    made = backend(board, servers)
    looked: list[int] = []
    weigh = made.shares.weigh

    def noted(server: int, weight: float, now: float) -> None:
        looked.append(server)
        weigh(server, weight, now)

    monkeypatch.setattr(made.shares, "weigh", noted)
    table.control_set(Column.HEALTH, 1234, Health.DOWN)
    table.control_set(Column.HEALTH, 2040, Health.DOWN)  # another backend's
    assert picked(made, count=1) and looked == [1234]
    assert picked(made, count=1) and looked == [1234]


def test_a_removed_server_answers_what_it_has_and_then_nothing_is_left_of_it() -> None:
    board = Scoreboard(1)
    made = backend(board, listed("s1", "s2"))
    gone = made.servers[0]
    gone.requests = 5
    gone.active[0] = 1
    idle, late = FakeServer(), FakeServer()
    gone.pool.idle[idle] = None
    made.flush()
    made.set_servers(listed("s2"))
    assert idle.closed and not gone.pool.idle and gone.active[0] == 1
    assert board.server_total(ServerField.REQUESTS, 1) == 0
    gone.active[0] -= 1  # its request ends, and the connection goes back to the pool
    gone.pool.idle[late] = None
    made.flush()
    assert late.closed and not gone.pool.idle and made._leaving == []
    gone.requests += 1
    made.flush()
    assert board.server_total(ServerField.REQUESTS, 1) == 0


def test_the_slow_start_of_one_that_is_added_and_of_one_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    board = Scoreboard(1)
    made = backend(board, listed("s1", "s2", slow_start=10.0))
    assert not made.shares.rising  # at the start all have their whole weight
    made.set_servers(listed("s1", "s2", "s3", slow_start=10.0))
    assert picked(made, count=410)["s3"] == pytest.approx(10, abs=1)
    now[0] += 5.0
    made.set_servers(listed("s2", "s3", slow_start=10.0))
    assert picked(made, count=300)["s3"] == pytest.approx(100, abs=1)


class Told:
    """Two backends and what the supervisor tells of them."""

    def __init__(self) -> None:
        self.board = Scoreboard(1)
        self.core = TestCore()
        self.config = BackendConfig(name="b", servers=(listed("s1")[0].config,))
        self.backend = Backend(self.config, self.board, listed("s1"), 0)
        self.lists = Lists(self.core, self.board.row(0), [self.config], {"b": self.backend}, 3)

    def hear(self, version: int, *names: str, backend: str = "b") -> None:
        for packet in packets(backend, version, listed(*names)):
            self.lists.hear(json.loads(json.dumps(packet)))

    @property
    def version(self) -> int:
        return self.board.row(0)[Field.LISTS]


def test_a_list_is_acknowledged_when_the_backend_goes_by_it() -> None:
    told = Told()
    assert told.core.counters[Field.LISTS] == 3
    told.hear(4, "s1", "s2")
    assert (told.version, [server.name for server in told.backend.servers]) == (4, ["s1", "s2"])
    told.hear(5, backend="unknown")
    assert told.version == 5


def test_a_list_that_fails_is_not_acknowledged_nor_any_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(told.backend, "set_servers", lambda listed: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a worker's core would log it
        told.hear(4, "s1", "s2")
    told.hear(5, backend="unknown")
    assert told.version == 0
