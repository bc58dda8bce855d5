"""Who gets a request, with real workers: hashes agree between workers, and backups stand by."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from bench.rig.balancer import Balancer, free_port, frontend
from tests.e2e.origin import Scripted


class Named(Scripted):
    """A server that answers with its name."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        super().__init__(self._serve)

    def _serve(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + self.name)


@pytest.fixture
def servers() -> Iterator[list[Named]]:
    with contextlib.ExitStack() as started:
        yield [started.enter_context(Named(name)) for name in (b"a", b"b", b"c")]


def answer(port: int, fields: str = "") -> bytes:
    """The name of the server that answers a new connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(f"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n".encode())
        got = b""
        while piece := sock.recv(65536):
            got += piece
    assert got.startswith(b"HTTP/1.1 200 "), got
    return got[-1:]


def test_hashes_and_backups(servers: list[Named]) -> None:
    ports = [free_port() for _ in range(2)]
    lines = [f'[[backend.server]]\naddress = "{server.address}"\n' for server in servers]
    text = "workers = {min = 2, max = 2}\n"
    text += frontend("hash", ports[0], backend="hash") + frontend("spare", ports[1], backend="spare")
    text += '[[backend]]\nname = "hash"\nbalance = "header:X-User"\n' + "".join(lines)
    text += '[[backend]]\nname = "spare"\nbalance = "first"\n'
    text += f'[[backend.server]]\naddress = "127.0.0.1:{free_port()}"\n{lines[0]}backup = true\n'
    with Balancer(text=text) as running:
        running.wait_workers(2)
        found = {user: {answer(ports[0], f"X-User: {user}\r\n") for _ in range(6)} for user in range(12)}
        assert all(len(names) == 1 for names in found.values())
        assert len(set[bytes]().union(*found.values())) > 1
        assert {answer(ports[1]) for _ in range(4)} == {b"a"}
