"""Servers that are judged: what is counted of their answers, panic, too few of them, and going down."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Frontend as FrontendConfig
from pylb.config.model import Health as HealthPath
from pylb.config.model import Outliers, Server
from pylb.http.errors import Answer
from pylb.http.response import ResponseHead
from pylb.scoreboard import Scoreboard, ServerField
from pylb.servers import Admin, Column, Ejected, Health, Table
from pylb.worker import phases
from pylb.worker.backend import Backend
from pylb.worker.facts import Client
from pylb.worker.phases import outcomes
from pylb.worker.phases.pick import pick
from pylb.worker.reasons import Reason
from pylb.worker.server.down import shut, shutting_sessions
from pylb.worker.server.http1 import Http1ServerConnection
from pylb.worker.transaction import Transaction
from pylb.worker.tunnel import Tunnel
from tests.http.wire import TestCore, Transport
from tests.worker.scene import Scene
from tests.worker.stand_ins import GET, FakeExchange, FakePipe, request_head


def backend_of(count: int = 3, board: Scoreboard | None = None, **more: Any) -> Backend:
    servers = tuple(
        Server(name=f"s{number}", address=parse_address(f"10.0.0.{number}:80")) for number in range(count)
    )
    config = BackendConfig(name="b", balance="roundrobin", servers=servers, **more)
    return Backend(config, board or Scoreboard(1), servers.index, 0)


def transaction(backend: Backend) -> Transaction:
    tx = Transaction()
    tx.client = Client(cast(asyncio.BaseTransport, Transport()), "127.0.0.1:80")
    tx.backend = backend
    return tx


# What is counted


def head_of(status: int) -> ResponseHead:
    return ResponseHead(b"", False, status, True, 0, False, b"")


@pytest.mark.parametrize(
    ("status", "reason", "good", "bad"),
    [
        (200, None, 1, 0),
        (404, None, 1, 0),
        (500, None, 1, 0),
        (503, None, 0, 1),
        (200, Reason.CLIENT_GONE, 1, 0),
        (503, Reason.CLIENT_LATE, 0, 1),
        (200, Reason.SERVER_GONE, 0, 0),  # counted as it failed
        (200, Reason.SERVER_LATE, 0, 0),
        (503, Reason.CONNECT_FAILED, 0, 0),
        (503, Reason.NO_SERVER, 0, 0),
        (101, None, 0, 0),  # counted as the tunnel began
    ],
)
def test_answers_are_counted_once(status: int, reason: Reason | None, good: int, bad: int) -> None:
    backend = backend_of(outliers=Outliers(statuses=(502, 503)))
    count = outcomes.outcomes([backend])
    assert count is not None
    tx = transaction(backend)
    tx.response, tx.reason, tx.answered_ns = head_of(status), reason, 1
    assert pick(tx) is not None and tx.server is not None
    count(tx)
    found = tx.server.outcomes
    assert found is not None and (found.good, found.bad) == (good, bad)


def test_counts_come_to_the_scoreboard_and_go_with_a_worker_or_its_server() -> None:
    board = Scoreboard(1)
    backend = backend_of(board=board, outliers=Outliers())
    found = backend.servers[1].outcomes
    assert found is not None
    found.good, found.bad = 7, 2
    backend.flush()

    def total(field: ServerField) -> int:
        return board.server_total(field, 1)

    assert (total(ServerField.GOOD), total(ServerField.BAD)) == (7, 2)
    board.retire(0)
    assert (total(ServerField.GOOD), total(ServerField.BAD)) == (7, 2)
    backend.flush()
    backend.set_servers([])
    board.forget_server(1)
    assert (total(ServerField.GOOD), total(ServerField.BAD)) == (0, 0)


def test_a_backend_that_judges_nobody_counts_nothing() -> None:
    backend = backend_of()
    assert backend.servers[0].outcomes is None
    assert outcomes.outcomes([backend]) is None


# Panic, trial, and too few servers


def picked(backend: Backend, times: int = 60) -> dict[str, int]:
    tx = transaction(backend)
    found: dict[str, int] = {}
    for _ in range(times):
        server = pick(tx)
        if server is not None:
            found[server.name] = found.get(server.name, 0) + 1
    return found


def test_below_the_share_of_healthy_servers_all_are_used_but_what_an_operator_has_taken_out() -> None:
    board = Scoreboard(1)
    table = Table(board)
    backend = backend_of(4, board, panic=0.5)
    table.supervisor_set(Column.ADMIN, 3, Admin.MAINTENANCE)
    table.control_set(Column.HEALTH, 0, Health.DOWN)
    assert picked(backend).keys() == {"s1", "s2"}
    table.control_set(Column.EJECTED, 1, Ejected.OUT)
    assert picked(backend).keys() == {"s0", "s1", "s2"}
    table.control_set(Column.HEALTH, 0, Health.UP)
    assert picked(backend).keys() == {"s0", "s2"}


def test_without_panic_nobody_is_asked_where_none_is_healthy() -> None:
    board = Scoreboard(1)
    backend = backend_of(2, board)
    for server in (0, 1):
        Table(board).control_set(Column.HEALTH, server, Health.DOWN)
    assert picked(backend) == {}


def test_a_server_that_is_tried_gets_a_small_share() -> None:
    board = Scoreboard(1)
    backend = backend_of(3, board)
    Table(board).control_set(Column.EJECTED, 1, Ejected.TRIED)
    found = picked(backend, 410)
    assert 5 <= found["s1"] <= 15
    backend.set_servers(backend._listed)
    assert 5 <= picked(backend, 410)["s1"] <= 15
    Table(board).control_set(Column.EJECTED, 1, Ejected.IN)
    assert picked(backend, 300)["s1"] == 100


def test_the_health_path_says_so_where_too_few_servers_are_usable() -> None:
    board = Scoreboard(1)
    short, other = backend_of(3, board, min_servers=2), backend_of(3, min_servers=2)
    config = FrontendConfig(
        name="f", bind=(parse_address("127.0.0.1:80"),), backend="b", health=HealthPath(path="/up")
    )
    frontend = phases.compiled(config, {"b": short, "other": other}, TestCore())
    (phase,) = frontend.on_request
    tx = transaction(short)
    tx.head = request_head(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n")

    def status() -> int:
        answer = phase(tx)
        assert isinstance(answer, Answer)
        return answer.head.status

    assert status() == 200
    Table(board).supervisor_set(Column.ADMIN, 0, Admin.DRAIN)
    assert status() == 200
    Table(board).control_set(Column.EJECTED, 1, Ejected.OUT)
    assert status() == 503
    Table(board).control_set(Column.EJECTED, 1, Ejected.IN)
    assert status() == 200


# Going down


def connection(core: TestCore, backend: Backend, server: int = 0) -> tuple[Http1ServerConnection, Transport]:
    made = Http1ServerConnection(core, backend.servers[server])
    transport = Transport()
    made.connection_made(cast(asyncio.BaseTransport, transport))
    return made, transport


def test_a_servers_connections_are_closed_and_requests_there_end() -> None:
    core, backend = TestCore(), backend_of()
    busy, idle, others = (connection(core, backend, server) for server in (0, 0, 1))
    exchange, other = FakeExchange(), FakeExchange()
    busy[0].request(exchange, GET, b"", True)
    others[0].request(other, GET, b"", True)
    shut(core, backend.servers[0])
    assert [told[:2] for told in exchange.told] == [("server_gone", Reason.SERVER_DOWN)]
    assert busy[1].closed and idle[1].closed
    assert not others[1].closed and other.told == []


@pytest.mark.parametrize(
    ("column", "value", "closed"),
    [
        (Column.HEALTH, Health.DOWN, True),
        (Column.ADMIN, Admin.MAINTENANCE, True),
        (Column.ADMIN, Admin.DRAIN, False),
        (Column.EJECTED, Ejected.OUT, False),
    ],
)
def test_checks_and_operators_take_a_server_down(column: Column, value: int, closed: bool) -> None:
    board = Scoreboard(1)
    core, backend, table = TestCore(), backend_of(board=board), Table(board)
    backend.on_down.append(shutting_sessions(core, table))
    _, transport = connection(core, backend)
    write = table.control_set if column in (Column.HEALTH, Column.EJECTED) else table.supervisor_set
    write(column, 0, value)
    backend.look()
    core.stand_in.run()
    assert transport.closed is closed


def test_tunnels_to_it_end() -> None:
    core, backend = TestCore(), backend_of()
    ends: list[Reason | None] = []
    for server in backend.servers[:2]:
        near, far = FakePipe(), FakePipe()
        tunnel = Tunnel(core, near, far, b"", lambda reason, came, went: ends.append(reason), 60.0)
        tunnel.server = server
        tunnel.start()
    shut(core, backend.servers[1])
    assert near.closed and far.closed
    tunnel._near.gone(False)
    tunnel._far.gone(False)
    assert ends == [Reason.SERVER_DOWN] and len(core.tunnels) == 1


def test_the_client_is_answered_and_the_log_says_d(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.request()
    scene.tell(scene.exchange.server_gone, Reason.SERVER_DOWN, "down")
    assert scene.client.told[0][:2] == ("respond", 503)
    account = scene.over()
    assert (account["reason"].letter, account["state"]) == ("D", "H")
