"""A hash ring: equal keys get the same server, in all workers and after a restart; and when a server comes or
goes, hardly any keys move but its own (consistent hashing).

Pure. Each server has `POINTS` points on a circle of hashes, for its weight; a key belongs to the server whose
point comes next. With a *factor* no server takes more than so many times its share of the active requests:
those above it go to the next server on the circle, so that one popular key can't overload a server (Mirrokni,
Thorup, Zadimoghaddam, *Consistent Hashing with Bounded Loads*).

A pick is one hash and one bisection. Maglev's table and rendezvous hashing were left out: the first is made
anew as a whole when a weight changes (0.5 s of Python for 2,000 servers), the second costs a hash per server.

The hash is BLAKE2b: it doesn't depend on the process as Python's own does; unlike a CRC it spreads keys that
differ in a digit, as addresses do, and takes 0.3 µs.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from math import ceil, floor, log2
from struct import Struct

from pylb.balance.members import NONE, Members
from pylb.balance.roundrobin import RoundRobin

POINTS = 100
"""Of a server with the usual weight. Servers' shares of the keys then differ by a tenth."""

ALWAYS = 8
"""So many active requests are no overload, whatever the factor says: else a few clients with several
connections each would be spread over an idle backend."""

BOUNDED = 1.25
"""The usual factor."""

FACTORS = {"source": 0.0, "uri": 0.0}
"""Other usual factors: as in HAProxy, all requests of a client go to one server."""

_STEPS = 64  # along the circle for a server that isn't full
_HASH_BITS = 40
_SERVER_BITS = 20  # of a point; together with its hash an integer that Python compares quickly
_SERVER = (1 << _SERVER_BITS) - 1
_EIGHT = Struct("<8Q")


def position_of(key: bytes) -> int:
    """Where on the circle a key is."""
    return int.from_bytes(blake2b(key, digest_size=5).digest(), "little") << _SERVER_BITS


def _hashes(name: str) -> Iterator[int]:
    """Where on the circle a server's points are; the first ones are the same however many are taken."""
    number = 0
    while True:
        for found in _EIGHT.unpack(blake2b(f"{name}#{number}".encode()).digest()):
            yield found >> (64 - _HASH_BITS)
        number += 1


class Ring:
    """Servers by the hash of a key; a request that has none gets one in turn."""

    def __init__(self, members: Members) -> None:
        self._loads = members.loads
        self._names = _distinct(members.names)
        self._weights = list(members.weights)
        self._factor = members.factor
        self._turns = RoundRobin(members)
        # The weight that has `POINTS` is a power of two, so that it stays the same when a server comes or
        # goes, unless the average changes by much.
        usual = [weight for weight in self._weights if weight] or [1]
        self._unit = 2.0 ** floor(log2(sum(usual) / len(usual)))
        self._points: list[int] = []
        for server in range(len(self._weights)):
            self._points += self._points_of(server)
        self._points.sort()
        self._sum = sum(self._weights)
        # Active requests by block, each as it was when looked at last.
        self._totals = [0] * len(self._loads.blocks)
        self._total = 0
        self._turn = 0

    def _points_of(self, server: int) -> list[int]:
        weight = self._weights[server]
        count = max(1, round(POINTS * weight / self._unit)) if weight else 0
        return [found << _SERVER_BITS | server for found in islice(_hashes(self._names[server]), count)]

    def set_weight(self, server: int, weight: float) -> None:
        self._weights[server] = weight
        self._turns.set_weight(server, weight)
        self._points = [point for point in self._points if point & _SERVER != server]
        self._points += self._points_of(server)
        self._points.sort()
        self._sum = sum(self._weights)

    def pick(self, excluded: frozenset[int] = NONE, key: bytes | None = None) -> int | None:
        if key is None:
            return self._turns.pick(excluded)
        points = self._points
        if not points:
            return None
        at = bisect(points, position_of(key))
        if at == len(points):
            at = 0
        if not self._factor:
            server = points[at] & _SERVER
            return server if server not in excluded else self._after(at, excluded)
        return self._bounded(at, excluded)

    def _bounded(self, at: int, excluded: frozenset[int]) -> int | None:
        """The next server on the circle that isn't full; if all are that come soon, the first."""
        points = self._points
        total = self._look()
        share = self._factor * (total + 1) / self._sum
        full: set[int] = set()
        for step in range(_STEPS):
            server = points[(at + step) % len(points)] & _SERVER
            if server in full or server in excluded:
                continue
            load = self._loads.of(server)
            if load < ALWAYS or load < ceil(share * self._weights[server]):
                return server
            full.add(server)
        return self._after(at, excluded)

    def _look(self) -> int:
        """All active requests, of which one block is looked at anew."""
        turn = self._turn = (self._turn + 1) % len(self._totals)
        new = self._loads.total(turn)
        self._total += new - self._totals[turn]
        self._totals[turn] = new
        return self._total

    def _after(self, at: int, excluded: frozenset[int]) -> int | None:
        """The next server on the circle that isn't excluded."""
        points = self._points
        for step in range(len(points)):
            server = points[(at + step) % len(points)] & _SERVER
            if server not in excluded:
                return server
        return None


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number where one comes again."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found
