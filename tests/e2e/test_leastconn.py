"""leastconn counts the requests of all workers: each goes to the server that has fewest in all."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from bench.rig.balancer import Balancer
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Scripted


class Holding(Scripted):
    """A server that answers ``/`` and holds every other request for ever; ``held`` counts those."""

    def __init__(self) -> None:
        self.held = 0
        super().__init__(self._serve)

    def _serve(self, connection: socket.socket) -> None:
        while head := connection.recv(65536):
            if head.startswith(b"GET / "):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                self.held += 1
                came.release()


came = threading.Semaphore(0)


@pytest.fixture
def servers() -> Iterator[list[Holding]]:
    with contextlib.ExitStack() as started:
        yield [started.enter_context(Holding()) for _ in range(3)]


def both_have_ticked(running: Balancer) -> None:
    """Each worker has answered something and written so: it knows that it is not alone."""

    def counts() -> dict[int, int]:
        return {worker["pid"]: worker["requests"] for worker in running.workers()}

    begun = counts()
    assert len(begun) == 2
    while any(count <= begun[pid] for pid, count in counts().items()):
        with socket.create_connection(("127.0.0.1", running.port), timeout=50) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while sock.recv(65536):
                pass


def test_the_least_loaded_over_all_workers(balancer: StartBalancer, servers: list[Holding]) -> None:
    running = balancer("--workers", "2", servers=tuple(server.address for server in servers))
    running.wait_workers(2)
    both_have_ticked(running)
    both_have_ticked(running)
    clients = []
    for number in range(1, 25):
        client = socket.create_connection(("127.0.0.1", running.port), timeout=50)
        clients.append(client)
        client.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        assert came.acquire(timeout=50)
        held = sorted(server.held for server in servers)
        assert held[-1] - held[0] <= 1, held
        assert sum(held) == number
    status = running.wait("counted", lambda status: status["totals"]["in_flight"] == 24)
    assert [server["active"] for server in status["servers"]] == [8, 8, 8]
    assert all(worker["in_flight"] for worker in status["workers"])  # the connections were spread
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leave with a reset
        client.close()
    running.wait("empty", lambda status: not any(server["active"] for server in status["servers"]))
