"""The sweep: has whatever has a deadline that has passed act on it.

Requests under way are looked at as often as the shortest timeout asks for. They are found by their exchanges,
of which there are as many as there have been requests at once. Connections, of which there may be a hundred
times as many, mostly wait for something that takes long. So all of them are looked at once a second, and more
often only where a timeout of theirs is short.

Floor: below the process, which says when; above the exchange. Knows no codec.
"""

from __future__ import annotations

import math

from pylb.config import changes
from pylb.config.model import Config
from pylb.scoreboard import Field
from pylb.worker.core import Core

_MOST = 1.0  # seconds between two looks


class Sweep:
    """When what is looked at.

    Args:
        tick: seconds between two calls of `look`, about.
    """

    def __init__(self, core: Core, config: Config, tick: float) -> None:
        self._core = core
        shortest = changes.shortest(config, *changes.BETWEEN_REQUESTS)
        self._connections_every = max(tick, min(_MOST, shortest / 4))
        self._requests_every = max(tick, min(_MOST, changes.shortest(config) / 4))
        self._next_connections = self._next_requests = 0.0

    def look(self, now: float, alone: bool) -> bool:
        """Look at what it is time for; whether it was for anything.

        Args:
            now: the worker's clock.
            alone: whether there is no other worker.
        """
        if now < self._next_requests:
            return False
        self._next_requests = now + self._requests_every
        if now >= self._next_connections:
            self._next_connections = now + self._connections_every
            self._connections(now, alone)
        else:
            self._requests(now)
        return True

    def _requests(self, now: float) -> None:
        """Those that are late; a connection of HTTP/2 has several."""
        late = {
            exchange.client.carrier
            for exchange in self._core.exchanges
            if exchange.client is not None and exchange.due() < now
        }
        for client in late:
            client.expire()

    def _connections(self, now: float, alone: bool) -> None:
        """All connections, their requests included."""
        core = self._core
        late = []
        fixed = lively = 0
        for client in core.clients:
            if client.due() < now:
                late.append(client)
            if not client.movable or client.long:  # TLS, HTTP/2, tunnels, what takes long
                fixed += 1
                lively += not alone and client.lively()
        counters = core.counters
        counters[Field.FIXED] = fixed
        counters[Field.LIVELY] = lively
        for client in late:
            client.expire()
        if core.limits.connection_age:
            for client in core.clients:
                if client.recall_at < now:
                    client.recall_at = math.inf  # asked
                    client.recall()
        for tunnel in [tunnel for tunnel in core.tunnels if tunnel.deadline < now]:
            tunnel.expire()
        for connection in [one for one in core.server_connections if one.due() < now]:
            connection.expire()
        for pipe in list(core.unsent):
            pipe.look()
