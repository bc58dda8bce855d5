"""Stickiness in a worker: where a request with a cookie goes, what servers see, what the client is told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pylb.config import stickiness
from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Server, Sticky
from pylb.http.response import ResponseHead
from pylb.net.serverlists import Listed
from pylb.scoreboard import Scoreboard
from pylb.servers import OF_THE_CONTROL_PLANE, Admin, Column, Health, Table
from pylb.worker.backend import Backend
from pylb.worker.facts import Client
from pylb.worker.phases import choose, sticky
from pylb.worker.phases.pick import pick
from pylb.worker.transaction import Transaction
from tests.http.wire import Transport
from tests.worker.scene import Scene
from tests.worker.stand_ins import OK, SWITCH, FakeServer, request_head


def scene_of(patch: pytest.MonkeyPatch, pooled: bool = True, **sticky: Any) -> Scene:
    return Scene(patch, pooled, sticky=Sticky(cookie="SRV", **sticky))


def ask(scene: Scene, cookie: str = "") -> bytes:
    """Send a request; gives its head as the server has it, if one has it."""
    line = f"Cookie: {cookie}\r\n" if cookie else ""
    head = request_head(f"GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n".encode())
    scene.request(head)
    return head.printed()


def told(scene: Scene) -> list[str]:
    """The lines of the response's head about the cookie, and for caches."""
    (account,) = scene.accounts
    response: ResponseHead = account["response"]
    lines = response.out.decode().split("\r\n")
    return [line for line in lines if line.startswith(("Set-Cookie", "Cache-Control"))]


def test_the_cookie_decides_the_server_does_not_see_it_and_the_client_hears_nothing_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = scene_of(monkeypatch)
    printed = ask(scene, "a=1; SRV=s2; b=2")
    assert scene.exchange.tx.index == 2 and scene.server is scene.idle[2]
    assert b"\r\nCookie: a=1; b=2\r\n" in printed
    scene.tell(scene.exchange.response, OK, OK.out + b"ok", len(OK.out), True)
    assert told(scene) == []
    assert scene.accounts[0]["response"] is OK


@pytest.mark.parametrize("cookie", ["", "SRV=s7", "SRV=", "other=s2"])
def test_without_a_cookie_of_a_server_the_algorithm_decides_and_the_client_gets_one(
    monkeypatch: pytest.MonkeyPatch, cookie: str
) -> None:
    scene = scene_of(monkeypatch)
    ask(scene, cookie)
    assert scene.exchange.tx.index == 0
    scene.tell(scene.exchange.response, OK, OK.out + b"ok", len(OK.out), True)
    assert told(scene) == ["Set-Cookie: SRV=s0; Path=/; HttpOnly", "Cache-Control: private"]


def test_a_server_that_can_not_be_connected_to_loses_its_client_to_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = scene_of(monkeypatch, pooled=False)
    ask(scene, "SRV=s1")
    assert scene.exchange.tx.index == 1
    scene.connect(ConnectionRefusedError(111, "refused"), FakeServer())
    assert scene.exchange.tx.index == 0
    scene.tell(scene.exchange.response, OK, OK.out + b"ok", len(OK.out), True)
    assert told(scene)[0] == "Set-Cookie: SRV=s0; Path=/; HttpOnly"


@pytest.mark.parametrize(
    ("column", "value", "keeps"),
    [
        (Column.HEALTH, Health.UP, True),
        (Column.HEALTH, Health.DOWN, False),
        (Column.EJECTED, 1, False),
        (Column.ADMIN, Admin.DRAIN, True),
        (Column.ADMIN, Admin.MAINTENANCE, False),
        (Column.WEIGHT, 0, True),
    ],
)
def test_who_drains_keeps_its_clients_and_who_is_down_loses_them(
    column: Column, value: int, keeps: bool
) -> None:
    servers = tuple(
        Server(name=f"s{number}", address=parse_address(f"10.0.0.{number}:80")) for number in range(3)
    )
    config = BackendConfig(
        name="b", balance="roundrobin", servers=servers, sticky=Sticky(cookie="SRV"), retries=3
    )
    board = Scoreboard(1)
    backend = Backend(config, board, servers.index, 0)
    backend.stick(stickiness.compiled(config))
    backend.choose = choose.compiled(backend)
    tx = Transaction()
    tx.client = Client(cast(asyncio.BaseTransport, Transport()), "127.0.0.1:80")
    tx.backend = backend

    def picks(cookie: str, times: int = 6) -> set[str]:
        sticky.request(False)(asking(tx, cookie))
        return {server.name for _ in range(times) if (server := pick(tx)) is not None}

    assert picks("SRV=s1") == {"s1"}
    write = Table(board).control_set if column in OF_THE_CONTROL_PLANE else Table(board).supervisor_set
    write(column, 1, value)
    assert picks("SRV=s1") == ({"s1"} if keeps else {"s0", "s2"})
    assert ("s1" in picks("")) is (value == Health.UP and column is Column.HEALTH)
    assert picks("SRV=s2") == {"s2"}
    backend.set_servers([Listed(servers[2], 2), Listed(servers[0], 0)])
    assert picks("SRV=s2") == {"s2"} and picks("SRV=s1") == {"s0", "s2"}


def asking(tx: Transaction, cookie: str) -> Transaction:
    line = f"Cookie: {cookie}\r\n" if cookie else ""
    tx.head = request_head(f"GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n".encode())
    return tx


def test_answers_of_pylbs_own_have_no_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(monkeypatch, pooled=False)
    ask(scene, "SRV=s1")
    scene.connect(*[ConnectionRefusedError(111, "refused")] * 2)
    assert scene.accounts[0]["own"] and told(scene) == ["Cache-Control: no-store"]


def test_what_rules_have_edited_stays_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(monkeypatch)
    (phase,) = scene.frontend.on_request
    head = request_head(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: SRV=s2; a=1\r\n\r\n")
    head.changes = lambda printed: printed.replace(b"a=1", b"a=2")
    tx = Transaction()
    tx.head, tx.backend = head, scene.backend
    edits = sticky.request(edited=True)
    assert edits(tx) is None
    assert b"\r\nCookie: a=2\r\n" in head.printed()
    assert phase(tx) is None  # of a frontend whose rules edit nothing: what was there is another request's
    assert b"\r\nCookie: a=1\r\n" in head.printed()


def test_another_backend_of_the_frontend_knows_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(monkeypatch)
    scene.backend.stick(None)
    assert b"SRV=s2" in ask(scene, "SRV=s2")
    scene.tell(scene.exchange.response, OK, OK.out + b"ok", len(OK.out), True)
    assert told(scene) == []


def test_a_servers_value_gets_the_server_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(monkeypatch, mode="prefix")
    assert b"\r\nCookie: SRV=app\r\n" in ask(scene, "SRV=s1~app")
    assert scene.exchange.tx.index == 1
    own = OK.adding(b"Set-Cookie: SRV=new; Path=/app\r\n")
    scene.tell(scene.exchange.response, own, own.out + b"ok", len(own.out), True)
    assert told(scene) == ["Set-Cookie: SRV=s1~new; Path=/app"]


def test_an_upgrade_tells_the_client_too(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(monkeypatch)
    ask(scene)
    scene.tell(scene.exchange.switched, SWITCH)
    response = scene.exchange.tx.response
    assert response is not None and b"\r\nSet-Cookie: SRV=s0; Path=/; HttpOnly\r\n" in response.out
