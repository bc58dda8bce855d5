"""WebSocket and other upgrades through the balancer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


async def _echo(connection: ServerConnection) -> None:
    async for message in connection:
        if message == "close please":
            await connection.close(4321, "as asked")
        await connection.send(message)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serve(_echo, "127.0.0.1", 0, max_size=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]


def nothing_left(running: Balancer) -> None:
    running.wait(
        "empty",
        lambda status: (
            status["totals"]["connections"] == 0
            and status["totals"]["in_flight"] == 0
            and status["servers"][0]["active"] == 0
        ),
    )


async def start(balancer: StartBalancer, port: int) -> tuple[Balancer, str]:
    running = await asyncio.to_thread(balancer, "--workers", "1..2", servers=(f"127.0.0.1:{port}",))
    return running, f"ws://127.0.0.1:{running.port}/"


async def test_messages_of_all_kinds(balancer: StartBalancer, port: int) -> None:
    running, uri = await start(balancer, port)
    async with connect(uri, max_size=None) as client:
        for message in ("text", "ü" * 70_000, b"", os.urandom(1_000_000)):
            await client.send(message)
            assert await client.recv() == message
        await client.send(["in ", "three ", "frames"])
        assert await client.recv() == "in three frames"
        await (await client.ping())
        await client.send("close please")
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4321, "as asked")
    await asyncio.to_thread(nothing_left, running)


async def test_through_two_balancers_in_http_2(
    balancer: StartBalancer, port: int, tmp_path: Path
) -> None:
    """By extended CONNECT (RFC 8441), which the second one offers."""
    running, _ = await start(balancer, port)
    near, file = free_port(), tmp_path / "pylb.toml"
    file.write_text(
        f'workers = {{min = 1, max = 1}}\n[[frontend]]\nname = "f"\nbind = "127.0.0.1:{near}"\n'
        'backend = "b"\n'
        f'[[backend]]\nname = "b"\nhttp2 = true\n[[backend.server]]\naddress = "127.0.0.1:{running.port}"\n'
    )
    front = await asyncio.to_thread(balancer, "-c", str(file))
    async with connect(f"ws://127.0.0.1:{near}/", max_size=None) as client:
        for message in ("text", b"", os.urandom(1_000_000)):
            await client.send(message)
            assert await client.recv() == message
        await client.send("close please")
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4321, "as asked")
    await asyncio.to_thread(nothing_left, front)


async def test_ten_thousand_messages_each_way(balancer: StartBalancer, port: int) -> None:
    running, uri = await start(balancer, port)
    count = 10_000

    async def send(client: ClientConnection) -> None:
        for number in range(count):
            await client.send(f"message {number}")

    async with connect(uri) as client, asyncio.TaskGroup() as group:
        group.create_task(send(client))
        for number in range(count):
            assert await client.recv() == f"message {number}"
    await asyncio.to_thread(nothing_left, running)


async def test_a_tunnel_outlives_reload_and_shrinking(balancer: StartBalancer, port: int) -> None:
    running, uri = await start(balancer, port)
    await asyncio.to_thread(running.scale, 2)
    clients = [await connect(uri) for _ in range(8)]
    running.signal(signal.SIGHUP)
    await asyncio.to_thread(
        running.wait,
        "reloaded",
        lambda s: [w["state"] for w in s["workers"] if w["generation"] == 2] == ["serving"] * 2,
    )
    for client in clients:
        await client.send("still here")
        assert await client.recv() == "still here"
    for client in clients:
        await client.close()
    await asyncio.to_thread(running.wait_workers, 2)
    await asyncio.to_thread(nothing_left, running)


async def test_a_server_that_dies_ends_the_tunnel(balancer: StartBalancer) -> None:
    async with serve(_echo, "127.0.0.1", 0) as server:
        running, uri = await start(balancer, next(iter(server.sockets)).getsockname()[1])
        client = await connect(uri)
        await client.send("a")
        await client.recv()
        for connection in list(server.connections):
            connection.transport.abort()
        with pytest.raises(ConnectionClosedError):
            await client.recv()
    await asyncio.to_thread(nothing_left, running)


# Any protocol, with raw sockets


class RawServer:
    """Accepts one connection after the other for the test to play the server."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(50)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> tuple[socket.socket, bytes]:
        connection, _ = self.listener.accept()
        connection.settimeout(50)
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        return connection, data


@pytest.fixture
def server() -> Iterator[RawServer]:
    one = RawServer()
    yield one
    one.listener.close()


def dial(running: Balancer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=50)


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, data
        data += piece
    return data


def test_half_close_both_ways(balancer: StartBalancer, server: RawServer) -> None:
    running = balancer("--workers", "1", servers=(server.address,))
    for client_first in (True, False):
        with dial(running) as client:
            client.sendall(UPGRADE + b"early")
            inner, head = server.accept()
            assert b"\r\nUpgrade: echo\r\n" in head
            inner.sendall(SWITCH)
            while not head.endswith(b"early"):  # what came too soon waits for the switch
                head += inner.recv(65536)
            first, second = (client, inner) if client_first else (inner, client)
            first.sendall(b"my last words")
            first.shutdown(socket.SHUT_WR)
            got = b""
            while piece := second.recv(65536):
                got += piece
            assert got.endswith(b"my last words")
            second.sendall(b"an answer after that")
            second.close()
            got = b""
            while piece := first.recv(65536):
                got += piece
            assert got.endswith(b"an answer after that")
            inner.close()
        nothing_left(running)


def test_a_tunnel_holds_back_what_is_not_read(balancer: StartBalancer, server: RawServer) -> None:
    running = balancer("--workers", "1", servers=(server.address,))
    worker = psutil.Process(running.workers()[0]["pid"])
    with dial(running) as client:
        client.sendall(UPGRADE)
        inner, _ = server.accept()
        inner.sendall(SWITCH)
        read(client, len(SWITCH) - 20)
        before = worker.memory_info().rss
        inner.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 256 << 20:
                sent += inner.send(bytes(1 << 20))
        assert sent < 128 << 20  # kernel buffers and ours, but not all of it
        assert worker.memory_info().rss - before < 64 << 20
        inner.close()
    nothing_left(running)


def test_what_nobody_asked_for_is_a_bad_gateway(balancer: StartBalancer, server: RawServer) -> None:
    running = balancer("--workers", "1", servers=(server.address,))
    for request in (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\nContent-Length: 1\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
    ):
        with dial(running) as client:
            client.sendall(request)
            inner, head = server.accept()
            assert b"upgrade" not in head.lower()
            assert b"http2-settings" not in head.lower()
            inner.sendall(SWITCH)
            assert client.recv(65536).startswith(b"HTTP/1.1 502 ")
            inner.close()
    nothing_left(running)


def test_an_upgrade_that_is_declined_is_an_ordinary_answer(
    balancer: StartBalancer, server: RawServer
) -> None:
    running = balancer("--workers", "1", servers=(server.address,))
    with dial(running) as client:
        client.sendall(UPGRADE)
        inner, _ = server.accept()
        inner.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
        assert client.recv(65536).endswith(b"\r\n\r\nno")
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert inner.recv(65536).startswith(b"GET / ")
        inner.close()


def test_an_idle_tunnel_ends(balancer: StartBalancer, server: RawServer, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "pylb.toml"
    file.write_text(
        f'timeouts = {{tunnel = "300ms"}}\n'
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{server.address}"\n'
    )
    running = balancer("-c", str(file))
    ended = threading.Event()
    with socket.create_connection(("127.0.0.1", port), timeout=50) as client:
        client.sendall(UPGRADE)
        inner, _ = server.accept()
        inner.sendall(SWITCH)
        data = b"-"
        with contextlib.suppress(ConnectionResetError):
            while data:
                data = client.recv(65536)
        ended.set()
        inner.close()
    assert ended.is_set()
    nothing_left(running)
