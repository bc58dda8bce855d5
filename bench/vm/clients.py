"""Clients in this process that each send their next request when they have the response, and when they did.

For what wrk doesn't tell: the rate while it changes, and which requests were the first ones on a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


@dataclass
class Answered:
    """Seconds of each request: the first ones on their connections, with the connect, and the later ones."""

    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self.first) + len(self.later)


class _Client(asyncio.Protocol):
    def __init__(self, answered: Answered, sent: float) -> None:
        self._answered = answered
        self._times = answered.first
        self._sent = sent
        self._left = 0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = b""
            self._left = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        self._left -= len(data)
        if self._left <= 0:
            now = time.monotonic()
            self._times.append(now - self._sent)
            self._times, self._sent = self._answered.later, now
            self._transport.write(_REQUEST)


@contextlib.asynccontextmanager
async def clients(address: str, port: int, count: int) -> AsyncIterator[Answered]:
    """So many, from connecting all at once to the end of the block; responses need a Content-Length."""
    answered = Answered()
    loop = asyncio.get_running_loop()
    connecting = [
        loop.create_connection(lambda: _Client(answered, time.monotonic()), address, port)
        for _ in range(count)
    ]
    connected = asyncio.gather(*connecting)
    try:
        yield answered
    finally:
        for transport, _ in await connected:
            transport.abort()
