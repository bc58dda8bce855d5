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
        self._found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        """By backend and source, the entries that tell of what was found. What they leave out the section of
        the source says, and so each configuration for itself."""
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
        known, listed = self.indices.known, []
        for one in self._servers(backend):
            if isinstance(one, Server):
                listed.append(Listed(one, known[_key(backend, one)]))
            else:
                listed.append(Listed(server_of(one, backend), known[_key(backend, one)], one["source"]))
        return listed

    def discovered(
        self, backend: str, source: str, told: Iterable[Mapping[str, Any]], configs: Sequence[Config]
    ) -> bool:
        """A source knows these servers, and no others; whether they are others than before.

        Args:
            configs: those of all processes, that of the serving generation first.

        Raises:
            ValueError: what it tells are no servers, or there is no such backend or source.
            BindError: there is no room for them. Either way all is as before.
        """
        section = next((one for one in configs[0].backends if one.name == backend), None)
        if section is None:
            raise ValueError(f"there is no backend {backend!r}")
        if all(one.name != source for one in section.discover):
            raise ValueError("there is no such source")
        servers = [{**one, "source": source} for one in told]
        for one in servers:
            one["address"] = str(server_of(one, section).address)
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

    def _servers(self, backend: Backend) -> Iterable[Server | dict[str, Any]]:
        """Those of the file, then those that its sources have found; of one name the first counts."""
        found: dict[str, Server | dict[str, Any]] = {server.name: server for server in backend.servers}
        for source in backend.discover:
            for one in self._found.get((backend.name, source.name), ()):
                found.setdefault(one["name"], one)
        return found.values()

    def _keys(self, config: Config) -> list[ServerKey]:
        return [_key(backend, server) for backend in config.backends for server in self._servers(backend)]


def _key(backend: Backend, server: Server | dict[str, Any]) -> ServerKey:
    if isinstance(server, Server):
        return backend.name, server.name, str(server.address)
    return backend.name, server["name"], server["address"]
