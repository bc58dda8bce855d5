"""Clients that ask on and on, and count what they don't get."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from bench.rig.clients import exchange

PATIENCE = 3.0
"""Seconds after which a request counts as not answered."""
PAUSE = 0.015
"""Seconds between an answer and the client's next request."""
GET = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


@dataclass
class Tally:
    """What happened to the requests of some clients."""

    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    """Seconds that the slowest answer took."""


def _word(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ValueError):
        return str(error).split(" ")[1] if str(error).startswith("HTTP/1.1 ") else "bad answer"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "cut off"


async def _client(port: int, request: bytes, stop: asyncio.Event, tally: Tally) -> None:
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    while not stop.is_set():
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                if reader is None or writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                tally.requests += 1
                again = await exchange(reader, writer, request)
            tally.longest = max(tally.longest, time.monotonic() - began)
        except (OSError, EOFError, ValueError) as error:
            tally.errors[_word(error)] += 1
            again = False
        if not again and writer is not None:
            writer.close()
            reader = writer = None
        await asyncio.sleep(PAUSE)
    if writer is not None:
        writer.close()


async def clients(port: int, count: int, request: bytes, stop: asyncio.Event) -> Tally:
    """So many clients, each with one request at a time on a connection that it keeps, until ``stop``."""
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_client(port, request, stop, tally))
    return tally
