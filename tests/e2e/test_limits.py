"""Limits on connections, bodies and their pace."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer
from tests.e2e.http2client import Client
from tests.e2e.origin import Origin


def start(balancer: StartBalancer, origin: Origin, folder: Path, text: str) -> tuple[Balancer, int]:
    port = free_port()
    file = folder / "pylb.toml"
    file.write_text(
        f'{text}\n[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
    )
    return balancer("-c", str(file)), port


def to_the_end(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def test_connections_above_the_limit_are_told_so(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    running, port = start(balancer, origin, tmp_path, "limits = {connections = 10}")
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
    running.wait("held", lambda status: status["totals"]["connections"] == 10)
    with socket.create_connection(("127.0.0.1", port), timeout=50) as one_more:
        assert to_the_end(one_more).startswith(b"HTTP/1.1 503 ")
    held.pop().close()
    running.wait("room", lambda status: status["totals"]["connections"] == 9)
    with socket.create_connection(("127.0.0.1", port), timeout=50) as one_more:
        one_more.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert to_the_end(one_more).startswith(b"HTTP/1.1 200 ")
    for sock in held:
        sock.close()


def test_a_body_that_comes_too_slowly_is_cut_off(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    _, port = start(balancer, origin, tmp_path, "timeouts = {client = 3600}\nlimits = {body_rate = 1000}")
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nslow")
        assert to_the_end(sock).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_is_too_large_is_refused(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    _, port = start(balancer, origin, tmp_path, "limits = {body_bytes = 1000}")
    for framing in (b"Content-Length: 1001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
            sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\n" + framing + b"x" * 1001 + b"\r\n0\r\n\r\n")
            assert to_the_end(sock).startswith(b"HTTP/1.1 413 ")


def test_a_response_that_nobody_takes_ends_with_the_connection(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    """Also one that pylb has whole and that only waits to leave (the kernel takes 2.3 MB of it)."""
    text = 'timeouts = {client = "200ms", keep_alive = "200ms"}'
    running, port = start(balancer, origin, tmp_path, text)
    held = []
    for fields in (b"", b"Connection: close\r\n"):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"GET /bytes/2560000 HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
        held.append(sock)
    running.wait("answered", lambda status: status["totals"]["requests"] == 2)
    running.wait("ended", lambda status: status["totals"]["connections"] == 0)
    for sock in held:
        sock.close()


def test_idle_connections_and_bodies_that_stop_are_ended(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    text = 'timeouts = {client = "200ms", keep_alive = "200ms"}'
    running, port = start(balancer, origin, tmp_path, text)
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        assert to_the_end(sock) == b""
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert to_the_end(sock).endswith(b"\r\n\r\n/")
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
        assert to_the_end(sock).startswith(b"HTTP/1.1 408 ")
    client = Client(port)
    assert client.until_closed() == [0, 0]  # the first one lets what is on its way come in
    client = Client(port)
    number = client.request("/echo", method="POST", end=False)
    with pytest.raises(ConnectionResetError):
        client.answer(number)
    running.wait("ended", lambda status: status["totals"]["connections"] == 0)
    assert running.status()["servers"][0]["active"] == 0


def test_bodies_in_http_2_have_the_same_limits(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    text = "timeouts = {client = 3600}\nlimits = {body_rate = 1000, body_bytes = 1000}"
    _, port = start(balancer, origin, tmp_path, text)
    client = Client(port)
    number = client.request("/echo", ("content-length", "1001"), method="POST", end=False)
    assert client.answer(number)[0][0] == (":status", "413")
    number = client.request("/echo", method="POST", end=False)
    client.h2.send_data(number, b"x" * 1001)
    client.flush()
    assert client.answer(number)[0][0] == (":status", "413")
    number = client.request("/echo", method="POST", end=False)
    client.h2.send_data(number, b"slow")
    client.flush()
    with pytest.raises(ConnectionResetError):
        client.answer(number)
    client.sock.close()
