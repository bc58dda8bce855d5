"""A path that says whether this balancer serves, and a stop that is announced by it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer
from tests.e2e.http2client import Client
from tests.e2e.origin import Origin


def start(balancer: StartBalancer, origin: Origin, folder: Path, drain: str = "", more: str = "") -> Balancer:
    port = free_port()
    file = folder / "pylb.toml"
    file.write_text(
        f"workers = {{min = 1, max = 1}}\n{drain}"
        f'[[frontend]]\nname = "web"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n{more}'
        f'[frontend.health]\npath = "/healthz"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
    )
    one = balancer("-c", str(file))
    one.port = port
    return one


def ask(sock: socket.socket, method: str, path: str, more: str = "") -> bytes:
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode())
    return sock.recv(65536)


def connect(balancer: Balancer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", balancer.port), timeout=50)


@pytest.mark.parametrize("more", ["", "redirect_to_https = true\n"])
def test_it_is_answered_before_any_server(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, more: str
) -> None:
    """Exactly this path, whatever query; any method, as HAProxy's monitor-uri does."""
    one = start(balancer, origin, tmp_path, more=more)
    with connect(one) as sock:
        for method in ("GET", "HEAD", "POST"):
            for path in ("/healthz", "/healthz?from=here"):
                answer = ask(sock, method, path)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert (b"serves" in answer) is (method != "HEAD")
        assert origin.heads == []
        for path in ("/healthz/", "/health", "/x?/healthz"):
            assert ask(sock, "GET", path).startswith(b"HTTP/1.1 308 " if more else b"HTTP/1.1 200 ")
        assert len(origin.heads) == (0 if more else 3)
    with connect(one) as sock:
        answer = ask(sock, "POST", "/healthz", "Content-Length: 5\r\n")
        assert b"\r\nConnection: close\r\n" in answer  # what the body is, nobody will read
    client = Client(one.port)
    fields, body, _ = client.answer(client.request("/healthz"))
    assert dict(fields)[":status"] == "200" and b"serves" in body
    fields, body, _ = client.answer(client.request("/healthz", method="HEAD"))
    assert dict(fields)[":status"] == "200" and body == b""
    client.sock.close()


def test_a_stop_is_announced_and_requests_are_served_meanwhile(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    one = start(balancer, origin, tmp_path, "drain = {announce = 5}\n")
    (worker,) = one.workers()
    with connect(one) as sock:
        one.signal(signal.SIGTERM)
        while not (answer := ask(sock, "GET", "/healthz")).startswith(b"HTTP/1.1 503 "):
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"about to stop" in answer
        assert ask(sock, "GET", "/").startswith(b"HTTP/1.1 200 ")
    one.signal(signal.SIGHUP)
    # A worker that dies now is replaced, and new clients are served.
    os.kill(worker["pid"], signal.SIGKILL)
    with connect(one) as sock:
        assert ask(sock, "GET", "/").startswith(b"HTTP/1.1 200 ")
        assert ask(sock, "GET", "/healthz").startswith(b"HTTP/1.1 503 ")
        assert one.process.wait(25) == 0
    log = one.log.read_text()
    assert "SIGTERM: health paths say so for 5 s" in log
    assert "reload refused: a stop was ordered" in log
    assert "quitting now" not in log


def test_the_second_signal_ends_an_announcement(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    one = start(balancer, origin, tmp_path, "drain = {announce = 3600}\n")
    with connect(one) as sock:
        one.signal(signal.SIGTERM)
        while not ask(sock, "GET", "/healthz").startswith(b"HTTP/1.1 503 "):
            pass
        uptime = one.status()["uptime"]
        one.wait("later", lambda status: status["uptime"] > uptime + 0.7)
        one.signal(signal.SIGTERM)
        assert one.process.wait(25) == 0
    assert "quitting now" in one.log.read_text()
