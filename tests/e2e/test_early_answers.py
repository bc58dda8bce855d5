"""A server answers before it has all of a request, and closes: the answer reaches the client every time."""

from __future__ import annotations

import contextlib
import socket

from tests.e2e.conftest import StartBalancer, StartServer
from tests.e2e.origin import read_head

ANSWER = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"
TRIES = 20
SENT = 8 << 20
"""Bytes that a client sends whatever it is answered: more than all buffers on the way."""


def _refuses(sock: socket.socket) -> None:
    read_head(sock)
    sock.sendall(ANSWER)  # and its close, with so much unread, is a reset


def test_an_early_answer_reaches_a_client_that_goes_on_sending(
    balancer: StartBalancer, scripted: StartServer
) -> None:
    running = balancer("--workers", "1..1", servers=(scripted(_refuses).address,))
    answers = []
    for _ in range(TRIES):
        with socket.create_connection(("127.0.0.1", running.port), timeout=50) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SENT)
            for _ in range(SENT >> 16):
                sock.sendall(b"x" * 65536)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while not answer.endswith(b"no!") and (piece := sock.recv(65536)):
                    answer += piece
            answers.append(answer.partition(b"\r\n")[0] + answer[-3:])
    assert answers == [b"HTTP/1.1 413 Too Largeno!"] * TRIES
