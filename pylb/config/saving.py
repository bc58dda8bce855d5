"""Changes of servers, written into the text of a TOML file whose comments and order stay.

Pure. Above `backend`; the command line reads and writes the files. A file's server has the name of its place
where it gives none (`s1`, `s2`, …), so that taking one out gives names to those behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Array

KEYS = ("address", "weight", "state", "maxconn")
"""Of a server, those that can be changed while pylb runs and stand in a file."""

Keys = Mapping[str, Any]
"""A server by the keys of a file, with its name and address."""


class Unsaveable(Exception):
    """What can't be written into a file, with a sentence that says why."""


@dataclass(frozen=True)
class Difference:
    """What differs between a file and what runs, of one server."""

    backend: str
    server: str
    before: Keys | None
    """As the file says; None where it has no such server."""
    after: Keys | None
    """As it runs; None where it was removed."""

    def lines(self) -> list[str]:
        """The difference for people."""
        name = f"{self.backend}/{self.server}"
        if self.before is None and self.after is not None:
            return [f"+ {name} {self.after['address']} {_shown(self.after)}".rstrip()]
        if self.after is None and self.before is not None:
            return [f"- {name} {self.before['address']}"]
        assert self.before is not None and self.after is not None
        return [
            f"~ {name} {key}: {_value(self.before, key)} in the file, {_value(self.after, key)} now"
            for key in KEYS
            if _value(self.before, key) != _value(self.after, key)
        ]


_DEFAULTS = {"weight": 1, "state": "ready", "maxconn": 0}


def _value(keys: Keys, key: str) -> Any:
    return keys.get(key, _DEFAULTS.get(key))


def _shown(keys: Keys) -> str:
    others = {key: value for key, value in keys.items() if key not in ("name", "address")}
    return " ".join(f"{key}={value}" for key, value in others.items() if value != _DEFAULTS.get(key))


def differences(file: Sequence[tuple[str, Keys]], now: Sequence[tuple[str, Keys]]) -> list[Difference]:
    """What differs between the servers of a file and those that run, each with its backend; discovered ones
    must not be among them."""
    before = {(backend, keys["name"]): keys for backend, keys in file}
    after = {(backend, keys["name"]): keys for backend, keys in now}
    backends = {backend for backend, _ in file}
    found = []
    for backend, name in dict.fromkeys([*before, *after]):
        if backend not in backends:
            continue  # what runs has a backend that the file has no more; that is a reload's affair
        one = Difference(backend, name, before.get((backend, name)), after.get((backend, name)))
        if one.lines():
            found.append(one)
    return found


def saved(text: str, changes: Sequence[Difference]) -> tuple[str, list[Difference]]:
    """The text with the changes of those backends that stand in it, and the changes that it has no place for.

    Raises:
        Unsaveable: the file is written in a way that this can't change.
    """
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise Unsaveable(f"it is no TOML: {error}") from None
    backends = document.get("backend", [])
    tables = backends if isinstance(backends, list) else [backends]
    left = []
    by_backend: dict[str, list[Difference]] = {}
    for change in changes:
        by_backend.setdefault(change.backend, []).append(change)
    for name, mine in by_backend.items():
        table = next((one for one in tables if one.get("name") == name), None)
        if table is None:
            left += mine
        else:
            _save(table, name, mine)
    return tomlkit.dumps(document), left


def _save(table: Any, backend: str, changes: Sequence[Difference]) -> None:
    """Make the changes in a backend's table."""
    if "server" not in table:
        table["server"] = tomlkit.array()
    elif not isinstance(table["server"], list):  # written as its only element
        only = table["server"]
        table["server"] = tomlkit.array()
        table["server"].append(only)
    servers = table["server"]
    names = [
        one.get("name", f"s{number}") if isinstance(one, Mapping) else f"s{number}"
        for number, one in enumerate(servers, 1)
    ]
    for change in changes:
        if change.after is None:
            at = _at(names, change)
            del servers[at], names[at]
        elif change.before is None:
            _append(servers, change.after)
            names.append(change.server)
        else:
            at = _at(names, change)
            for key in KEYS:
                if _value(change.before, key) != _value(change.after, key):
                    _set(servers, at, key, change.after)
    for number, name in enumerate(names, 1):
        one = servers[number - 1]
        known = one.get("name") if isinstance(one, Mapping) else None
        if name != (known or f"s{number}"):
            _set(servers, number - 1, "name", {"name": name})
    if not servers:
        raise Unsaveable(f"backend {backend} would have no server left in the file; remove the backend there")


def _at(names: Sequence[str], change: Difference) -> int:
    if change.server not in names:
        raise Unsaveable(f"{change.backend} has no server {change.server} there")
    return names.index(change.server)


def _set(servers: Any, at: int, key: str, keys: Keys) -> None:
    """Set a key of the server at a place, or take it out where it has its default."""
    one = servers[at]
    if not isinstance(one, Mapping):  # written as its address alone
        written = tomlkit.inline_table()
        written["address"] = str(one)
        servers[at] = written
        one = servers[at]
    value = keys.get(key)
    if value is None or key in _DEFAULTS and value == _DEFAULTS[key]:
        if key in one:
            del one[key]
    else:
        one[key] = value


def _append(servers: AoT | Array, keys: Keys) -> None:
    others = {
        key: value
        for key, value in keys.items()
        if key not in ("name", "address") and value != _DEFAULTS.get(key)
    }
    plain = {"name": keys["name"], "address": keys["address"], **others}
    if isinstance(servers, AoT):
        table = tomlkit.table()
        table.update(plain)
        servers.append(table)
        return
    written = tomlkit.inline_table()
    written.update(plain)
    if "\n" in servers.as_string():
        servers.add_line(written, indent="  ")
    else:
        servers.append(written)
