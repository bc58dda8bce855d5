"""Maps: files of keys and values that rules look requests up in, made for 100,000 lines.

A line is a key and perhaps a value behind white space; ``#`` begins a comment, as in HAProxy's maps. Of equal
keys the first counts.

A file's text is read elsewhere and comes here as bytes. `Reading` goes through it in pieces, so that a worker
reads a changed file between its requests; a `Map` goes on with what it has until that is done.

Floor: above `template` (a map's key is one); knows no files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from ipaddress import ip_network
from typing import Literal

from pylb.rules import normal
from pylb.rules.template import Template
from pylb.rules.view import View, address_of

Kind = Literal["exact", "prefix", "domain", "network"]
Find = Callable[[bytes], bytes | None]


class BadMap(ValueError):
    """A file's line can't be used; the message names it by number."""


def _exact(entries: dict[bytes, bytes]) -> Find:
    return entries.get


def _prefix(entries: dict[bytes, bytes]) -> Find:
    """The longest key that is the path or one of those above it."""
    longest = max(map(len, entries), default=0)

    def find(path: bytes) -> bytes | None:
        if len(path) > longest + 1:
            path = path[: longest + 1] if path[longest : longest + 1] == b"/" else path[:longest]
            path = path[: path.rfind(b"/") + 1]
        while path:
            value = entries.get(path)
            if value is not None:
                return value
            # First what ends at the slash, then what ends before it.
            path = path[:-1] if path[-1:] == b"/" else path[: path.rfind(b"/") + 1]
        return None

    return find


def _domain(entries: dict[bytes, bytes]) -> Find:
    """The longest key that is the host or a domain that it is in; ``*.x`` is what is in ``x`` alone."""
    longest = max((key.count(b".") for key in entries), default=0)

    def find(host: bytes) -> bytes | None:
        value = entries.get(host)
        if value is not None:
            return value
        dots = host.count(b".")
        if dots > longest:
            host = b"." + b".".join(host.rsplit(b".", longest + 1)[1:])
        while True:
            _, dot, host = host.partition(b".")
            if not dot:
                return None
            value = entries.get(b"*." + host)
            if value is None:
                value = entries.get(host)
            if value is not None:
                return value

    return find


def _network(entries: dict[bytes, bytes]) -> Find:
    """The longest network that the address is in."""
    ranges: dict[int, list[tuple[int, int, int, bytes]]] = {4: [], 6: []}
    for key, value in entries.items():
        network = ip_network(key.decode())
        first, last = int(network.network_address), int(network.broadcast_address)
        ranges[network.version].append((first, -last, last, value))
    flat = {version: _flattened(sorted(some)) for version, some in ranges.items()}

    def find(text: bytes) -> bytes | None:
        parts = text.split(b".")
        if len(parts) == 4 and text.isascii() and b":" not in text:
            try:
                number = int.from_bytes(bytes(map(int, parts)), "big")
            except ValueError:
                return None
            starts, values = flat[4]
        else:
            address = address_of(text)
            if address is None:
                return None
            mapped = getattr(address, "ipv4_mapped", None)
            address = mapped or address
            number = int(address)
            starts, values = flat[address.version]
        return values[bisect_right(starts, number)]

    return find


def _flattened(ranges: list[tuple[int, int, int, bytes]]) -> tuple[list[int], list[bytes | None]]:
    """Where each stretch of addresses begins, and its value; the stretch before the first has none.

    Networks lie in each other or apart: a stack of those that are open is enough.
    """
    starts: list[int] = []
    values: list[bytes | None] = [None]
    open_: list[tuple[int, bytes]] = []

    def begin(start: int, value: bytes | None) -> None:
        if starts and starts[-1] == start:
            values[-1] = value
        else:
            starts.append(start)
            values.append(value)

    def close(before: int | None) -> None:
        while open_ and (before is None or open_[-1][0] < before):
            last, _ = open_.pop()
            begin(last + 1, open_[-1][1] if open_ else None)

    for first, _, last, value in ranges:
        close(first)
        open_.append((last, value))
        begin(first, value)
    close(None)
    return starts, values


_KINDS: dict[str, Callable[[dict[bytes, bytes]], Find]] = {
    "exact": _exact,
    "prefix": _prefix,
    "domain": _domain,
    "network": _network,
}


def _key(kind: Kind, key: bytes, lower: bool) -> bytes:
    """A key as requests spell it; raises ValueError with a sentence."""
    if kind == "prefix":
        if key[:1] != b"/":
            raise ValueError("a path begins with /")
        try:
            return normal.path(key)
        except normal.Ambiguous:
            raise ValueError("servers read this path in different ways") from None
    if kind == "domain":
        return key.lower().rstrip(b".").removeprefix(b".")
    if kind == "network":
        return str(ip_network(key.decode())).encode()
    return key.lower() if lower else key


class Reading:
    """A file's text that is being read; `step` until it is done, then `find` has what it holds."""

    def __init__(self, kind: Kind, text: bytes, lower: bool = False) -> None:
        self._kind = kind
        self._lower = lower
        self._lines = text.split(b"\n")
        self._at = 0
        self._entries: dict[bytes, bytes] = {}
        self.find: Find | None = None

    def step(self, lines: int) -> bool:
        """Read so many lines; whether that were all. Raises `BadMap`."""
        if self.find is not None:
            return True
        entries, kind, lower = self._entries, self._kind, self._lower
        plain = kind == "exact" and not lower
        number = self._at
        for line in self._lines[number : number + lines]:
            number += 1
            parts = line.split(None, 1)
            if not parts or parts[0][:1] == b"#":
                continue
            key = parts[0]
            if not plain:
                try:
                    key = _key(kind, key, lower)
                except ValueError as error:
                    raise BadMap(f"line {number}: {error}") from None
            if key not in entries:
                entries[key] = parts[1].rstrip() if len(parts) > 1 else b""
        self._at = number
        if number < len(self._lines):
            return False
        self._lines = []
        self.find = _KINDS[kind](entries)
        return True

    def __len__(self) -> int:
        return len(self._entries)


class Map:
    """A map in use.

    Args:
        key: what of a request is looked up.
        lower: whether the keys of the file have no case (hosts).
    """

    __slots__ = ("name", "kind", "key", "lower", "find", "entries")

    def __init__(self, name: str, kind: Kind, key: Template, lower: bool = False) -> None:
        self.name = name
        self.kind: Kind = kind
        self.key = key
        self.lower = lower
        self.find: Find = _exact({})
        self.entries = 0

    def reading(self, text: bytes) -> Reading:
        """The text of its file, yet to be read."""
        return Reading(self.kind, text, self.lower)

    def take(self, done: Reading) -> None:
        """Answer from now on what a text that was read to its end says."""
        assert done.find is not None
        self.find = done.find
        self.entries = len(done)

    def read(self, text: bytes) -> None:
        """Read all of it now; raises `BadMap`."""
        reading = self.reading(text)
        reading.step(len(text) + 1)
        self.take(reading)

    def value(self, view: View) -> bytes | None:
        """What it has for a request; None where the key isn't there."""
        return self.find(self.key(view))

    def text(self, view: View) -> bytes:
        """The same as a variable's value: empty where the key isn't there."""
        return self.find(self.key(view)) or b""
