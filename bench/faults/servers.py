"""Servers that behave as they are told: several in one process, each on a port of its own.

Each answers ``/health`` for health checks and any other path with a small body.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from bench.rig.origins import response
from bench.rig.processes import child

OK = response(b"x" * 128)
_SICK = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
_LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 1000
_LINGER_NOT = struct.pack("ii", 1, 0)
SLOW = 0.3
"""Seconds that an answer takes in the mode ``slow``."""


class _Reset(Exception):
    """The connection is to be reset."""


async def _never(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def _reset(writer: asyncio.StreamWriter) -> None:
    raise _Reset


async def _empty(writer: asyncio.StreamWriter) -> None:
    raise EOFError


async def _junk(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    raise EOFError


async def _cut(writer: asyncio.StreamWriter) -> None:
    writer.write(_LONG)
    await writer.drain()
    await asyncio.sleep(0.02)
    raise _Reset


async def _stall(writer: asyncio.StreamWriter) -> None:
    writer.write(_LONG)
    await asyncio.sleep(3600)


async def _slow(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(SLOW)
    writer.write(OK)


async def _trickle(writer: asyncio.StreamWriter) -> None:
    for at in range(0, len(OK), 20):
        writer.write(OK[at : at + 20])
        await asyncio.sleep(0.02)


async def _busy(writer: asyncio.StreamWriter) -> None:
    writer.write(_SICK)


async def _error(writer: asyncio.StreamWriter) -> None:
    writer.write(_ERROR)


async def _ok(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def _stale(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    await writer.drain()
    await asyncio.sleep(0.002)
    raise EOFError


async def _linefeeds(writer: asyncio.StreamWriter) -> None:
    writer.write(OK.replace(b"\r\n", b"\n"))


_REQUESTS: dict[str, Callable[[asyncio.StreamWriter], Awaitable[None]]] = {
    "silent": _never,
    "reset": _reset,
    "empty": _empty,
    "junk": _junk,
    "cut": _cut,
    "stall": _stall,
    "slow": _slow,
    "trickle": _trickle,
    "busy": _busy,
    "lies": _error,
    "stale": _stale,
    "linefeeds": _linefeeds,
}
"""What a request is answered with in each mode; in others, as it should be."""
_CHECKS = {"silent": _never, "sick": _busy, "reset": _reset, "empty": _empty, "slow": _slow}
"""The same for health checks."""


class _Server:
    """One of them. In the mode ``refuse`` it doesn't listen."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext | None) -> None:
        self.mode = "ok"
        self.address = address
        self._context = context
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def play(self, mode: str) -> None:
        self.mode = mode
        if mode == "refuse" and self._listener is not None:
            self._listener.close()
            self._listener = None
            for writer in self._writers:
                writer.transport.abort()
        elif mode != "refuse" and self._listener is None:
            self._listener = await asyncio.start_server(
                self._serve, *self.address, backlog=1024, ssl=self._context, reuse_address=True
            )
            self.address = self._listener.sockets[0].getsockname()[:2]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"\ncontent-length:")[2].split(b"\r")[0]
                await reader.readexactly(int(length or 0))
                kinds = _CHECKS if head.startswith(b"GET /health ") else _REQUESTS
                await kinds.get(self.mode, _ok)(writer)
        except _Reset:
            sock: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        except (OSError, EOFError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def _context(files: tuple[Path, Path] | None) -> ssl.SSLContext | None:
    if files is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*files)
    return made


async def _run(
    addresses: Sequence[tuple[str, int]],
    certificates: Sequence[tuple[Path, Path] | None],
    pipe: Connection[Any, Any],
) -> None:
    servers = [
        _Server(address, _context(files)) for address, files in zip(addresses, certificates, strict=True)
    ]
    for server in servers:
        await server.play("ok")
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), told.set)
    pipe.send([server.address for server in servers])
    while True:
        await told.wait()
        told.clear()
        while pipe.poll():
            number, mode = pipe.recv()
            await servers[number].play(mode)
            pipe.send(None)


def _main(*arguments: Any) -> None:
    uvloop.run(_run(*arguments))


class Servers:
    """The servers, as the benchmark sees them."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe
        self.addresses: list[tuple[str, int]] = pipe.recv()

    def play(self, mode: str, *numbers: int) -> None:
        """Have these servers behave so from now on."""
        for number in numbers:
            self._pipe.send((number, mode))
            self._pipe.recv()

    @property
    def names(self) -> list[str]:
        """Their addresses with ports, as text."""
        return [f"{host}:{port}" for host, port in self.addresses]


@contextmanager
def servers(
    addresses: Sequence[tuple[str, int]], certificates: Sequence[tuple[Path, Path] | None]
) -> Iterator[Servers]:
    """Servers in a process of their own; port 0 is any. With a certificate and its key one speaks TLS."""
    with child(_main, list(addresses), list(certificates)) as pipe:
        yield Servers(pipe)
