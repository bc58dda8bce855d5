"""From a backend's configuration to its picks: keys of requests, backups, slow start, response times."""

from __future__ import annotations

from typing import Any

import pytest

from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Frontend as FrontendConfig
from pylb.config.model import Server as ServerConfig
from pylb.http.request import RequestHead
from pylb.scoreboard import Scoreboard, ServerField
from pylb.worker import phases
from pylb.worker.backend import Backend
from pylb.worker.phases import choose, keys
from pylb.worker.phases.pick import pick
from pylb.worker.transaction import Transaction
from tests.http.wire import TestCore
from tests.worker.stand_ins import OK, request_head

HEAD = request_head(
    b"GET /a/b?user=7&x=&empty&user=8 HTTP/1.1\r\nHost: h\r\nX-User:  ann \r\n"
    b"Cookie: sidx=no; sid=s1; other=2\r\nX-Empty:\r\n\r\n"
)


class From:
    """A client of which only the address matters."""

    own = None

    def __init__(self, source: tuple[str, int] | None) -> None:
        self.source = source


def config(balance: str, count: int = 3, **servers: Any) -> BackendConfig:
    """A backend; of each setting of the servers, the list is theirs in order."""
    settings = [{name: values[number] for name, values in servers.items()} for number in range(count)]
    made = tuple(
        ServerConfig(name=f"s{number}", address=parse_address(f"10.0.0.{number}:80"), **setting)
        for number, setting in enumerate(settings)
    )
    return BackendConfig(name="b", balance=balance, servers=made)


def backend(balance: str, board: Scoreboard | None = None, row: int = 0, **more: Any) -> Backend:
    found = config(balance, **more)
    made = Backend(found, board or Scoreboard(1), found.servers.index, row)
    made.key = keys.compiled(found)
    made.choose = choose.compiled(made)
    return made


def transaction(
    backend: Backend | None = None, head: RequestHead | None = HEAD, source: str | None = "192.0.2.1"
) -> Transaction:
    tx = Transaction()
    tx.head = head
    tx.client = From((source, 7) if source else None)  # type: ignore[assignment]
    if backend is not None:
        tx.backend = backend
    return tx


@pytest.mark.parametrize(
    ("balance", "key"),
    [
        ("source", b"192.0.2.1"),
        ("uri", b"/a/b"),
        ("path", b"/a/b"),
        ("header:X-User", b"ann"),
        ("header:X-Empty", None),
        ("header:Not-There", None),
        ("cookie:sid", b"s1"),
        ("cookie:id", None),
        ("query:user", b"7"),
        ("query:x", None),
        ("query:empty", None),
    ],
)
def test_what_is_hashed(balance: str, key: bytes | None) -> None:
    compiled = keys.compiled(config(balance))
    assert compiled is not None
    assert compiled(transaction()) == key
    if balance != "source":
        assert compiled(transaction(head=None)) is None
    else:
        assert compiled(transaction(source=None)) is None


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "random", "first", "leastlatency"])
def test_other_algorithms_have_no_key(balance: str) -> None:
    assert keys.compiled(config(balance)) is None


@pytest.mark.parametrize("balance", ["source", "header:X-User", "cookie:sid", "query:user", "path"])
def test_equal_requests_get_one_server_from_all_workers(balance: str) -> None:
    board = Scoreboard(2)
    workers = [backend(balance, board, row) for row in range(2)]
    picked = {pick(transaction(worker)).name for worker in workers for _ in range(3)}  # type: ignore[union-attr]
    assert len(picked) == 1


def test_workers_count_what_the_others_are_at() -> None:
    board = Scoreboard(2)
    one, other = (backend("leastconn", board, row, count=2) for row in range(2))
    for worker in (one, other):
        worker.look_at([0, 1])
    for _ in range(20):
        pick(transaction(one))
        pick(transaction(other))
    assert [sum(server.active) for server in one.servers] == [20, 20]
    board.retire(1)
    assert sum(sum(server.active) for server in one.servers) == 20


def test_a_backup_is_for_when_all_others_were_tried() -> None:
    made = backend("roundrobin", backup=[False, True, False])
    tx = transaction(made)
    assert {pick(tx).name for _ in range(6)} == {"s0", "s2"}  # type: ignore[union-attr]
    tx.tried = frozenset({0, 2})
    assert pick(tx) is made.servers[1]
    tx.tried = frozenset({0, 1, 2})
    assert pick(tx) is None


def test_a_server_that_can_be_connected_to_again_begins_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    core = TestCore()
    made = backend("roundrobin", count=2, slow_start=[10.0, 0.0])
    server = made.servers[0]
    server.failed(core, "connect", "refused")
    server.works(core)

    def share() -> int:
        return [pick(transaction(made)) for _ in range(210)].count(server)

    assert share() == pytest.approx(10, abs=1)
    now[0] += 5.0
    made.flush()
    assert share() == pytest.approx(70, abs=1)
    now[0] += 5.0
    made.flush()
    assert (share(), made.shares.rising) == (105, False)


def test_response_times_are_told_only_to_an_algorithm_that_goes_by_them() -> None:
    front = FrontendConfig(name="f", bind=(parse_address("127.0.0.1:80"),), backend="b")
    plain = phases.compiled(front, {"b": backend("leastconn")}, TestCore())
    assert plain.on_account == ()
    made = backend("leastlatency", count=2)
    (observe,) = phases.compiled(front, {"b": made}, TestCore()).on_account
    for server in made.servers:
        tx = transaction(made)
        tx.server, tx.response = server, OK
        tx.began_ns, tx.answered_ns = 10**9, 10**9 + 10**6 * (1 if server.name == "s0" else 900)
        observe(tx)
    assert {pick(transaction(made)).name for _ in range(5)} == {"s0"}  # type: ignore[union-attr]


def test_a_server_that_fails_at_once_is_no_fast_one() -> None:
    made = backend("leastlatency", count=2)
    made.servers[0].failed(TestCore(), "connect", "refused")
    assert {pick(transaction(made)).name for _ in range(5)} == {"s1"}  # type: ignore[union-attr]


def test_the_counters_of_many_servers_are_all_written_within_ten_ticks() -> None:
    board = Scoreboard(1)
    servers = tuple(
        ServerConfig(name=f"s{number}", address=parse_address(f"10.0.0.{number}:80")) for number in range(203)
    )
    made = Backend(BackendConfig(name="b", servers=servers), board, servers.index, 0)
    for server in made.servers:
        server.requests = 1

    def written() -> int:
        return sum(board.server_total(ServerField.REQUESTS, number) for number in range(203))

    made.flush()
    assert 0 < written() < 203
    for _ in range(9):
        made.flush()
    assert written() == 203
    made.servers[100].requests = 2
    made.flush(all_servers=True)
    assert written() == 204


def test_active_requests_at_all_servers_are_added_up() -> None:
    board = Scoreboard(2)
    for number in range(board.servers):
        board.server_column(ServerField.ACTIVE, number)[1] = number
    assert board.active_total(1) == sum(range(board.servers))
    assert board.active_total(0) == 0
