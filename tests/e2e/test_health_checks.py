"""Health checks through the whole of pylb: who gets requests, and what survives whom."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.rig.balancer import Balancer, backend, free_port, frontend
from bench.rig.processes import wait_for
from tests.e2e.origin import Scripted, read_head


class Site(Scripted):
    """A server that says who it is, and whose check passes or not."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.healthy = True
        self.asked = 0
        super().__init__(self._answer)

    def _answer(self, sock: socket.socket) -> None:
        while True:
            head = read_head(sock)
            check = head.startswith(b"GET /health ")
            self.asked += check
            status = b"503 No" if check and not self.healthy else b"200 OK"
            sock.sendall(b"HTTP/1.1 %b\r\nContent-Length: 1\r\n\r\n%b" % (status, self.name))


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site]]:
    with Site("a") as a, Site("b") as b:
        yield a, b


def ask(port: int) -> bytes:
    """The name of the server that answers."""
    with socket.create_connection(("127.0.0.1", port), 25) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        data = b"".join(iter(lambda: sock.recv(65536), b""))
    assert data.startswith(b"HTTP/1.1 200 "), data
    return data[-1:]


def states(status: dict[str, Any]) -> dict[str, str]:
    return {server["name"]: server["state"] for server in status["servers"]}


def check_of(running: Balancer, name: str) -> dict[str, Any]:
    found = next(server["check"] for server in running.status()["servers"] if server["name"] == name)
    assert isinstance(found, dict)
    return found


def control_plane(running: Balancer) -> int:
    """The pid of its process, once there is one."""

    def find() -> int:
        for child in psutil.Process(running.process.pid).children():
            if "control" in " ".join(child.cmdline()):
                return child.pid
        return 0

    return wait_for("a control plane", find)


def test_a_server_goes_and_its_state_survives_control_plane_and_reload(
    sites: tuple[Site, Site], tmp_path: Path
) -> None:
    a, b = sites
    port, file = free_port(), tmp_path / "pylb.toml"
    check = '[backend.check]\npath = "/health"\ninterval = "50ms"\ntimeout = 25\nfall = 2\n'

    def text(*servers: str) -> str:
        many = "workers = {min = 2, max = 2}\n"
        return many + frontend("f", port) + backend("b", servers, 'balance = "roundrobin"\n') + check

    file.write_text(text(a.address, b.address))
    with Balancer("-c", str(file)) as running:
        running.wait("both up", lambda status: states(status) == {"s1": "up", "s2": "up"})
        assert {ask(port) for _ in range(20)} == {b"a", b"b"}
        a.healthy = False
        running.wait("one down", lambda status: states(status) == {"s1": "down", "s2": "up"})
        assert {ask(port) for _ in range(20)} == {b"b"}
        down = check_of(running, "s1")
        assert (down["phase"], down["reason"]) == ("down", "it answers 503, expected 200-399")
        assert "server b/s1 at " in running.log.read_text()

        pid = control_plane(running)
        os.kill(pid, signal.SIGKILL)
        assert {ask(port) for _ in range(20)} == {b"b"}
        wait_for("another control plane", lambda: control_plane(running) != pid)
        running.wait("checks again", lambda status: bool(status["servers"][0]["check"]["last"]))
        again = check_of(running, "s1")
        assert (again["since"], again["reason"]) == (down["since"], down["reason"])

        with Site("c") as c:
            c.healthy = False
            file.write_text(text(a.address, b.address, c.address))
            running.signal(signal.SIGHUP)
            running.wait("reloaded", lambda status: status["generation"] == 2)
            assert {ask(port) for _ in range(40)} == {b"b"}  # neither the one that was down, nor a new one
            running.wait("three", lambda status: states(status) == {"s1": "down", "s2": "up", "s3": "down"})
            assert {ask(port) for _ in range(40)} == {b"b"}
            assert check_of(running, "s1")["since"] == down["since"]
            a.healthy = True
            running.wait("back", lambda status: states(status)["s1"] == "up")
            assert {ask(port) for _ in range(20)} == {b"a", b"b"}
