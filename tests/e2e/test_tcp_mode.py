"""TCP mode: any protocol, relayed as it is."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer, StartServer
from tests.e2e.origin import Play, Scripted

Server = Scripted


@pytest.fixture
def server(scripted: StartServer) -> StartServer:
    return scripted


def start(balancer: StartBalancer, folder: Path, *servers: str, more: str = "") -> tuple[Balancer, int]:
    port = free_port()
    listed = "".join(f'[[backend.server]]\naddress = "{server}"\n' for server in servers)
    file = folder / "pylb.toml"
    file.write_text(
        f'{more}\n[[frontend]]\nname = "f"\nmode = "tcp"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\nbalance = "roundrobin"\n{listed}'
    )
    return balancer("-c", str(file)), port


def nothing_left(running: Balancer) -> None:
    running.wait(
        "empty",
        lambda status: (
            status["totals"]["connections"] == 0
            and all(server["active"] == 0 for server in status["servers"])
        ),
    )


def test_the_server_may_speak_first_and_either_side_may_end_first(
    balancer: StartBalancer, tmp_path: Path, server: Callable[[Play], Server]
) -> None:
    def play(connection: socket.socket) -> None:
        connection.sendall(b"220 welcome\r\n")
        data = b""
        while piece := connection.recv(65536):
            data += piece
        connection.sendall(b"you said " + data)

    running, port = start(balancer, tmp_path, server(play).address)
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        assert sock.recv(100) == b"220 welcome\r\n"
        sock.sendall(b"many words " * 10_000)
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while piece := sock.recv(65536):
            got += piece
    assert got == b"you said " + b"many words " * 10_000
    nothing_left(running)


def test_another_server_is_tried_and_without_any_the_connection_ends(
    balancer: StartBalancer, tmp_path: Path, server: Callable[[Play], Server]
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    alive = server(lambda connection: connection.sendall(b"here"))
    running, port = start(balancer, tmp_path, dead, alive.address)
    for _ in range(6):
        with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
            assert sock.recv(100) == b"here"
    nothing_left(running)
    alive.listener.close()
    nobody, port = start(balancer, tmp_path, dead)
    connection = socket.create_connection(("127.0.0.1", port), timeout=50)
    with connection as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(100) == b""
    nothing_left(nobody)


def test_tls_passes_through_by_name(
    balancer: StartBalancer, tmp_path: Path, server: Callable[[Play], Server]
) -> None:
    ca = trustme.CA()
    addresses = {}
    for name in ("a.example", "b.example", "default.example"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert(name, f"x.{name}").configure_cert(context)

        def play(connection: socket.socket, context: ssl.SSLContext = context, name: str = name) -> None:
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.sendall(name.encode())

        addresses[name] = server(play).address
    port = free_port()
    file = tmp_path / "pylb.toml"
    file.write_text(
        f'[[frontend]]\nname = "f"\nmode = "tcp"\nbind = "127.0.0.1:{port}"\nbackend = "default"\n'
        '[frontend.sni]\n"a.example" = "a"\n"*.b.example" = "b"\n'
        f'[[backend]]\nname = "default"\n[[backend.server]]\naddress = "{addresses["default.example"]}"\n'
        f'[[backend]]\nname = "a"\n[[backend.server]]\naddress = "{addresses["a.example"]}"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{addresses["b.example"]}"\n'
    )
    running = balancer("-c", str(file))
    client = ssl.create_default_context()
    ca.configure_trust(client)
    for asked in ("a.example", "x.b.example", "default.example"):
        raw = socket.create_connection(("127.0.0.1", port), timeout=50)
        with client.wrap_socket(raw, server_hostname=asked) as sock:
            assert asked.endswith(sock.recv(100).decode())
    nothing_left(running)


def test_a_reader_that_is_slow_holds_the_writer_back(
    balancer: StartBalancer, tmp_path: Path, server: Callable[[Play], Server]
) -> None:
    sent: list[int] = []
    stopped = threading.Event()

    def play(connection: socket.socket) -> None:
        connection.settimeout(1)
        total = 0
        with contextlib.suppress(TimeoutError):
            while total < 256 << 20:
                total += connection.send(bytes(1 << 20))
        sent.append(total)
        stopped.set()
        connection.settimeout(50)
        connection.sendall(b"end")

    running, port = start(balancer, tmp_path, server(play).address)
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        assert stopped.wait(50)
        assert sent[0] < 128 << 20
        got = 0
        while piece := sock.recv(1 << 20):
            got += len(piece)
        assert got == sent[0] + 3
    nothing_left(running)


def test_redis(balancer: StartBalancer, tmp_path: Path) -> None:
    assert shutil.which("redis-server"), "apt-get install redis-server"
    redis_port = free_port()
    command = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir"]
    redis = subprocess.Popen([*command, str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 50
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", redis_port)).close()
                break
        running, port = start(balancer, tmp_path, f"127.0.0.1:{redis_port}")
        with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
            sock.sendall(b"SET greeting hello\r\nGET greeting\r\n")
            expected = b"+OK\r\n$5\r\nhello\r\n"
            got = b""
            while len(got) < len(expected):
                got += sock.recv(65536)
            assert got == expected
            sock.sendall(b"INCR count\r\n" * 10_000)
            while not got.endswith(b":10000\r\n"):
                piece = sock.recv(65536)
                assert piece
                got += piece
        nothing_left(running)
    finally:
        redis.terminate()
        redis.wait()


def test_server_that_speaks_first_and_leaves(
    balancer: StartBalancer, server: Callable[[Play], Server], tmp_path: Path
) -> None:
    # Its words, and its end, may come before the worker has got round to the new connection.
    speaker = server(lambda connection: connection.sendall(b"220 hello\r\n"))
    _, port = start(balancer, tmp_path, speaker.address)
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", port), timeout=50) as client:
            assert client.makefile("rb").read() == b"220 hello\r\n"
