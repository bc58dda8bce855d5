"""An error of pylb's own in a TCP codec: it costs the connection, and what belongs to it ends with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pylb.worker.client import tcp as client_tcp
from pylb.worker.reasons import Reason
from pylb.worker.server import tcp as server_tcp
from tests.http.wire import Transport
from tests.worker.stand_ins import Fault
from tests.worker.tcp_line import Line


def _raises(*_: object) -> Any:
    raise Fault


@pytest.mark.parametrize(
    ("owner", "name", "play", "accounts"),
    [
        # Before there is an exchange, the error is in pylb's own log only.
        (client_tcp, "Client", lambda line: None, 0),
        (client_tcp, "begin", lambda line: None, 0),
        (Transport, "pause_reading", lambda line: line.near.protocol.data_received(b"x" * 70_000), 1),
        (Transport, "can_write_eof", lambda line: line.ends(line.near), 1),
        (client_tcp, "ConnectionPipe", lambda line: line.connect(), 1),
        (server_tcp, "ConnectionPipe", lambda line: line.connect(), 1),
    ],
)
async def test_an_error_towards_a_client_costs_its_connection(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, play: Callable[[Line], None], accounts: int
) -> None:
    line = Line(monkeypatch)
    errors = line.core.errors = []
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _raises)
        line.begin()
        if not line.near.closed:
            line.comes(line.near, b"in")
        play(line)
    line.settle()
    assert [type(error) for error in errors] == [Fault]
    assert line.near.aborted and line.near.written == b""
    assert not line.core.clients and not line.core.tunnels
    assert all(task.cancelled for task in line.core.stand_in.tasks)
    assert line.far.closed or not line.asked
    assert [account[0] for account in line.accounts] == [Reason.INTERNAL] * accounts


@pytest.mark.parametrize("name", ["set_write_buffer_limits", "pause_reading", "can_write_eof"])
async def test_an_error_towards_a_server_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """There is no exchange yet that it could cost."""

    def fails(far: Transport) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Transport, name, _raises)
            far.protocol.connection_made(far)
            far.protocol.data_received(b"220 ")
            far.protocol.eof_received()
        assert far.aborted
        far.protocol.connection_lost(None)

    line = Line(monkeypatch).begin()
    errors = line.core.errors = []
    line.comes(line.near, b"in")
    line.connect(fails)
    assert line.asked == ["usual", "usual"] and line.far.written == b"in" and line.near.written == b""
    assert [type(error) for error in errors] == [Fault]


async def test_an_error_while_the_name_is_read_is_not_told_as_the_clients_leaving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line(monkeypatch, sni=True).begin()
    errors = line.core.errors = []
    with monkeypatch.context() as patch:
        patch.setattr(client_tcp, "client_hello", _raises)
        line.comes(line.near, b"\x16")
    line.settle()
    assert line.near.aborted and not line.core.clients
    assert [type(error) for error in errors] == [Fault]
    assert line.accounts == [(Reason.INTERNAL, "R", 0, 0)]


async def test_an_error_while_it_is_told_that_a_client_left_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line(monkeypatch, sni=True).begin()
    errors = line.core.errors = []
    line.comes(line.near, b"\x16")
    monkeypatch.setattr(client_tcp, "begin", _raises)
    line.near.close()
    line.settle()
    assert not line.core.clients
    assert [type(error) for error in errors] == [Fault]
