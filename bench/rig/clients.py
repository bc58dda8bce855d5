"""Clients in this process, on asyncio, that keep count of everything that goes wrong.

Not Locust, because what is asked here is not how fast but whether *every* request was answered.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What happened to the requests of many clients."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    connections: int = 0


GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
_GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes = GET) -> bool:
    """Send a request and read its response; gives whether the connection may carry another one.

    Raises:
        ValueError: it is not a 200 with a Content-Length.
        OSError, EOFError: the connection broke, or ended within the response.
    """
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(head.split(b"\r\n", 1)[0].decode())
    lower = head.lower()
    start = lower.index(b"\ncontent-length:") + 16
    await reader.readexactly(int(lower[start : lower.index(b"\r", start)]))
    return b"\nconnection: close" not in lower


async def _keep_alive(host: str, port: int, stop: asyncio.Event, tally: Tally) -> None:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        tally.failed.append(f"connect: {error}")
        return
    tally.connections += 1
    try:
        while not stop.is_set():
            if not await exchange(reader, writer):
                raise ValueError("the balancer closes a connection that it could have kept")
            tally.answered += 1
    except (OSError, EOFError, ValueError) as error:
        tally.failed.append(f"{type(error).__name__}: {error}")
    finally:
        writer.close()


async def keep_alive_clients(host: str, port: int, clients: int, stop: asyncio.Event) -> Tally:
    """Clients that send without pause, each on one connection, until ``stop``; a client that fails ends."""
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_keep_alive(host, port, stop, tally))
    return tally


async def connection_per_request(host: str, port: int, requests: int, clients: int) -> Tally:
    """``requests`` requests, each on a connection of its own, ``clients`` at a time."""
    tally = Tally()
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            try:
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    tally.connections += 1
                    await exchange(reader, writer, _GET_AND_CLOSE)
                    tally.answered += 1
                finally:
                    writer.close()
            except (OSError, EOFError, ValueError) as error:
                tally.failed.append(f"{type(error).__name__}: {error}")

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return tally
