"""The load generator counts what it sent, and what came of it."""

from __future__ import annotations

import socket

import pytest

from bench.rig.balancer import free_port
from bench.rig.load import closed_loop, open_loop
from tests.e2e.conftest import origin
from tests.e2e.origin import Origin, Scripted, read_head

__all__ = ["origin"]


@pytest.mark.parametrize("keep_alive", [True, False])
def test_every_request_is_answered_once(origin: Origin, keep_alive: bool) -> None:
    outcome = closed_loop(origin.port, 8, requests=200, keep_alive=keep_alive)
    assert (len(outcome.latencies), outcome.failed) == (200, 0)
    assert len(origin.heads) == 200
    assert origin.connections == (8 if keep_alive else 200)
    assert list(outcome.ends) == sorted(outcome.ends)


def test_open_loop_sends_what_is_due(origin: Origin) -> None:
    outcome = open_loop(origin.port, lambda at: 400.0 if at < 0.5 else 100.0, seconds=1.0)
    assert len(outcome.latencies) + outcome.failed == len(origin.heads)
    assert outcome.failed == 0
    assert abs(len(outcome.latencies) - 250) <= 2


def test_nobody_there() -> None:
    outcome = closed_loop(free_port(), 4, requests=10)
    assert (len(outcome.latencies), outcome.failed) == (0, 10)


def test_an_error_and_half_an_answer_have_failed() -> None:
    answers = [
        b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
    ]
    left = iter(answers)

    def play(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(next(left))

    with Scripted(play) as server:
        outcome = closed_loop(server.port, 1, requests=2)
    assert (len(outcome.latencies), outcome.failed) == (0, 2)
