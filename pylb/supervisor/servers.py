"""Who is a server of which backend: those of a configuration's file, and those that were discovered.

It makes the list of each backend, gives its servers their indices, and numbers the lists. It knows neither
processes nor what they are told (`roster` tells them).

Floor: above `indices`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pylb.config.backend import Backend, Server
from pylb.config.model import Config, ServerKey
from pylb.log import log
from pylb.net.serverlists import Listed, Lists, server_of
from pylb.scoreboard import Scoreboard
from pylb.supervisor.indices import Indices


class Servers:
    """The lists.

    Args:
        board: where servers have their indices, and backends their response times.
        config: the first one.

    Raises:
        BindError: there is no room for its servers.
    """

    def __init__(self, board: Scoreboard, config: Config) -> None:
        self.version = 1
        """Of the lists; a process writes down by which one it goes."""
        self.indices = Indices(board)
        self._board = board
        self._found: dict[tuple[str, str], list[Server]] = {}  # by backend and source
        self.prepare(config)

    def prepare(self, config: Config, in_use: Iterable[Config] = ()) -> list[ServerKey]:
        """Give the servers of a configuration indices, and its backends a place for their response times.

        Args:
            in_use: the configurations of all processes that there are.

        Returns the servers that are new.

        Raises:
            BindError: there is no room for them; nothing was changed.
        """
        fresh = self.indices.give(self._keys(config))
        self._board.add_backends(
            [backend.name for backend in config.backends],
            [backend.name for other in in_use for backend in other.backends],
        )
        return fresh

    def lists(self, config: Config) -> Lists:
        """The servers of each backend; all of them must have an index."""
        return {backend.name: self.listed(backend) for backend in config.backends}

    def listed(self, backend: Backend) -> list[Listed]:
        """The servers of one backend."""
        known, name = self.indices.known, backend.name
        return [Listed(one, known[name, one.name, str(one.address)]) for one in self._servers(backend)]

    def discovered(
        self, backend: str, source: str, told: Iterable[Mapping[str, Any]], configs: Sequence[Config]
    ) -> bool:
        """A source knows these servers, and no others; whether they are others than before.

        Args:
            configs: those of all processes, that of the serving generation first.

        Raises:
            ValueError: what it tells are no servers, or there is no such backend.
            BindError: there is no room for them. Either way all is as before.
        """
        section = next((one for one in configs[0].backends if one.name == backend), None)
        if section is None:
            raise ValueError(f"there is no backend {backend!r}")
        servers = [server_of(one, section.model_copy(update={"servers": ()})) for one in told]
        before = self._found.get((backend, source), [])
        if servers == before:
            return False
        self._found[backend, source] = servers
        try:
            self.indices.give(key for config in configs for key in self._keys(config))
        except Exception:
            self._found[backend, source] = before
            raise
        return True

    def settle(self, configs: Iterable[Config]) -> bool:
        """Give up the servers that none of these configurations has; whether there are any. Then this is
        another version, of which all processes are to be told."""
        wanted = {key for config in configs for key in self._keys(config)}
        gone = [key for key in self.indices.held() if key not in wanted]
        if gone:
            self.version += 1
            self.indices.give_up(gone, self.version)
        return bool(gone)

    def _servers(self, backend: Backend) -> list[Server]:
        """Those of the file come first; of those of one name the first one counts."""
        found = {server.name: server for server in backend.servers}
        for (name, source), servers in self._found.items():
            if name != backend.name:
                continue
            for server in servers:
                if server.name in found:
                    log.debug("%s: %s/%s is another server's name", source, name, server.name)
                else:
                    found[server.name] = server
        return list(found.values())

    def _keys(self, config: Config) -> list[ServerKey]:
        return [
            (backend.name, server.name, str(server.address))
            for backend in config.backends
            for server in self._servers(backend)
        ]
