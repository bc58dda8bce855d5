"""The roster: all processes are told of the servers, and the supervisor hears when they know.

It carries out what the control plane asks for that concerns servers, and keeps for the next control plane
what this one wants it to know. It knows the fleet and the control plane's process, and not from where a
message comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from pylb.config.model import Config
from pylb.log import log
from pylb.net import channel
from pylb.net.listeners import BindError
from pylb.net.serverlists import packets
from pylb.scoreboard import ControlField, Field, Scoreboard
from pylb.supervisor.controlplane import ControlPlane
from pylb.supervisor.fleet import Fleet
from pylb.supervisor.overlay import Overlay, Refused
from pylb.supervisor.processes import Child
from pylb.supervisor.servers import Servers

_NOBODY = ""  # the backend of a list that only says that there is another version


class Roster:
    """Who knows which servers.

    Args:
        board: where processes write down by which version of the lists they go.
        servers: the lists.
        fleet: whose workers are told.
        control: whose process is told.
        changed: called with the operator's changes when they are others.
    """

    def __init__(
        self,
        board: Scoreboard,
        servers: Servers,
        fleet: Fleet,
        control: ControlPlane,
        changed: Callable[[Overlay], None],
    ) -> None:
        self._board = board
        self._servers = servers
        self._fleet = fleet
        self._control = control
        self._changed = changed

    # -- what the control plane says -------------------------------------------------------------

    def look(self) -> None:
        """The table of servers has changed: workers look at it, though nothing may come for them to pick a
        server for."""
        for worker in self._fleet.workers.values():
            # Not kept where there is no room: with its next pick or tick a worker looks all the same.
            if not worker.outbox:
                channel.send(worker.channel, {"op": "look"})

    def discovered(self, backend: str, source: str, servers: list[dict[str, Any]]) -> None:
        """A source says which servers a backend has."""
        try:
            if self._servers.discovered(backend, source, servers, self._configs()):
                self.tell(backend)
        except (ValueError, BindError, Refused) as error:
            log.error("backend %s: servers of %s are passed over: %s", backend, source, error)

    def change(self, number: int, backend: str, server: str, what: dict[str, Any]) -> None:
        """The operator changes a server; the answer goes to the control plane."""
        status = 200
        try:
            said, another = self._servers.change(backend, server, what, self._configs())
            log.info("operator: %s", said)
            if another:
                self.tell(backend)
            self.look()
            self._changed(self._servers.overlay)
        except Refused as refused:
            status, said = refused.status, str(refused)
        except BindError as error:
            status, said = 409, str(error)
        if self._control.child is not None:
            self._control.child.send({"op": "done", "id": number, "status": status, "said": said})

    def flipped(self) -> None:
        """Another configuration serves from now on."""
        for lost in self._servers.serves(self._fleet.served.config):
            log.warning("changes of servers: %s", lost)
        self._changed(self._servers.overlay)
        self.look()

    # -- telling ---------------------------------------------------------------------------------

    def tell(self, backend: str) -> None:
        """The list of a backend is another one."""
        servers = self._servers
        if not servers.settle(self._configs()):
            servers.version += 1
        told: dict[int, list[dict[str, Any]]] = {}  # by the identity of the configuration
        for child, config in self._children():
            if id(config) not in told:
                section = next((one for one in config.backends if one.name == backend), None)
                listed = [] if section is None else servers.listed(section)
                name = _NOBODY if section is None else backend
                told[id(config)] = list(packets(name, servers.version, listed))
            _send(child, told[id(config)])

    def tick(self) -> None:
        """Give up servers of configurations that no process has any more, and free indices."""
        if self._servers.settle(self._configs()):
            for child, _ in self._children():
                _send(child, list(packets(_NOBODY, self._servers.version, [])))
        for backend, name, address in self._servers.indices.free(self._acknowledged()):
            log.debug("nobody knows server %s/%s at %s any more", backend, name, address)

    def _configs(self) -> list[Config]:
        fleet = self._fleet
        found = [fleet.served.config, fleet.newest.config, *(config for _, config in self._children())]
        return list({id(config): config for config in found}.values())

    def _children(self) -> Iterable[tuple[Child, Config]]:
        for worker in self._fleet.workers.values():
            yield worker, worker.config
        if self._control.child is not None:
            yield self._control.child, self._control.config

    def _acknowledged(self) -> int:
        """The version by which, or by a later one, all processes go."""
        versions = [self._board.row(row)[Field.LISTS] for row in self._fleet.workers]
        if self._control.child is not None:
            versions.append(self._board.control[ControlField.LISTS])
        return min(versions, default=self._servers.version)


def _send(child: Child, messages: list[dict[str, Any]]) -> None:
    """Send a list; what still waits to be sent of an earlier one is not sent any more."""
    if child.outbox:
        name = messages[0]["backend"]
        child.outbox = deque(one for one in child.outbox if one["op"] != "servers" or one["backend"] != name)
    for message in messages:
        child.send(message)
