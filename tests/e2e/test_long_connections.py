"""What takes longer than any drain survives reload and scaling; what must be cut is told so."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bench.rig.balancer import Balancer, free_port, frontend
from pylb.control import view
from pylb.http.websocket import GOING_AWAY, close_frame
from tests.e2e.conftest import StartBalancer
from tests.e2e.http2client import Client
from tests.e2e.origin import Origin
from tests.e2e.test_websocket import SWITCH, UPGRADE, RawServer, read


class Echo:
    """A WebSocket server that answers what it is told and keeps how each connection was closed."""

    def __init__(self) -> None:
        self.port = 0
        self.codes: list[int | None] = []
        self.ended = asyncio.Event()

    async def __call__(self, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)
        received = connection.protocol.close_rcvd
        self.codes.append(None if received is None else received.code)
        self.ended.set()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    one = Echo()
    async with serve(one, "127.0.0.1", 0) as server:
        one.port = next(iter(server.sockets)).getsockname()[1]
        yield one


def configured(
    balancer: StartBalancer,
    folder: Path,
    server: str,
    workers: str = "1..2",
    drain: str = "timeout = 0.5",
    more: str = "",
) -> Balancer:
    low, _, high = workers.partition("..")
    port = free_port()
    (folder / "pylb.toml").write_text(
        f"[workers]\nmin = {low}\nmax = {high}\n[drain]\n{drain}\n{frontend('f', port, more)}"
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{server}"\n'
    )
    running = balancer("-c", str(folder / "pylb.toml"))
    running.port = port
    return running


async def started(
    balancer: StartBalancer, folder: Path, server: str, drain: str
) -> tuple[Balancer, Callable[[], Awaitable[ClientConnection]]]:
    """A balancer whose WebSockets can't move, as they come by TLS; and what connects one."""
    ca = trustme.CA()
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "tls.pem")
    more = f'tls = {{ certificates = "{folder}/tls.pem" }}\n'
    running = await asyncio.to_thread(lambda: configured(balancer, folder, server, drain=drain, more=more))
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return running, lambda: connect(f"wss://127.0.0.1:{running.port}/", ssl=context)


def lines(status: dict[str, Any], state: str) -> list[dict[str, Any]]:
    return [worker for worker in status["workers"] if worker["state"] == state]


def reloaded(running: Balancer, generation: int) -> None:
    running.signal(signal.SIGHUP)
    running.wait(
        f"generation {generation}",
        lambda status: {worker["generation"] for worker in lines(status, "serving")} == {generation},
    )


def order(running: Balancer, count: int) -> None:
    """Scale, without waiting for those that leave."""
    view.fetch(running.admin, "POST", "/scale", {"n": count})
    running.wait(f"{count} serve", lambda status: len(lines(status, "serving")) == count)


def held_by(running: Balancer, client: socket.socket) -> int:
    """The slot of the worker that has a client's connection."""
    port = client.getsockname()[1]
    for worker in running.status()["workers"]:
        for connection in psutil.Process(worker["pid"]).net_connections("tcp"):
            if connection.raddr and connection.raddr.port == port:
                return int(worker["slot"])
    raise AssertionError("nobody has it")


async def talk(clients: list[ClientConnection], seconds: float = 0.0) -> None:
    """Each says something and hears it again, once or for a time."""
    end = time.monotonic() + seconds
    while True:
        for client in clients:
            await client.send("still here")
            async with asyncio.timeout(50):
                assert await client.recv() == "still here"
        if time.monotonic() >= end:
            return
        await asyncio.sleep(0.01)


async def test_websockets_outlast_the_drain_timeout_of_a_reload_and_a_shrink(
    balancer: StartBalancer, echo: Echo, tmp_path: Path
) -> None:
    running, dial = await started(balancer, tmp_path, f"127.0.0.1:{echo.port}", drain="timeout = 0.2")
    await asyncio.to_thread(order, running, 2)
    clients = [await dial() for _ in range(8)]
    await asyncio.to_thread(reloaded, running, 2)
    await talk(clients, 0.8)
    clients += [await dial() for _ in range(8)]
    await asyncio.to_thread(order, running, 1)
    await talk(clients, 0.8)
    assert "are closed" not in running.log.read_text()
    status = await asyncio.to_thread(running.status)
    assert sum(worker["tunnels"] for worker in status["workers"]) == 16
    assert lines(status, "retiring")
    for client in clients:
        await client.close()
    await asyncio.to_thread(running.wait_workers, 1)


def test_a_long_response_outlasts_the_drain_timeout_of_a_reload(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    running = configured(balancer, tmp_path, origin.address, drain="timeout = 0.1")
    with socket.create_connection(("127.0.0.1", running.port), 50) as client:
        client.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        running.wait("under way", lambda status: status["servers"][0]["active"] == 1)
        for generation in (2, 3, 4):
            reloaded(running, generation)
        running.wait("long", lambda status: lines(status, "retiring")[0]["fixed"] == 1)
        origin.release()
        assert client.recv(65536).endswith(b"late")
        running.wait_workers(1)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # it has moved to the present generation
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_what_lingers_closes_in_an_orderly_way_when_a_later_reload_removes_its_bind(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    """Else it would be given to workers that don't know the bind, and lost."""
    running = configured(balancer, tmp_path, origin.address)
    file, removed = tmp_path / "pylb.toml", free_port()
    before = file.read_text()
    file.write_text(
        before.replace('bind = "', f'bind = ["127.0.0.1:{removed}", "').replace(
            f'{running.port}"', f'{running.port}"]'
        )
    )
    reloaded(running, 2)
    with socket.create_connection(("127.0.0.1", removed), 50) as client:
        client.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        running.wait("under way", lambda status: status["servers"][0]["active"] == 1)
        reloaded(running, 3)
        file.write_text(before)
        reloaded(running, 4)
        running.wait("one lingers", lambda status: len(status["workers"]) == 2)
        origin.release()
        answer = client.recv(65536)
        assert b"\r\nConnection: close\r\n" in answer and answer.endswith(b"late")
    running.wait_workers(1)


async def test_the_oldest_of_too_many_generations_is_closed(
    balancer: StartBalancer, echo: Echo, tmp_path: Path
) -> None:
    drain = "generations = 2\nspread = 0.01"
    running, dial = await started(balancer, tmp_path, f"127.0.0.1:{echo.port}", drain=drain)
    clients = []
    for generation in (2, 3, 4):
        clients.append(await dial())
        await asyncio.to_thread(reloaded, running, generation)
    first, *others = clients
    async with asyncio.timeout(50):
        with pytest.raises(ConnectionClosed):
            await first.recv()
    assert first.close_code == GOING_AWAY
    await talk(others)
    assert "generation 1 is closed" in running.log.read_text()
    assert "generation 2 is closed" not in running.log.read_text()
    for client in others:
        await client.close()


def test_shrinking_takes_the_worker_with_the_fewest_connections_that_cannot_move(
    balancer: StartBalancer, tmp_path: Path
) -> None:
    server = RawServer()
    running = configured(balancer, tmp_path, server.address)
    order(running, 2)
    kept = 0
    with contextlib.ExitStack() as stack:
        while kept < 3:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 50))
            client.sendall(UPGRADE)
            inner, _ = server.accept()
            stack.enter_context(inner)
            inner.sendall(SWITCH)
            read(client, len(SWITCH) - 20)
            if held_by(running, client) == 1:
                kept += 1
            else:
                client.close()
                inner.close()
        running.wait("counted", lambda status: [w["tunnels"] for w in status["workers"]] == [0, 3])
        running.wait("counted", lambda status: [w["fixed"] for w in status["workers"]] == [0, 3])
        order(running, 1)
        assert [worker["slot"] for worker in running.wait_workers(1)["workers"]] == [1]
        order(running, 2)
        assert [worker["slot"] for worker in running.wait_workers(2)["workers"]] == [0, 1]
    server.listener.close()


@pytest.mark.parametrize("how", ["stop", "linger"])
async def test_a_websocket_that_must_be_cut_is_told(
    balancer: StartBalancer, echo: Echo, tmp_path: Path, how: str
) -> None:
    drain = "timeout = 0.2" if how == "stop" else "linger = 0.2"
    running, dial = await started(balancer, tmp_path, f"127.0.0.1:{echo.port}", drain=drain)
    client = await dial()
    await talk([client])
    running.signal(signal.SIGTERM if how == "stop" else signal.SIGHUP)
    async with asyncio.timeout(50):
        with pytest.raises(ConnectionClosed):
            await client.recv()
        await echo.ended.wait()
    assert client.close_code == GOING_AWAY
    assert echo.codes == [GOING_AWAY]


async def test_one_over_http2_is_told_as_well(balancer: StartBalancer, echo: Echo, tmp_path: Path) -> None:
    running = await asyncio.to_thread(
        lambda: configured(balancer, tmp_path, f"127.0.0.1:{echo.port}", drain="timeout = 0.2")
    )

    def life() -> bytes:
        client = Client(running.port)
        number = client.h2.get_next_available_stream_id()
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/")]
        head += [(":authority", "test"), ("sec-websocket-version", "13")]
        client.h2.send_headers(number, head)
        client.h2.send_data(number, b"\x81\x82\0\0\0\0hi")
        client.flush()
        while not any(getattr(event, "data", b"") == b"\x81\x02hi" for event in client.events):
            assert client.receive()
        running.signal(signal.SIGTERM)
        data = b""  # h2 reads nothing after a GOAWAY, so look at the bytes
        while piece := client.sock.recv(65536):
            data += piece
        client.sock.close()
        return data

    assert close_frame(GOING_AWAY) in await asyncio.to_thread(life)
    async with asyncio.timeout(50):
        await echo.ended.wait()
    assert echo.codes == [GOING_AWAY]


def test_within_a_frame_the_connection_is_just_cut(balancer: StartBalancer, tmp_path: Path) -> None:
    """And so is a tunnel that is no WebSocket."""
    for protocol, after in ((b"websocket", b"\x81\x05hal"), (b"echo", b"any")):
        server = RawServer()
        running = configured(balancer, tmp_path, server.address, drain="timeout = 0.1")
        with socket.create_connection(("127.0.0.1", running.port), 50) as client:
            client.sendall(UPGRADE.replace(b"echo", protocol))
            inner, _ = server.accept()
            inner.sendall(SWITCH.replace(b"echo", protocol) + after)
            data = b""
            while not data.endswith(after):
                data += client.recv(65536)
            running.signal(signal.SIGTERM)
            assert client.recv(65536) == b""
            inner.close()
        server.listener.close()
        assert running.process.wait(25) == 0
