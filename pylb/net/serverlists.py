"""Lists of servers, as the supervisor tells them to the other processes: entries, packets, and back.

Above the configuration; it does no I/O. What an index means, and who is to be told, `pylb.supervisor` knows.
A list is that of one backend and whole, in as many packets as it takes; its version is a number that
grows with each list that is told, whichever backend's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pylb.config.backend import Backend, Server
from pylb.config.model import Config

PACKET = 100_000
"""Bytes of entries in one packet, about."""

PLAIN = frozenset(
    name for name, field in Server.model_fields.items() if field.annotation in (int, float, bool, str)
)
"""The keys of a server whose values are numbers, truths and texts, so that they can be told."""


ADDED = "added"
"""The source of servers that the operator has added while pylb runs."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A server of a list."""

    config: Server
    index: int
    """Of its cells of the scoreboard."""
    source: str = ""
    """Who has named it: empty for the configuration's file, `ADDED`, or a source of discovery."""


Lists = dict[str, list[Listed]]
"""The servers by backend."""


def entry_of(listed: Listed) -> dict[str, Any]:
    """A server as it is told: name, address, weight, index, and what else differs from the defaults."""
    server = listed.config
    entry = {key: getattr(server, key) for key in PLAIN & server.model_fields_set}
    if listed.source:
        entry["source"] = listed.source
    return entry | {
        "name": server.name,
        "address": str(server.address),
        "weight": server.weight,
        "index": listed.index,
    }


def server_of(entry: Mapping[str, Any], backend: Backend) -> Server:
    """The server that an entry tells of.

    Raises:
        ValueError: it is no server.
    """
    server = _configured(entry, backend)
    told = {key: value for key, value in entry.items() if key in PLAIN or key == "address"}
    if server is None:
        return Server.model_validate(told)
    if entry["address"] == str(server.address):
        told.pop("address")
        if all(getattr(server, key) == value for key, value in told.items()):
            return server
    # What can't be told, as sections, is the same in the configuration of whoever reads this.
    return Server.model_validate({name: getattr(server, name) for name in server.model_fields_set} | told)


def _configured(entry: Mapping[str, Any], backend: Backend) -> Server | None:
    """The server as the configuration has it, or as the section does that has found it."""
    if source := entry.get("source"):
        for section in backend.discover:
            if section.name == source:
                return section.server(entry["name"], entry["address"])
        return None
    return next((server for server in backend.servers if server.name == entry["name"]), None)


def packets(backend: str, version: int, servers: Sequence[Listed]) -> Iterator[dict[str, Any]]:
    """The messages that tell the list of a backend."""
    parts: list[list[dict[str, Any]]] = [[]]
    size = 0
    for listed in servers:
        entry = entry_of(listed)
        size += len(json.dumps(entry))
        if size > PACKET and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(entry)
    for number, part in enumerate(parts, 1):
        yield {
            **{"op": "servers", "backend": backend, "version": version},
            **{"part": number, "parts": len(parts), "servers": part},
        }


class Reader:
    """Puts the packets of a list together; they come in their order, or not at all."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = backends
        self._before: dict[str, dict[int, tuple[dict[str, Any], Listed]]] = {}
        """By backend and index, what was told last and what that was: making it anew costs 10 µs each."""
        self._parts: list[dict[str, Any]] = []
        self._next = 1

    def take(self, message: Mapping[str, Any]) -> tuple[str, list[Listed]] | None:
        """A packet; gives the backend and its list where that was the last one.

        Of a backend that isn't known, and of a list of which a packet is missing, there is None.

        Raises:
            ValueError: what it tells are no servers.
        """
        part, name = message["part"], message["backend"]
        if part == 1:
            self._parts, self._next = [], 1
        if part != self._next:
            return None
        self._next += 1
        self._parts += message["servers"]
        backend = self._backends.get(name)
        if part < message["parts"] or backend is None:
            return None
        entries, self._parts = self._parts, []
        before = self._before.get(name, {})
        now = {}
        for entry in entries:
            index = entry["index"]
            known = before.get(index)
            same = known is not None and known[0] == entry
            now[index] = (
                known
                if same and known is not None
                else (entry, Listed(server_of(entry, backend), index, entry.get("source", "")))
            )
        self._before[name] = now
        return name, [listed for _, listed in now.values()]


def as_configured(config: Config) -> Lists:
    """The lists where nothing was changed, with indices from 0 on in the order of the file."""
    numbers = itertools.count()
    return {
        backend.name: [Listed(server, next(numbers)) for server in backend.servers]
        for backend in config.backends
    }
