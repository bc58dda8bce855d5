"""Every state of a request has a deadline, whoever is waited for."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pylb.scoreboard import Field
from tests.http.wire import Wire

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
SWITCH = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"


def _connecting(wire: Wire) -> None:
    wire.upstream.pool.idle.clear()
    wire.client_sends(GET)


def _untaken(wire: Wire) -> None:
    wire.client_sends(GET)
    wire.server_sends(HALF)
    wire.client.pause_writing()


def _sends(*pieces: bytes) -> Callable[[Wire], None]:
    def play(wire: Wire) -> None:
        for piece in pieces:
            wire.client_sends(piece)

    return play


def _answered(request: bytes, response: bytes) -> Callable[[Wire], None]:
    def play(wire: Wire) -> None:
        wire.client_sends(request)
        wire.server_sends(response)

    return play


STATES: dict[str, tuple[Callable[[Wire], None], str]] = {
    "idle": (lambda wire: None, "keep_alive"),
    "half a head": (_sends(GET[:9]), "request"),
    "connecting": (_connecting, "connect"),
    "body": (_sends(POST + b"half"), "client"),
    "waiting": (_sends(GET), "server"),
    "body and waiting": (_sends(POST, b"0123456789"), "server"),
    "response": (_answered(GET, HALF), "server"),
    "response that isn't taken": (_untaken, "client"),
    "response before the request's end": (_answered(POST, HALF[:-4]), "client"),
    "closing": (_sends(b"NONSENSE\r\n\r\n"), "client"),
    "tunnel": (_answered(UPGRADE, SWITCH), "tunnel"),
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_a_deadline(state: str) -> None:
    wire = Wire()
    play, timeout = STATES[state]
    play(wire)
    due = [wire.client.due()]
    due += [tunnel.deadline for tunnel in wire.worker.tunnels]
    limit = getattr(wire.worker.timeouts, timeout)
    if timeout == "connect":
        limit = limit * (1 + wire.backend.retry.retries) + 1
    assert min(due) == limit < math.inf
    for task in wire.worker.stand_in.tasks:
        task.cancel()


def test_a_connect_that_never_ends_is_answered() -> None:
    """The task that connects hangs, as no limit of a single try would let it."""
    wire = Wire()
    _connecting(wire)
    (task,) = wire.worker.stand_in.tasks
    wire.worker.now = wire.client.due() + 0.1
    wire.client.expire()
    assert wire.statuses() == [504]
    assert task.cancelled
    assert wire.upstream.active[0] == 0


def test_an_error_before_the_response_is_answered_with_500(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    seen = wire.worker.errors = []
    monkeypatch.setattr("pylb.http.response.read_response", lambda raw, head_only: {}[raw])
    wire.client_sends(GET)
    wire.server_sends(HALF)
    assert [type(error) for error in seen] == [KeyError]
    assert wire.statuses() == [500]
    assert wire.client_closed and wire.servers[0].closed
    assert wire.upstream.active[0] == 0
    assert wire.worker.counters[Field.REQUESTS] == wire.worker.counters[Field.STATUS_5XX] == 1


def test_an_error_within_the_response_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    seen = wire.worker.errors = []
    wire.client_sends(GET)
    wire.server_sends(HALF)
    monkeypatch.setattr(wire.near, "write", lambda data: {}[data])
    wire.server_sends(b"other")
    assert [type(error) for error in seen] == [KeyError]
    assert wire.statuses() == [200]
    assert wire.client_closed and wire.servers[0].closed
    wire.client.connection_lost(None)  # as the event loop says then
    assert wire.upstream.active[0] == 0
    assert wire.worker.counters[Field.REQUESTS] == wire.worker.counters[Field.ABORTED] == 1
