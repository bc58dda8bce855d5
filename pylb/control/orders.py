"""What the control plane asks of the supervisor. Nothing of it waits, and nothing is lost where the channel
has no room for a while; but an order that is to be answered waits for its answer.

Below `main`; whoever wants something of the supervisor is given this.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Mapping
from typing import Any

from pylb.net import channel

ANSWER = 5.0
"""Seconds that the supervisor gets to carry out an order."""

_AGAIN = 0.05  # seconds until what there was no room for is sent again


class Orders:
    """The control plane's end of the channel, for sending."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._waiting: deque[dict[str, Any]] = deque()
        self._later: asyncio.TimerHandle | None = None
        self._changed = False
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[tuple[int, str]]] = {}

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, after those that still wait."""
        self._waiting.append(message)
        self._flush()

    def _flush(self) -> None:
        self._later = None
        while self._waiting:
            if not channel.send(self._sock, self._waiting[0]):
                if self._later is None:
                    self._later = asyncio.get_running_loop().call_later(_AGAIN, self._flush)
                return
            self._waiting.popleft()

    def changed(self) -> None:
        """The table of servers has changed; the workers are told once for all that changes in this turn."""
        if not self._changed:
            self._changed = True
            asyncio.get_running_loop().call_soon(self._say_changed)

    def _say_changed(self) -> None:
        self._changed = False
        self.send({"op": "changed"})

    def discovered(self, backend: str, source: str, servers: list[dict[str, Any]]) -> None:
        """A source knows these servers of a backend, and no others."""
        self.send({"op": "discovered", "backend": backend, "source": source, "servers": servers})

    def keep(self, key: str, value: Any) -> None:
        """Leave a value (JSON) to the next control plane; None forgets it."""
        self.send({"op": "keep", "key": key, "value": value})

    async def ask(self, message: Mapping[str, Any]) -> tuple[int, str]:
        """Have an order carried out; gives an HTTP status and a sentence that says what was done."""
        number = next(self._numbers)
        done = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self.send({**message, "id": number})
            async with asyncio.timeout(ANSWER):
                status, said = await done
                return status, said
        except TimeoutError:
            return 503, "the supervisor doesn't answer; status says what holds"
        finally:
            del self._asked[number]

    def done(self, number: int, status: int, said: str) -> None:
        """The supervisor's answer to an order."""
        waiting = self._asked.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result((status, said))
