"""I2 for clients that can't move: as many as are too many are asked to come back; nobody loses a request."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.rig.balancer import Balancer, free_port
from bench.rig.peers import certificate
from pylb.net import levelling
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin
from tests.e2e.test_goaway import Patient

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Crowd:
    """Clients that send one request after the other, and connect anew when they are asked to."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, count: int, port: int, protocol: str | None) -> None:
        """``protocol`` is that of ALPN; None is HTTP/1.1 without TLS."""
        for _ in range(count):
            thread = threading.Thread(target=self._client, args=(port, protocol), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(50)

    def _client(self, port: int, protocol: str | None) -> None:
        try:
            while not self._stop.is_set():
                sock = socket.create_connection(("127.0.0.1", port), timeout=50)
                if protocol is not None:
                    context = ssl.create_default_context()
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                    context.set_alpn_protocols([protocol])
                    sock = context.wrap_socket(sock)
                with contextlib.closing(sock):
                    self._http2(port, sock) if protocol == "h2" else self._http1(sock)
        except (OSError, EOFError, AssertionError) as error:
            self.failed.append(repr(error))

    def _http1(self, sock: socket.socket) -> None:
        while not self._stop.is_set():
            sock.sendall(GET)
            answer = b""
            while not answer.endswith(b"\r\n\r\n/"):
                piece = sock.recv(65536)
                assert piece, "closed before the answer"
                answer += piece
            if b"\r\nConnection: close\r\n" in answer:
                return
            time.sleep(0.01)

    def _http2(self, port: int, sock: socket.socket) -> None:
        client = Patient(port, sock=sock)
        while not self._stop.is_set() and not client.goaways:
            assert client.answer(client.request("/"))[1] == b"/"
            time.sleep(0.01)


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    one = Crowd()
    yield one
    one.stop()


class Ports:
    """A balancer with a frontend with TLS and one without."""

    def __init__(self, balancer: StartBalancer, origin: Origin, folder: Path) -> None:
        certificate(folder)
        self.plain, self.tls = free_port(), free_port()
        file = folder / "pylb.toml"
        file.write_text(
            'workers = {min = 1, max = 2}\ndrain = {spread = "500ms"}\n'
            f'[[frontend]]\nname = "p"\nbind = "127.0.0.1:{self.plain}"\nbackend = "b"\n'
            f'[[frontend]]\nname = "t"\nbind = "127.0.0.1:{self.tls}"\nbackend = "b"\n'
            f'[frontend.tls]\ncertificates = "{folder}/both.pem"\n'
            f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
        )
        self.running: Balancer = balancer("-c", str(file))
        self.running.scale(1)

    def connected(self, count: int) -> dict[str, Any]:
        return self.running.wait("connected", lambda status: status["totals"]["connections"] == count)

    def answered(self, count: int) -> dict[str, Any]:
        return self.running.wait("answered", lambda status: status["totals"]["requests"] > count)

    def level(self, count: int) -> dict[str, Any]:
        """Wait until two workers hold so many, about the same each, and nobody is asked to come back."""

        def so(status: dict[str, Any]) -> bool:
            held = {worker["slot"]: worker["connections"] for worker in status["workers"]}
            return len(held) == 2 and sum(held.values()) == count and not levelling.plan(held)

        return self.running.wait("level", so)


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_clients_with_tls_come_to_a_new_worker(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, crowd: Crowd, protocol: str
) -> None:
    ports = Ports(balancer, origin, tmp_path)
    crowd.add(20, ports.tls, protocol)
    ports.connected(20)
    for _ in range(2 if protocol == "http/1.1" else 1):
        ports.running.scale(2)
        before = ports.level(20)["totals"]
        after = ports.answered(before["requests"] + 500)["totals"]
        # Whoever was asked just before may have been on the way.
        assert after["accepted"] - before["accepted"] <= 2
        ports.running.scale(1)
        ports.connected(20)
    crowd.stop()
    assert crowd.failed == []


def test_who_can_move_moves_and_only_the_rest_is_asked(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, crowd: Crowd
) -> None:
    ports = Ports(balancer, origin, tmp_path)
    crowd.add(10, ports.plain, None)
    crowd.add(10, ports.tls, "http/1.1")
    ports.connected(20)
    ports.running.scale(2)
    totals = ports.level(20)["totals"]
    assert totals["accepted"] == 20
    # Now so many that the plain ones aren't enough.
    ports.running.scale(1)
    accepted = ports.connected(20)["totals"]["accepted"]
    crowd.add(20, ports.tls, "h2")
    ports.connected(40)
    ports.running.scale(2)
    totals = ports.level(40)["totals"]
    assert totals["accepted"] > accepted + 20
    crowd.stop()
    assert crowd.failed == []
