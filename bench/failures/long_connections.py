"""What takes long, through reloads and scalings: how much of it is cut?

WebSockets that say something twice a second, slow uploads and slow downloads, all of which take ``seconds``
and begin one after the other, so that several generations get some. Meanwhile pylb is reloaded (HUP) and
scaled from one worker to two and back, HAProxy (master-worker mode) reloaded (USR2).
``python -m bench.failures.long_connections SECONDS`` plays it in another length.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from bench.balancer import free_port
from bench.failures.report import Row
from pylb.config.address import Address
from pylb.control import view

SECONDS = 15.0
BEGIN = 0.4  # of the seconds: in this time they begin
WEBSOCKETS, UPLOADS, DOWNLOADS = 50, 20, 20
CHANGES = 10  # reloads, and as many scalings
_STEP = 0.1  # seconds between pieces of a body
_PIECE = bytes(1000)
_spawn = multiprocessing.get_context("spawn")


# The server


async def _echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def _bodies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """``GET /PIECES``: so many pieces, slowly. ``POST /PIECES``: takes so many."""
    with contextlib.suppress(OSError, EOFError):
        head = await reader.readuntil(b"\r\n\r\n")
        pieces = int(head.split(b" ")[1][1:])
        if head.startswith(b"POST"):
            await reader.readexactly(pieces * len(_PIECE))
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        else:
            length = pieces * len(_PIECE)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % length)
            for _ in range(pieces):
                writer.write(_PIECE)
                await writer.drain()
                await asyncio.sleep(_STEP)
        await writer.drain()
    writer.close()


def _serve(pipe: Connection[Any, Any]) -> None:
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # what is cut is counted by the clients

    async def main() -> None:
        bodies = await asyncio.start_server(_bodies, "127.0.0.1", 0)
        async with serve(_echo, "127.0.0.1", 0, ping_interval=None) as sockets:
            ports = [next(iter(server.sockets)).getsockname()[1] for server in (sockets, bodies)]
            pipe.send(ports)
            await asyncio.Event().wait()

    asyncio.run(main())


# The clients; each says by an exception that it was cut


async def _websocket(port: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    async with connect(f"ws://127.0.0.1:{port}/", ping_interval=None) as client:
        number = 0
        while time.monotonic() < end:
            number += 1
            await client.send(f"{number}")
            if await client.recv() != f"{number}":
                raise ValueError("another answer")
            await asyncio.sleep(0.5)


async def _body(port: int, seconds: float, upload: bool) -> None:
    pieces = int(seconds / _STEP)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        method = b"POST" if upload else b"GET"
        length = b"Content-Length: %d\r\n" % (pieces * len(_PIECE)) if upload else b""
        writer.write(b"%s /%d HTTP/1.1\r\nHost: a\r\n%s\r\n" % (method, pieces, length))
        for _ in range(pieces if upload else 0):
            writer.write(_PIECE)
            await writer.drain()
            await asyncio.sleep(_STEP)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(head.split(b"\r\n")[0].decode())
        await reader.readexactly(2 if upload else pieces * len(_PIECE))
    finally:
        writer.close()


# The balancers


class _Pylb:
    def __init__(self, folder: Path, ports: tuple[int, int], servers: list[int], seconds: float) -> None:
        self._admin = Address("", 0, f"{folder}/admin.sock")
        text = f'admin = "{self._admin}"\n[workers]\nmin = 1\nmax = 2\n[drain]\ntimeout = {seconds / 2}\n'
        for name, port, server in zip("wb", ports, servers, strict=True):
            text += (
                f'[[frontend]]\nname = "{name}"\nbind = "127.0.0.1:{port}"\nbackend = "{name}"\n'
                f'[[backend]]\nname = "{name}"\n[[backend.server]]\naddress = "127.0.0.1:{server}"\n'
            )
        (folder / "pylb.toml").write_text(text)
        self.command = [sys.executable, "-m", "pylb", "serve", "-c", f"{folder}/pylb.toml"]
        self.signal = signal.SIGHUP
        self.scalings = 0

    def scale(self) -> None:
        self.scalings += 1
        view.fetch(self._admin, "POST", "/scale", {"n": 1 + self.scalings % 2})


class _Haproxy:
    def __init__(self, folder: Path, ports: tuple[int, int], servers: list[int], seconds: float) -> None:
        text = (
            "global\n  nbthread 2\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 5s\n"
            "  timeout client 60s\n  timeout server 60s\n  timeout tunnel 1h\n"
        )
        for name, port, server in zip("wb", ports, servers, strict=True):
            text += (
                f"frontend f{name}\n  bind 127.0.0.1:{port}\n  default_backend {name}\n"
                f"backend {name}\n  server s 127.0.0.1:{server}\n"
            )
        (folder / "haproxy.cfg").write_text(text)
        self.command = ["haproxy", "-W", "-db", "-f", f"{folder}/haproxy.cfg"]
        self.signal = signal.SIGUSR2
        self.scalings = 0

    def scale(self) -> None:
        """It has no such thing."""


BALANCERS: dict[str, Callable[[Path, tuple[int, int], list[int], float], _Pylb | _Haproxy]] = {
    "pylb": _Pylb,
    "haproxy": _Haproxy,
}


async def _until_ready(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            return await _body(port, _STEP, False)
        except (OSError, EOFError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def _later(delay: float, play: Coroutine[Any, Any, None]) -> None:
    await asyncio.sleep(delay)
    await play


async def _play(name: str, folder: Path, servers: list[int], seconds: float) -> Row:
    ports = free_port(), free_port()
    balancer = BALANCERS[name](folder, ports, servers, seconds)
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(balancer.command, stdout=out, stderr=out, start_new_session=True)
    try:
        await _until_ready(ports[1])
        plays: list[Coroutine[Any, Any, None]] = [_websocket(ports[0], seconds) for _ in range(WEBSOCKETS)]
        plays += [_body(ports[1], seconds, True) for _ in range(UPLOADS)]
        plays += [_body(ports[1], seconds, False) for _ in range(DOWNLOADS)]
        # The kinds in turn.
        clients = asyncio.gather(
            *(
                _later(seconds * BEGIN * (number * 37 % len(plays)) / len(plays), play)
                for number, play in enumerate(plays)
            ),
            return_exceptions=True,
        )
        most = 0
        for _ in range(CHANGES):
            await asyncio.sleep(seconds * 0.4 / CHANGES)
            await asyncio.to_thread(balancer.scale)
            await asyncio.sleep(seconds * 0.4 / CHANGES)
            process.send_signal(balancer.signal)
            most = max(most, len(psutil.Process(process.pid).children()))
        async with asyncio.timeout(2 * seconds + 30):
            ends = await clients
    finally:
        process.send_signal(signal.SIGQUIT if name == "pylb" else signal.SIGTERM)
        process.wait(20)
    cut = [sum(isinstance(end, BaseException) for end in group) for group in _groups(ends)]
    reasons = sorted({f"{type(end).__name__}: {end}" for end in ends if isinstance(end, BaseException)})
    said = f" ({'; '.join(reasons)[:200]})" if reasons else ""
    changes = f"{CHANGES} reloads" + (f" and {balancer.scalings} scalings" if balancer.scalings else "")
    return Row(
        f"WebSockets, uploads and downloads of {seconds:g} s, through reloads and scalings",
        name,
        f"through {changes}: cut {cut[0]} of {WEBSOCKETS} WebSockets, {cut[1]} of {UPLOADS} uploads, "
        f"{cut[2]} of {DOWNLOADS} downloads{said}; at most {most} processes beside the first",
        {"websockets_cut": cut[0], "uploads_cut": cut[1], "downloads_cut": cut[2], "processes": most},
    )


def _groups(ends: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    return ends[:WEBSOCKETS], ends[WEBSOCKETS : WEBSOCKETS + UPLOADS], ends[WEBSOCKETS + UPLOADS :]


@contextlib.contextmanager
def _servers() -> Iterator[list[int]]:
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def run(seconds: float = SECONDS) -> list[Row]:
    """pylb beside HAProxy."""
    rows = []
    with _servers() as servers:
        for name in BALANCERS:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(asyncio.run(_play(name, Path(folder), servers, seconds)))
    return rows


if __name__ == "__main__":
    for row in run(float(sys.argv[1])):
        print(f"{row.balancer}: {row.outcome}")
