"""Who is a server of which backend: those of the file, those discovered, and the operator's changes.

It makes the list of each backend, gives its servers their indices, numbers the lists, and writes what the
operator says of a server to the table. It knows neither processes nor what they are told (`roster` tells
them).

Floor: above `indices` and `overlay`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pylb.config.backend import Backend, Server
from pylb.config.model import Config, ServerKey
from pylb.net.serverlists import ADDED, Listed, Lists, server_of
from pylb.scoreboard import Scoreboard
from pylb.servers import Column, Table
from pylb.supervisor.indices import Indices, NoRoom
from pylb.supervisor.overlay import HEALTH, STATES, Overlay, Refused

_SHOWN = 20  # names of what there is, in a message about one that there isn't


class Servers:
    """The lists.

    Args:
        board: where servers have their indices, and backends their response times.
        config: the first one.
        overlay: the operator's changes, of an earlier run.

    Raises:
        BindError: there is no room for its servers.
    """

    def __init__(self, board: Scoreboard, config: Config, overlay: Overlay | None = None) -> None:
        self.version = 1
        """Of the lists; a process writes down by which one it goes."""
        self.indices = Indices(board)
        self.overlay = overlay or Overlay()
        self._table = Table(board)
        self._board = board
        self._found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        """By backend and source, the entries that tell of what was found. What they leave out the section of
        the source says, and so each configuration for itself."""
        self._made: dict[tuple[int, str], tuple[Backend, list[dict[str, Any]], list[Server]]] = {}
        """What `_found_by` has made of them, by the identity of a section, and source."""
        self.prepare(config)

    # -- lists -----------------------------------------------------------------------------------

    def prepare(self, config: Config, in_use: Iterable[Config] = ()) -> list[ServerKey]:
        """Give the servers of a configuration indices, and its backends a place for their response times.

        Args:
            in_use: the configurations of all processes that there are.

        Returns the servers that are new.

        Raises:
            BindError: there is no room for them; nothing was changed.
        """
        self._made.clear()  # else those of former configurations would stay
        try:
            self._board.add_backends(
                [backend.name for backend in config.backends],
                [backend.name for other in in_use for backend in other.backends],
                {backend.name for backend in config.backends if _bounded(backend)},
            )
        except OverflowError as error:
            raise NoRoom(
                f"{error} have a maxconn or a queue, with those of workers that still drain; "
                "try later or restart"
            ) from None
        return self._index([config])

    def lists(self, config: Config) -> Lists:
        """The servers of each backend; all of them must have an index."""
        return {backend.name: self.listed(backend) for backend in config.backends}

    def listed(self, backend: Backend) -> list[Listed]:
        """The servers of one backend."""
        known, name = self.indices.known, backend.name
        static = {server.name for server in backend.servers}
        source = {one.name: by.name for by in backend.discover for one in self._found_by(backend, by.name)}
        found = []
        for one in self._servers(backend):
            who = "" if one.name in static else source.get(one.name, ADDED)
            if self.overlay.is_added(name, one.name):
                who = ADDED
            found.append(Listed(one, known[name, one.name, str(one.address)], who))
        return found

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
        for source in backend.discover:
            for server in self._found_by(backend, source.name):
                found.setdefault(server.name, server)
        return self.overlay.laid_over(backend.name, list(found.values()))

    def _found_by(self, backend: Backend, source: str) -> list[Server]:
        """The servers that a source has found, as this configuration has them."""
        told = self._found.get((backend.name, source), [])
        made = self._made.get((id(backend), source))
        if made is None or made[0] is not backend or made[1] is not told:
            servers = [server_of(one, backend) for one in told]
            self._made[id(backend), source] = made = (backend, told, servers)
        return made[2]

    def _keys(self, config: Config) -> list[ServerKey]:
        return [
            (backend.name, server.name, str(server.address))
            for backend in config.backends
            for server in self._servers(backend)
        ]

    def _index(self, configs: Sequence[Config]) -> list[ServerKey]:
        """Give all servers of these configurations an index; gives the new ones."""
        fresh = self.indices.give(key for config in configs for key in self._keys(config))
        if fresh:
            new = {(backend, name) for backend, name, _ in fresh}
            for config in reversed(configs):  # of several that differ the first one is the last to write
                self._write(config, new)
        return fresh

    # -- discovery -------------------------------------------------------------------------------

    def discovered(
        self, backend: str, source: str, told: Iterable[Mapping[str, Any]], configs: Sequence[Config]
    ) -> bool:
        """A source knows these servers, and no others; whether they are others than before.

        Args:
            configs: those of all processes, that of the serving generation first.

        Raises:
            Refused: there is no such backend.
            ValueError: there is no such source, or what it tells are no servers.
            BindError: there is no room for them. In any case all is as before.
        """
        section = _backend(configs[0], backend)
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
            self._index(configs)
        except Exception:
            self._found[backend, source] = before
            raise
        return True

    # -- the operator ----------------------------------------------------------------------------

    def change(
        self, backend: str, server: str, what: Mapping[str, Any], configs: Sequence[Config]
    ) -> tuple[str, bool]:
        """Change a server, add or remove one; gives what was done, and whether the list is another one.

        Args:
            what: the keys to change, with their values (`overlay.Said`), or one of ``add`` (with a table of
                the server's keys), ``remove`` and ``restore``.
            configs: as for `discovered`.

        Raises:
            Refused: it isn't done.
            BindError: there is no room for a further server. Either way all is as before.
        """
        section = _backend(configs[0], backend)
        servers = self._servers(section)
        before = self.overlay.copy()
        try:
            if "add" in what:
                keys = what["add"]
                if not isinstance(keys, Mapping):
                    raise Refused(400, "add: expected a table of a server's keys")
                server = self.overlay.add(section, servers, keys)
                done = f"{backend}/{server} added"
            elif "restore" in what:
                if not self.overlay.restore(section, server):
                    raise Refused(404, f"nothing was changed of {backend}/{server}")
                done = f"{backend}/{server} is as the configuration says"
            else:
                found = next((one for one in servers if one.name == server), None)
                if found is None:
                    names = _some([one.name for one in servers])
                    raise Refused(404, f"backend {backend} has no server {server!r:.100}; it has {names}")
                if "remove" in what:
                    self.overlay.remove(section, server)
                    done = f"{backend}/{server} removed; what it has under way is answered"
                else:
                    done = f"{backend}/{server}: {self.overlay.change(section, found, what)}"
            another = self._servers(section) != servers
            if another:
                self._index(configs)
        except Exception:
            self.overlay = before
            raise
        for config in reversed(configs):
            self._write(config, {(backend, server)})
        return done, another

    def serves(self, config: Config) -> list[str]:
        """A configuration serves from now on: changes that it makes itself are forgotten, as are those for
        which there is nothing any more; gives the latter in words."""
        known: dict[str, set[str]] = {}
        for (backend, _), servers in self._found.items():
            known.setdefault(backend, set()).update(one["name"] for one in servers)
        lost = self.overlay.settle(config.backends, known)
        self._write(config)
        return lost

    def _write(self, config: Config, only: set[tuple[str, str]] | None = None) -> None:
        """Write to the table what operator and configuration say of the servers; of ``only`` these."""
        for backend in config.backends:
            if only is not None and not any(name == backend.name for name, _ in only):
                continue
            for server in self._servers(backend):
                if only is not None and (backend.name, server.name) not in only:
                    continue
                index = self.indices.known.get((backend.name, server.name, str(server.address)))
                if index is None:
                    continue
                said = self.overlay.said(backend.name, server.name)
                for column, value in (
                    (Column.ADMIN, STATES[said.state or server.state]),
                    (Column.FORCED, HEALTH[said.health or "on"]),
                    (Column.WEIGHT, -1 if said.weight is None else said.weight),
                    (Column.MAXCONN, -1 if said.maxconn is None else said.maxconn),
                ):
                    if self._table.get(column, index) != value:
                        self._table.supervisor_set(column, index, value)


def _backend(config: Config, name: str) -> Backend:
    for backend in config.backends:
        if backend.name == name:
            return backend
    names = _some([backend.name for backend in config.backends])
    raise Refused(404, f"there is no backend {name!r:.100}; there are {names}")


def _bounded(backend: Backend) -> bool:
    """Whether requests may wait for it or one of its servers."""
    servers = any(server.maxconn for server in backend.servers)
    return bool(backend.maxconn or servers or backend.queue is not None)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) + more) or "none"
