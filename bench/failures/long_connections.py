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
import sys
import tempfile
import time
from collections.abc import Coroutine
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from bench.failures.report import Row
from bench.rig.origins import response
from bench.rig.peers import RELOAD, Site, running
from bench.rig.processes import child
from pylb.config.address import Address
from pylb.control import view

SECONDS = 15.0
BEGIN = 0.4  # of the seconds: in this time they begin
WEBSOCKETS, UPLOADS, DOWNLOADS = 50, 20, 20
CHANGES = 10  # reloads, and as many scalings
_STEP = 0.1  # seconds between pieces of a body
_PIECE = bytes(1000)


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
            writer.write(response(b"ok", b"Connection: close\r\n"))
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


def _scale(name: str, folder: Path, count: int) -> int:
    """Set the number of pylb's workers, HAProxy has no such thing; how often that was done."""
    if name != "pylb":
        return 0
    view.fetch(Address("", 0, f"{folder}/admin.sock"), "POST", "/scale", {"n": count})
    return 1


async def _later(delay: float, play: Coroutine[Any, Any, None]) -> None:
    await asyncio.sleep(delay)
    await play


async def _play(name: str, folder: Path, servers: list[int], seconds: float) -> Row:
    sites = [Site([f"127.0.0.1:{port}"]) for port in servers]
    options: dict[str, dict[str, Any]] = {
        "pylb": {"most": 2, "settings": f"[drain]\ntimeout = {seconds / 2}\n"},
        "haproxy": {"workers": 2, "connections": 1000, "master": True},
    }
    with running(name, folder, *sites, **options[name]) as program:
        ports = [site.port for site in sites]
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
        most = scalings = 0
        for change in range(CHANGES):
            await asyncio.sleep(seconds * 0.4 / CHANGES)
            scalings += await asyncio.to_thread(_scale, name, folder, 2 - change % 2)
            await asyncio.sleep(seconds * 0.4 / CHANGES)
            program.process.send_signal(RELOAD[name])
            most = max(most, len(psutil.Process(program.process.pid).children()))
        async with asyncio.timeout(2 * seconds + 30):
            ends = await clients
    cut = [sum(isinstance(end, BaseException) for end in group) for group in _groups(ends)]
    reasons = sorted({f"{type(end).__name__}: {end}" for end in ends if isinstance(end, BaseException)})
    said = f" ({'; '.join(reasons)[:200]})" if reasons else ""
    changes = f"{CHANGES} reloads" + (f" and {scalings} scalings" if scalings else "")
    return Row(
        f"WebSockets, uploads and downloads of {seconds:g} s, through reloads and scalings",
        name,
        f"through {changes}: cut {cut[0]} of {WEBSOCKETS} WebSockets, {cut[1]} of {UPLOADS} uploads, "
        f"{cut[2]} of {DOWNLOADS} downloads{said}; at most {most} processes beside the first",
        {"websockets_cut": cut[0], "uploads_cut": cut[1], "downloads_cut": cut[2], "processes": most},
    )


def _groups(ends: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    return ends[:WEBSOCKETS], ends[WEBSOCKETS : WEBSOCKETS + UPLOADS], ends[WEBSOCKETS + UPLOADS :]


def run(seconds: float = SECONDS) -> list[Row]:
    """pylb beside HAProxy."""
    with child(_serve) as pipe, tempfile.TemporaryDirectory() as folder:
        servers: list[int] = pipe.recv()
        names = ("pylb", "haproxy")
        return [asyncio.run(_play(name, Path(folder, name), servers, seconds)) for name in names]


if __name__ == "__main__":
    for row in run(float(sys.argv[1])):
        print(f"{row.balancer}: {row.outcome}")
