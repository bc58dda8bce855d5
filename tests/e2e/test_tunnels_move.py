"""I1 for tunnels: WebSockets and TCP connections move when their worker leaves, and nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import struct
import time
from array import array
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from bench.rig.balancer import PATIENCE, Balancer, backend, free_port, frontend
from tests.e2e.conftest import StartBalancer
from tests.e2e.test_websocket import RawServer, read

EACH = 20
RECORD = 8  # bytes


async def _echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def _echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
    writer.close()


@pytest.fixture
async def ports() -> AsyncIterator[tuple[int, int]]:
    """Of a WebSocket server and of one that echoes lines."""
    lines = await asyncio.start_server(_echo_lines, "127.0.0.1", 0)
    async with serve(_echo, "127.0.0.1", 0) as server, lines:
        yield next(iter(server.sockets)).getsockname()[1], lines.sockets[0].getsockname()[1]


def _configured(
    balancer: StartBalancer, folder: Path, web: str, raw: str, of_raw: str = "", of_server: str = ""
) -> tuple[Balancer, int, int]:
    """A balancer with a frontend of each mode, and their ports."""
    ports = free_port(), free_port()
    text = f'[workers]\nmin = 1\nmax = 2\n[log.access]\nto = "{folder}/log"\n'
    text += frontend("web", ports[0], backend="w") + frontend("raw", ports[1], 'mode = "tcp"\n', "r")
    text += backend("w", [web]) + backend("r", [raw], of_raw) + of_server
    (folder / "pylb.toml").write_text(text)
    return balancer("-c", str(folder / "pylb.toml")), *ports


def _reload(running: Balancer) -> None:
    before = running.status()["generation"]
    running.signal(signal.SIGHUP)
    running.wait(
        "only the new generation",
        lambda status: {worker["generation"] for worker in status["workers"]} == {before + 1},
    )


def _scale(running: Balancer, count: int) -> None:
    """The wait is for a retiring worker, too, to be gone, which it isn't with a tunnel."""
    running.scale(count)


async def test_nobody_notices_and_the_worker_that_leaves_is_empty(
    balancer: StartBalancer, ports: tuple[int, int], tmp_path: Path
) -> None:
    running, web, raw = await asyncio.to_thread(
        _configured, balancer, tmp_path, *(f"127.0.0.1:{port}" for port in ports)
    )
    await asyncio.to_thread(_scale, running, 2)
    stop = asyncio.Event()
    sent: list[int] = []
    got: list[int] = []
    lasted = 0.0

    async def websocket() -> None:
        number = 0
        async with connect(f"ws://127.0.0.1:{web}/chat") as client:
            while not stop.is_set():
                for ahead in range(3):
                    await client.send(f"message {number + ahead}")
                for _ in range(3):
                    assert await client.recv() == f"message {number}"
                    number += 1
        sent.append(number)

    async def line() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", raw)
        number = size = 0
        while not stop.is_set():
            writer.write(b"".join(b"line %d\n" % (number + ahead) for ahead in range(3)))
            for _ in range(3):
                assert (line := await reader.readline()) == b"line %d\n" % number
                size += len(line)
                number += 1
        writer.close()
        assert await reader.read() == b""
        sent.append(number)
        got.append(size)

    clients = [asyncio.ensure_future(one()) for _ in range(EACH) for one in (websocket, line)]

    def steps() -> float:
        running.wait("all there", lambda status: _tunnels(status) == 2 * EACH)
        began = time.monotonic()
        for _ in range(2):
            _scale(running, 1)
            _reload(running)
            _scale(running, 2)
        status = running.wait("all there", lambda status: _tunnels(status) == 2 * EACH)
        assert sum(server["active"] for server in status["servers"]) == 2 * EACH
        assert status["totals"]["connections"] == 2 * EACH
        assert status["totals"]["adopted"] == status["totals"]["handed_over"] >= 2 * 2 * EACH
        return time.monotonic() - began

    try:
        lasted = await asyncio.to_thread(steps)
    finally:
        stop.set()
        await asyncio.gather(*clients)
    await asyncio.to_thread(running.wait, "empty", _empty)
    assert len(sent) == 2 * EACH
    totals = (await asyncio.to_thread(running.status))["totals"]
    assert totals["requests"] == 2 * EACH and totals["aborted"] == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2 * EACH
    assert all(" w/" in one or " r/" in one for one in lines)
    assert sum('"GET /chat HTTP/1.1"' in one for one in lines) == EACH
    raw_lines = [re.search(r" raw r/s1 \d+/\d+/(\d+) (\d+) -- ", one) for one in lines]
    web_lines = [re.search(r" web w/s1 \d+/\d+/\d+/\d+/(\d+) 101 (\d+) - - ---- ", one) for one in lines]
    # One line for each, of all the time and all the bytes.
    assert sorted(int(one[2]) for one in raw_lines if one) == sorted(got)
    assert sum(one is not None for one in web_lines) == EACH
    assert all(int(one[1]) >= lasted * 1000 for one in (*raw_lines, *web_lines) if one)


def _tunnels(status: dict[str, Any]) -> int:
    return sum(worker["tunnels"] for worker in status["workers"])


def _empty(status: dict[str, Any]) -> bool:
    return (
        status["totals"]["connections"] == 0
        and _tunnels(status) == 0
        and all(server["active"] == 0 for server in status["servers"])
    )


def _numbers(first: int, count: int) -> bytes:
    return array("q", range(first, first + count)).tobytes()


def _fill(sock: socket.socket) -> int:
    """Send numbers until nobody takes any more; gives how many were sent whole, and their bytes."""
    number, rest = 0, b""
    sock.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            rest = rest or _numbers(number, 4096)
            if len(rest) == 4096 * RECORD:
                number += 4096
            rest = rest[sock.send(rest) :]
    sock.settimeout(PATIENCE)
    return number * RECORD - len(rest)


@pytest.fixture
def server() -> Iterator[RawServer]:
    one = RawServer()
    yield one
    one.listener.close()


def _accept(server: RawServer) -> socket.socket:
    inner, _ = server.listener.accept()
    inner.settimeout(PATIENCE)
    return inner


def test_what_is_stuck_or_half_closed_moves_as_well(
    balancer: StartBalancer, server: RawServer, tmp_path: Path
) -> None:
    running, _, raw = _configured(balancer, tmp_path, "127.0.0.1:1", server.address)
    pairs = []
    for _ in range(3):
        client = socket.create_connection(("127.0.0.1", raw), PATIENCE)
        pairs.append((client, _accept(server)))
    (deaf, to_deaf), (half, to_half), (other, to_other) = pairs
    sent = {deaf: _fill(to_deaf), to_deaf: _fill(deaf)}  # nobody reads on either side
    half.sendall(b"all of it")
    half.shutdown(socket.SHUT_WR)
    assert read(to_half, 9) == b"all of it" and to_half.recv(1) == b""
    # What one side has ended while the other one doesn't take what was sent before.
    sent[other] = _fill(to_other)
    to_other.shutdown(socket.SHUT_WR)
    for turn in range(2):
        if turn:
            _scale(running, 2)
            _scale(running, 1)
        else:
            _reload(running)
        to_half.sendall(b"still %d" % turn)
        assert read(half, 7) == b"still %d" % turn
    for sock, count in sent.items():
        assert read(sock, count) == _numbers(0, count // RECORD + 1)[:count]
    assert other.recv(1) == b""
    other.sendall(b"back")
    assert read(to_other, 4) == b"back"
    deaf.sendall(b"on")
    to_deaf.sendall(b"off")
    assert (read(to_deaf, 2), read(deaf, 3)) == (b"on", b"off")
    to_half.close()
    assert half.recv(1) == b""
    for pair in pairs:
        for sock in pair:
            sock.close()
    running.wait("empty", _empty)


def test_places_and_marks_reach_tunnels_that_have_moved(
    balancer: StartBalancer, server: RawServer, tmp_path: Path
) -> None:
    def waits(status: dict[str, Any]) -> bool:
        return [one["waiting"] for one in status["queues"] if one["backend"] == "r"] == [1]

    with socket.create_server(("127.0.0.1", 0)) as checked:
        of_raw = 'on_marked_down = "shutdown-sessions"\n'
        of_raw += f'check = {{ interval = "100ms", fall = 1, port = {checked.getsockname()[1]} }}\n'
        running, _, raw = _configured(
            balancer, tmp_path, "127.0.0.1:1", server.address, of_raw, "maxconn = 1\n"
        )
        first = socket.create_connection(("127.0.0.1", raw), PATIENCE)
        inner = _accept(server)
        second = socket.create_connection(("127.0.0.1", raw), PATIENCE)
        running.wait("one waits", waits)
        running.signal(signal.SIGHUP)
        running.wait(
            "one has moved, and one waits still",
            lambda status: (
                waits(status)
                and {(one["generation"], one["tunnels"]) for one in status["workers"]} == {(1, 0), (2, 1)}
            ),
        )
        first.close()
        assert inner.recv(1) == b""
        inner.close()
        inner = _accept(server)  # which the place has become free for
        second.sendall(b"mine")
        assert read(inner, 4) == b"mine"
        running.wait("moved", lambda status: [one["generation"] for one in status["workers"]] == [2])
        third = socket.create_connection(("127.0.0.1", raw), PATIENCE)
        running.wait("one waits", waits)
        # By a reset: a client that has only ended its direction waits on.
        third.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        third.close()
    assert second.recv(1) == b""
    running.wait("empty", _empty)
