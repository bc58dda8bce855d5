"""The servers as the control plane knows them: who there is, and what the table of servers says of each.

Below `main`; health checks, outlier detection, metrics and status go by it. It learns of servers by the
supervisor's messages, and knows nothing of how they are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pylb.config.backend import Backend as BackendConfig
from pylb.config.backend import Server as ServerConfig
from pylb.config.model import Config, ServerKey
from pylb.net.serverlists import Listed, Lists, Reader
from pylb.scoreboard import ControlField, Scoreboard
from pylb.servers import Table


@dataclass(frozen=True, slots=True)
class Server:
    """A server of the configuration in force, or one that was discovered or added."""

    backend: BackendConfig
    config: ServerConfig
    index: int
    source: str = ""
    """Who has named it (`pylb.net.serverlists.Listed`)."""

    @property
    def key(self) -> ServerKey:
        """Backend, name, address."""
        return self.backend.name, self.config.name, str(self.config.address)


Change = Callable[[Sequence[Server], Sequence[Server]], None]
"""Called with the servers that have come and those that have gone; one of which something has changed, as its
weight, is among both, with the same index. Whoever writes of one that has gone must have stopped when this
returns: its index may soon be another server's."""


class Servers:
    """All servers.

    Args:
        lists: as of the fork, with their version.
    """

    def __init__(self, config: Config, board: Scoreboard, lists: Lists, version: int) -> None:
        self.table = Table(board)
        self.on_change: list[Change] = []
        self.indices: dict[ServerKey, int] = {}
        """By backend, server, address; changed in place."""
        self._board = board
        self.backends = {backend.name: backend for backend in config.backends}
        self._reader = Reader(self.backends)
        self._by_index: dict[int, Server] = {}
        self._lost = False
        for name, listed in lists.items():
            self._set(name, listed)
        board.control[ControlField.LISTS] = version

    def __iter__(self) -> Iterator[Server]:
        return iter(self._by_index.values())

    def at(self, index: int) -> Server | None:
        """The server of an index."""
        return self._by_index.get(index)

    def named(self, backend: str, name: str) -> Server | None:
        """The server of a backend that is called so."""
        for server in self._by_index.values():
            if server.backend.name == backend and server.config.name == name:
                return server
        return None

    def hear(self, message: Mapping[str, Any]) -> None:
        """A ``servers`` message; raises what a callback raises. Then neither its version is acknowledged nor
        any after it, since something may still write of servers that have gone."""
        found = self._reader.take(message)
        if found is not None:
            name, listed = found
            come, gone = self._set(name, listed)
            if come or gone:
                lost, self._lost = self._lost, True
                for call in self.on_change:
                    call(come, gone)
                self._lost = lost
        if self._lost:
            return
        if message["part"] == message["parts"]:
            self._board.control[ControlField.LISTS] = message["version"]

    def _set(self, name: str, listed: Sequence[Listed]) -> tuple[list[Server], list[Server]]:
        backend = self.backends[name]
        before = {index: one for index, one in self._by_index.items() if one.backend is backend}
        now = {one.index: Server(backend, one.config, one.index, one.source) for one in listed}
        come = [one for index, one in now.items() if before.get(index) != one]
        gone = [one for index, one in before.items() if now.get(index) != one]
        for one in gone:
            del self._by_index[one.index], self.indices[one.key]
        for one in come:
            self._by_index[one.index] = one
            self.indices[one.key] = one.index
        return come, gone
