"""Round robin: servers in turn, in proportion to their weights, smoothly: ``{a: 5, b: 1, c: 1}`` never gives
``a`` five times in a row.

Pure. Servers of different weights stand in a heap by when each is due next, a server of weight 5 five times
as often as one of weight 1 (earliest deadline first, as in Envoy's scheduler). A pick costs the logarithm of
the number of servers; and a change of weight doesn't have to work out a whole cycle, which can be as long as
the sum of all weights.
"""

from __future__ import annotations

import random
from heapq import heapify, heappop, heappush, heapreplace

from pylb.balance.members import NONE, Members

_LONG = float(1 << 24)  # by then times are begun anew: they would lose precision


class RoundRobin:
    """Servers in turn. Workers start at different places; else all of them would begin with the same one."""

    def __init__(self, members: Members) -> None:
        self._weights = list(members.weights)
        self._next = random.randrange(1 << 16)
        self._equal: list[int] = []
        """The usable servers, where their weights are equal."""
        self._heap: list[tuple[float, int]] = []
        """When each is due next, with its position, where they aren't."""
        self._start()

    def _start(self) -> None:
        weights = self._weights
        usable = [server for server, weight in enumerate(weights) if weight]
        self._equal, self._heap = [], []
        if len({weights[server] for server in usable}) <= 1:
            self._equal = usable
        else:
            # In the first unit of time each is due as often as its weight says, wherever it begins.
            self._heap = [(random.uniform(0.01, 0.99) / weights[server], server) for server in usable]
            heapify(self._heap)

    def set_weight(self, server: int, weight: float) -> None:
        self._weights[server] = weight
        self._start()

    def pick(self, excluded: frozenset[int] = NONE, key: bytes | None = None) -> int | None:
        equal = self._equal
        if not equal:
            return self._due(excluded)
        position = self._next
        self._next = position + 1
        server = equal[position % len(equal)]
        if not excluded or server not in excluded:
            return server
        for step in range(1, len(equal)):
            server = equal[(position + step) % len(equal)]
            if server not in excluded:
                return server
        return None

    def _due(self, excluded: frozenset[int]) -> int | None:
        heap = self._heap
        passed = []
        while heap and heap[0][1] in excluded:
            passed.append(heappop(heap))
        found = None
        if heap:
            due, found = heap[0]
            heapreplace(heap, (due + 1 / self._weights[found], found))
            if due > _LONG:
                self._start()
                return found
        for entry in passed:
            heappush(heap, entry)
        return found
