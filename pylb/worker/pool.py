"""Backends as a worker sees them: servers, their pooled connections, and who gets the next request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pylb.balance import ALGORITHMS
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Server as ServerConfig
from pylb.scoreboard import Scoreboard, ServerField
from pylb.worker.server import ServerConnection

if TYPE_CHECKING:
    from pylb.worker.main import Worker


class Upstream:
    """One server: its address, its idle connections (last used first), its cells of the scoreboard."""

    __slots__ = ("name", "address", "pool", "active", "requests", "errors", "row")

    def __init__(self, config: ServerConfig, board: Scoreboard, index: int, row: int) -> None:
        self.name = config.name
        self.address = config.address
        self.pool: list[ServerConnection] = []
        # Columns over all rows; this worker writes its own row's cell only.
        self.active = board.server_column(ServerField.ACTIVE, index)
        self.requests = board.server_column(ServerField.REQUESTS, index)
        self.errors = board.server_column(ServerField.ERRORS, index)
        self.row = row

    async def connect(self, worker: Worker, timeout: float) -> ServerConnection:
        """A new connection.

        Raises:
            OSError: refused, unreachable, or no such host.
            TimeoutError: not accepted within ``timeout`` seconds.
        """

        def protocol() -> ServerConnection:
            return ServerConnection(worker, self)

        async with asyncio.timeout(timeout):
            if self.address.is_unix:
                _, connection = await worker.loop.create_unix_connection(protocol, self.address.path)
            else:
                _, connection = await worker.loop.create_connection(
                    protocol, self.address.host, self.address.port
                )
        return connection


class Backend:
    """A group of servers and its balancing algorithm."""

    def __init__(
        self,
        config: BackendConfig,
        board: Scoreboard,
        index_of: Callable[[ServerConfig], int],
        row: int,
        alone: Callable[[], bool],
    ) -> None:
        self.name = config.name
        self.retries = config.retries
        self.upstreams = [Upstream(server, board, index_of(server), row) for server in config.servers]
        columns = [upstream.active for upstream in self.upstreams]

        def loads() -> Sequence[int]:
            # Live over all workers; with one worker its own cells say it all.
            if alone():
                return [column[row] for column in columns]
            return [sum(column) for column in columns]

        weights = [server.weight for server in config.servers]
        self.balancer = ALGORITHMS[config.balance](weights, loads)
