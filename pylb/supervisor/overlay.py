"""The operator's changes of servers while pylb runs, laid over what files and discovery say.

Pure: it knows configurations, and neither processes nor indices. Changes are kept by the names of backend and
server, so that they survive a reload, and with ``state_file`` a restart. What a change may say is bounded
here: an address, numbers and states, but no file, no code and nothing of TLS, which only the configuration's
file can say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pydantic import ValidationError

from pylb.config.backend import Backend, Server
from pylb.net.serverlists import PLAIN
from pylb.servers import Admin, Forced

MOST_ADDED = 10_000
"""Servers that can be added to a backend."""

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,100}", re.ASCII)
_LARGEST = 1 << 30


class Refused(Exception):
    """A change that isn't made.

    Args:
        status: HTTP's.
        said: why, for the operator.
    """

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


@dataclass(frozen=True, slots=True)
class Said:
    """What the operator has said of a server; None where nothing."""

    state: str | None = None
    """``ready``, ``drain`` or ``maintenance``."""
    health: str | None = None
    """``off`` (it counts as up whatever checks say) or ``down``."""
    weight: int | None = None
    maxconn: int | None = None
    address: str | None = None


_NOTHING = Said()
STATES = {"ready": Admin.READY, "drain": Admin.DRAIN, "maintenance": Admin.MAINTENANCE}
HEALTH = {"on": Forced.NONE, "off": Forced.UP, "down": Forced.DOWN}


@dataclass
class _OfBackend:
    said: dict[str, Said] = field(default_factory=dict)
    added: dict[str, Server] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.said or self.added or self.removed)


class Overlay:
    """All changes."""

    def __init__(self) -> None:
        self._backends: dict[str, _OfBackend] = {}

    def copy(self) -> Overlay:
        """The same changes; what is done to one is not done to the other."""
        made = Overlay()
        made._backends = {
            name: _OfBackend(dict(one.said), dict(one.added), set(one.removed))
            for name, one in self._backends.items()
        }
        return made

    # -- what comes of it ------------------------------------------------------------------------

    def laid_over(self, backend: str, servers: Sequence[Server]) -> list[Server]:
        """The servers of a backend, of which the file and discovery say these."""
        change = self._backends.get(backend)
        if change is None:
            return list(servers)
        found = {one.name: _moved(one, change) for one in servers if one.name not in change.removed}
        for name, one in change.added.items():
            found.setdefault(name, _moved(one, change))
        return list(found.values())

    def said(self, backend: str, server: str) -> Said:
        """What the operator says of a server."""
        change = self._backends.get(backend)
        return _NOTHING if change is None else change.said.get(server, _NOTHING)

    def is_added(self, backend: str, server: str) -> bool:
        """Whether the operator has added it."""
        change = self._backends.get(backend)
        return change is not None and server in change.added

    # -- changes ---------------------------------------------------------------------------------

    def add(self, backend: Backend, servers: Sequence[Server], keys: Mapping[str, Any]) -> str:
        """Add a server to a backend; gives its name.

        Args:
            servers: those that the backend has now.
            keys: ``address``, and perhaps others of a server in the file.

        Raises:
            Refused: it can't be.
        """
        change = self._backends.setdefault(backend.name, _OfBackend())
        names = {one.name for one in servers}
        unknown = keys.keys() - PLAIN - {"address"}
        if unknown:
            known = ", ".join(sorted(PLAIN | {"address"}))
            raise Refused(400, f"a server that is added has no key {min(unknown)!r}; it may have {known}")
        if len(change.added) >= MOST_ADDED:
            raise Refused(409, f"{MOST_ADDED} servers were added already; save them to the file")
        name = keys.get("name") or _free_name(names)
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise Refused(400, "a server's name has at most 100 letters, digits and . _ : -")
        if name in names:
            raise Refused(409, f"{backend.name} has a server {name} already; change it, or give another name")
        server = _server({**keys, "name": name})
        if name in change.removed:
            static = next((one for one in backend.servers if one.name == name), None)
            if static is not None and static == server:
                change.removed.discard(name)
                return name
        change.added[name] = server
        change.said.pop(name, None)
        return name

    def remove(self, backend: Backend, name: str) -> None:
        """Remove a server that the backend has."""
        change = self._backends.setdefault(backend.name, _OfBackend())
        change.said.pop(name, None)
        if change.added.pop(name, None) is None:
            change.removed.add(name)

    def restore(self, backend: Backend, name: str) -> bool:
        """Take back whatever was said of a server, its removal too; whether anything was."""
        change = self._backends.get(backend.name)
        if change is None or name not in change.removed and name not in change.said:
            return False
        change.removed.discard(name)
        change.said.pop(name, None)
        return True

    def change(self, backend: Backend, server: Server, what: Mapping[str, Any]) -> str:
        """Change a server; gives what was done in words.

        Raises:
            Refused: the change makes no sense; nothing was changed.
        """
        change = self._backends.setdefault(backend.name, _OfBackend())
        said = change.said.get(server.name, _NOTHING)
        done = []
        for key, value in what.items():
            if key not in _KEYS:
                raise Refused(400, f"no change is called {key!r}; there are {', '.join(sorted(_KEYS))}")
            said = _KEYS[key](said, value)
            done.append(f"{key} as in the configuration" if value is None else f"{key} {value}")
        if not done:
            raise Refused(400, f"say what to change: {', '.join(sorted(_KEYS))}")
        if said == _NOTHING:
            change.said.pop(server.name, None)
        else:
            change.said[server.name] = said
        return ", ".join(done)

    # -- configurations come and go --------------------------------------------------------------

    def settle(self, backends: Sequence[Backend], known: Mapping[str, set[str]]) -> list[str]:
        """A configuration with these backends serves: forget what it says itself, and what it has no place
        for; gives what was forgotten for the latter reason, in words.

        Args:
            known: the names of the servers of each backend, discovered ones too.
        """
        lost = []
        by_name = {backend.name: backend for backend in backends}
        for name in list(self._backends):
            backend, change = by_name.get(name), self._backends[name]
            if backend is None:
                lost.append(f"backend {name} is gone, and with it the changes of its servers")
                del self._backends[name]
                continue
            static = {one.name: one for one in backend.servers}
            for server in [server for server in change.added if server in static]:
                mine = change.added.pop(server)
                if str(mine.address) != str(static[server].address):
                    lost.append(f"{name}/{server} is the file's now, at {static[server].address}")
            change.removed &= known.get(name, set()) | static.keys()
            for server, said in list(change.said.items()):
                if server not in known.get(name, set()) | change.added.keys() | static.keys():
                    lost.append(f"{name}/{server} is gone, and with it its changes")
                    del change.said[server]
                elif server in static:
                    left = _beside(said, static[server])
                    if left == _NOTHING:
                        del change.said[server]
                    else:
                        change.said[server] = left
            if not change:
                del self._backends[name]
        return lost

    # -- kept ------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """All changes as JSON, for `of_document`."""
        return {
            name: {
                "said": {
                    server: {key: value for key, value in asdict(said).items() if value is not None}
                    for server, said in change.said.items()
                },
                "added": [
                    {key: getattr(one, key) for key in PLAIN & one.model_fields_set}
                    | {"name": one.name, "address": str(one.address)}
                    for one in change.added.values()
                ],
                "removed": sorted(change.removed),
            }
            for name, change in self._backends.items()
            if change
        }

    @classmethod
    def of_document(cls, document: Any) -> Overlay:
        """The changes that `document` has given; raises ValueError where it is something else."""
        overlay = cls()
        try:
            for name, change in document.items():
                made = overlay._backends[name] = _OfBackend(removed=set(map(str, change["removed"])))
                for keys in change["added"]:
                    server = _server(keys)
                    made.added[server.name] = server
                for server, keys in change["said"].items():
                    said = _NOTHING
                    for key, value in keys.items():
                        said = _KEYS[key](said, value)
                    made.said[server] = said
        except (AttributeError, KeyError, TypeError, Refused) as error:
            raise ValueError(f"these are no changes of servers: {error!r}") from None
        return overlay


def _moved(server: Server, change: _OfBackend) -> Server:
    said = change.said.get(server.name)
    if said is None or said.address is None:
        return server
    return server.model_copy(update={"address": _server({"address": said.address}).address})


def _free_name(names: set[str]) -> str:
    number = 1
    while f"s{number}" in names:
        number += 1
    return f"s{number}"


def _server(keys: Mapping[str, Any]) -> Server:
    """A server of these keys; raises Refused where they make none."""
    if str(keys.get("address", "")).strip().startswith("unix:"):
        raise Refused(400, "address: the path of a unix socket can only be set in the configuration's file")
    try:
        return Server.model_validate(dict(keys))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "server"
        raise Refused(400, f"{key}: {first['msg'].removeprefix('Value error, ')}") from None


def _state(said: Said, value: Any) -> Said:
    if value is not None and value not in STATES:
        raise Refused(400, f"state: expected {', '.join(STATES)} (got {value!r:.40})")
    return replace(said, state=value)


def _health(said: Said, value: Any) -> Said:
    if value is not None and value not in HEALTH:
        raise Refused(400, f"health: expected {', '.join(HEALTH)} (got {value!r:.40})")
    return replace(said, health=None if value == "on" else value)


def _weight(said: Said, value: Any) -> Said:
    if value is not None and not (type(value) is int and 0 <= value <= 256):
        raise Refused(400, f"weight: expected a number from 0 to 256 (got {value!r:.40})")
    return replace(said, weight=value)


def _maxconn(said: Said, value: Any) -> Said:
    if value is not None and not (type(value) is int and 0 <= value <= _LARGEST):
        raise Refused(400, f"maxconn: expected a number of requests, 0 for any (got {value!r:.40})")
    return replace(said, maxconn=value)


def _address(said: Said, value: Any) -> Said:
    if value is None:
        return replace(said, address=None)
    if not isinstance(value, str):
        raise Refused(400, "address: expected HOST:PORT")
    return replace(said, address=str(_server({"address": value}).address))


_KEYS = {"state": _state, "health": _health, "weight": _weight, "maxconn": _maxconn, "address": _address}
assert _KEYS.keys() == {one.name for one in fields(Said)}


def _beside(said: Said, static: Server) -> Said:
    """What is said of a server beyond what the file says of it."""
    same = {
        key: None
        for key in ("state", "weight", "maxconn")
        if getattr(said, key) is not None and getattr(said, key) == getattr(static, key, None)
    }
    if said.address == str(static.address):
        same["address"] = None
    return replace(said, **same)
