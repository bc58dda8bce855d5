"""Maps: files of keys and values that rules look requests up in, made for 100,000 lines.

A line is a key and perhaps a value behind white space; ``#`` begins a comment, as in HAProxy's maps. Of equal
keys the first counts.

A file's text is read elsewhere and comes here as bytes. `Reading` goes through it in pieces, so that a worker
reads a changed file between its requests; a `Map` goes on with what it has until that is done.

Floor: above `template` (a map's key is one); knows no files.
"""

from __future__ import annotations

import io
import ipaddress
import re
from collections.abc import Callable
from itertools import islice
from typing import Literal, Protocol

from pylb.rules import normal
from pylb.rules.template import Template
from pylb.rules.view import View, address_of

Kind = Literal["exact", "prefix", "domain", "network"]
Find = Callable[[bytes], bytes | None]


class BadMap(ValueError):
    """A file's line can't be used; the message names it by number."""


class _Table(Protocol):
    """The entries of one kind of map."""

    @property
    def entries(self) -> int:
        """How many there are."""

    def add(self, key: bytes, value: bytes) -> None:
        """Add an entry unless its key is there; raises ValueError for what is no key."""

    @property
    def find(self) -> Find:
        """Gives the value for what a request has."""


class _Exact:
    """The whole text."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self.find: Find = self._values.get

    @property
    def entries(self) -> int:
        return len(self._values)

    def add(self, key: bytes, value: bytes) -> None:
        self._values.setdefault(key, value)


class _Hosts(_Exact):
    """The whole text, without case."""

    def add(self, key: bytes, value: bytes) -> None:
        self._values.setdefault(key.lower(), value)


class _Prefix:
    """The longest key that is the path or one above it; ``/a/`` is for what is below it alone."""

    def __init__(self) -> None:
        self.entries = 0
        self._at: dict[bytes, bytes] = {}
        self._below: dict[bytes, bytes] = {}  # without the slash at the end
        self._longest = 0

    def add(self, key: bytes, value: bytes) -> None:
        if key[:1] != b"/":
            raise ValueError("a path begins with /")
        try:
            path = normal.path(key)
        except normal.Ambiguous:
            raise ValueError("servers read this path in different ways") from None
        plain = path.removesuffix(b"/")
        self._longest = max(self._longest, len(plain))
        (self._below if path != plain else self._at).setdefault(plain, value)
        self.entries = len(self._at) + len(self._below)

    def find(self, asked: bytes) -> bytes | None:
        at, below, longest = self._at, self._below, self._longest
        if asked[:1] != b"/":
            return None
        if len(asked) > longest:
            # Cut where a key can end: at the last slash that isn't behind the longest one's end.
            above = asked[: asked.rfind(b"/", 0, longest + 1)]
        else:
            value = at.get(asked)
            if value is not None:
                return value
            above = asked[: asked.rfind(b"/")]
        while True:
            value = below.get(above) if below else None
            if value is None:
                value = at.get(above)
            if value is not None or not above:
                return value
            above = above[: above.rfind(b"/")]


class _Domain:
    """The longest key that is the host or a domain that it is in; ``*.x`` is what is in ``x`` alone."""

    def __init__(self) -> None:
        self.entries = 0
        self._exact: dict[bytes, bytes] = {}
        self._below: dict[bytes, bytes] = {}  # with the dot before it
        self._labels = 0

    def add(self, key: bytes, value: bytes) -> None:
        host = key.lower().rstrip(b".")
        inner = host.removeprefix(b"*.")
        if inner == host:
            host = host.removeprefix(b".")
            self._exact.setdefault(host, value)
            inner = host
        self._below.setdefault(b"." + inner, value)
        self._labels = max(self._labels, inner.count(b".") + 1)
        self.entries += 1

    def find(self, asked: bytes) -> bytes | None:
        dots, labels = asked.count(b"."), self._labels
        dot = asked.find(b".")
        if dots < labels:
            value = self._exact.get(asked)
            if value is not None:
                return value
        else:
            for _ in range(dots - labels):  # no key has so many labels
                dot = asked.find(b".", dot + 1)
        below = self._below
        while dot >= 0:
            value = below.get(asked[dot:])
            if value is not None:
                return value
            dot = asked.find(b".", dot + 1)
        return None


_OCTETS = {b"%d" % octet: octet for octet in range(256)}


class _Networks:
    """The longest network that the address is in."""

    _V4 = re.compile(rb"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})(?:/([0-9]{1,2}))?")

    def __init__(self) -> None:
        self.entries = 0
        self._by_length: dict[int, dict[int, dict[int, bytes]]] = {4: {}, 6: {}}
        # Of each version, the longest networks first: how far to shift an address, and what is there then.
        self._order: dict[int, list[tuple[int, dict[int, bytes]]]] = {4: [], 6: []}
        self._v4 = self._order[4]

    def add(self, key: bytes, value: bytes) -> None:
        version, number, shift = self._read(key)
        found = self._by_length[version].get(shift)
        if found is None:
            found = self._by_length[version][shift] = {}
            self._order[version].append((shift, found))
            self._order[version].sort(key=lambda entry: entry[0])
        if number not in found:
            found[number] = value
            self.entries += 1

    def _read(self, key: bytes) -> tuple[int, int, int]:
        """Version, bits of the network as a number, and how many bits of an address are left."""
        match = self._V4.fullmatch(key)
        if match is not None:
            a, b, c, d = map(int, match.group(1, 2, 3, 4))
            shift = 32 - int(match[5] or 32)
            number = (a << 24) + (b << 16) + (c << 8) + d
            if max(a, b, c, d) < 256 and shift >= 0 and number >> shift << shift == number:
                return 4, number >> shift, shift
        network = ipaddress.ip_network(key.decode("ascii", "replace"))  # raises, with a sentence
        shift = network.max_prefixlen - network.prefixlen
        return network.version, int(network.network_address) >> shift, shift

    def find(self, asked: bytes) -> bytes | None:
        parts = asked.split(b".")
        if len(parts) == 4:
            a, b, c, d = map(_OCTETS.get, parts)
            if a is not None and b is not None and c is not None and d is not None:
                number = (a << 24) + (b << 16) + (c << 8) + d
                for shift, values in self._v4:
                    value = values.get(number >> shift)
                    if value is not None:
                        return value
                return None
        address = address_of(asked)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address is None:
            return None
        number = int(address)
        for shift, values in self._order[address.version]:
            value = values.get(number >> shift)
            if value is not None:
                return value
        return None


_KINDS: dict[Kind, Callable[[], _Table]] = {
    "exact": _Exact,
    "prefix": _Prefix,
    "domain": _Domain,
    "network": _Networks,
}


class Reading:
    """A file's text that is being read: `step` until it is done."""

    def __init__(self, table: _Table, text: bytes) -> None:
        self.table = table
        self._lines = io.BytesIO(text)
        self._at = 0

    def step(self, lines: int) -> bool:
        """Read so many lines; whether that were all. Raises `BadMap`."""
        add = self.table.add
        begun = number = self._at
        for line in islice(self._lines, lines):
            number += 1
            parts = line.split(None, 1)
            if not parts or parts[0][:1] == b"#":
                continue
            try:
                add(parts[0], parts[1].rstrip() if len(parts) > 1 else b"")
            except ValueError as error:
                raise BadMap(f"line {number}: {error}") from None
        self._at = number
        return number - begun < lines


class Map:
    """A map in use.

    Args:
        key: what of a request is looked up.
        hosts: whether the keys of the file are hosts, which have no case.
    """

    __slots__ = ("name", "entries", "find", "version", "_key", "_make")

    def __init__(self, name: str, kind: Kind, key: Template, hosts: bool = False) -> None:
        self.name = name
        self._key = key
        self._make = _Hosts if hosts and kind == "exact" else _KINDS[kind]
        self.find: Find = _Exact().find
        self.entries = 0
        self.version: object = None
        """Of the file as it was read last, for whoever looks whether it has changed."""

    def reading(self, text: bytes) -> Reading:
        """The text of its file, yet to be read."""
        return Reading(self._make(), text)

    def take(self, done: Reading) -> None:
        """Answer from now on what a text that was read to its end says."""
        self.find = done.table.find
        self.entries = done.table.entries

    def read(self, text: bytes) -> None:
        """Read all of it now; raises `BadMap`."""
        reading = self.reading(text)
        reading.step(len(text) + 2)
        self.take(reading)

    def value(self, view: View) -> bytes | None:
        """What it has for a request; None where the key isn't there."""
        return self.find(self._key(view))

    def text(self, view: View) -> bytes:
        """The same as a variable's value: empty where the key isn't there, or can't be told."""
        try:
            return self.find(self._key(view)) or b""
        except normal.Ambiguous:
            return b""
