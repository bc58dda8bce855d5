"""A server's places are the same for all workers: in HTTP and TCP mode, and after the death of a worker."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from bench.rig.balancer import PATIENCE, Balancer, backend, free_port, frontend
from tests.e2e.origin import OK, Scripted, read_head

CLIENTS = 12
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class OneByOne:
    """A server that answers each request, or echoes for each connection, when the test says so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: list[socket.socket] = []
        self.most = 0
        self.came: queue.Queue[queue.Queue[None]] = queue.Queue()

    @contextlib.contextmanager
    def _counted(self, connection: socket.socket) -> Iterator[None]:
        """Those that have been closed at the other end don't count, whether this one has noticed or not."""
        with self._lock:
            self._busy.append(connection)
            self.most = max(self.most, sum(map(_is_open, self._busy)))
        try:
            yield
        finally:
            with self._lock:
                self._busy.remove(connection)

    def serve(self, connection: socket.socket) -> None:
        """HTTP."""
        while read_head(connection):
            go_on: queue.Queue[None] = queue.Queue()
            with self._counted(connection):
                self.came.put(go_on)
                go_on.get(timeout=PATIENCE)
            connection.sendall(OK)

    def answer(self) -> None:
        """From now on at once."""

        def answer() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    self.came.get(timeout=PATIENCE).put(None)

        threading.Thread(target=answer, daemon=True).start()

    def echo(self, connection: socket.socket) -> None:
        """TCP."""
        with self._counted(connection):
            while data := connection.recv(100):
                connection.sendall(data)


def _is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.fixture
def http() -> Iterator[OneByOne]:
    yield OneByOne()


def _waiting(status: dict[str, object], name: str) -> int:
    queues = status["queues"]
    assert isinstance(queues, list)
    return sum(one["waiting"] for one in queues if one["backend"] == name)


def _connect(port: int, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    client.sendall(data)
    return client


def test_one_at_a_time_over_all_workers_whatever_becomes_of_them(http: OneByOne) -> None:
    raw = OneByOne()
    port, tcp_port = free_port(), free_port()
    more = 'maxconn = 1\n[backend.queue]\ntimeout = "50s"\n'
    with Scripted(http.serve) as server, Scripted(raw.echo) as echo:
        text = "[workers]\nmin = 2\nmax = 2\n" + frontend("f", port)
        text += frontend("t", tcp_port, 'mode = "tcp"\n', "t")
        text += backend("b", [server.address]).replace("[[backend.server]]\n", f"{more}[[backend.server]]\n")
        text += backend("t", [echo.address]) + "maxconn = 1\n"
        with Balancer(text=text) as balancer:
            # HTTP: one after the other, whichever worker has the connections.
            clients = [_connect(port, GET) for _ in range(CLIENTS)]
            first = http.came.get(timeout=PATIENCE)
            balancer.wait("waiting", lambda status: _waiting(status, "b") == CLIENTS - 1)
            # The worker dies that has the place: its clients are lost, and those of the other one are served.
            status = balancer.wait("busy", lambda status: any(one["in_flight"] for one in status["workers"]))
            (busy,) = [worker["pid"] for worker in status["workers"] if worker["in_flight"]]
            os.kill(busy, signal.SIGKILL)
            balancer.wait("gone", lambda status: busy not in [one["pid"] for one in status["workers"]])
            fresh = _connect(port, GET)
            http.answer()
            assert fresh.recv(100).startswith(b"HTTP/1.1 200 ")
            for client in clients:
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(100)[:13] in (b"HTTP/1.1 200 ", b"")
            assert http.most == 1
            first.put(None)
            # TCP: a connection has its place until it is closed.
            one = _connect(tcp_port, b"one")
            assert one.recv(100) == b"one"
            other = _connect(tcp_port, b"other")
            balancer.wait("waiting", lambda status: _waiting(status, "t") == 1)
            one.close()
            assert other.recv(100) == b"other"
            assert raw.most == 1
            for client in (*clients, fresh, other):
                client.close()
            balancer.wait("empty", lambda status: not _waiting(status, "b") and not _waiting(status, "t"))
