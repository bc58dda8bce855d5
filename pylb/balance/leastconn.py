"""Least connections: the server with the fewest active requests for its weight.

Pure. The loads come from a callable, so that they can be those over all workers, not of this one alone. Equal
servers take turns; else an idle balancer would send everything to the first one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence


class LeastConn:
    """The server for which ``(active + 1) / weight`` is smallest (as HAProxy counts it)."""

    def __init__(
        self, weights: Sequence[int], loads: Callable[[], Sequence[int]], start: int | None = None
    ) -> None:
        self._weights = list(weights)
        self._loads = loads
        self._start = random.randrange(len(weights)) if start is None else start

    def set_weight(self, server: int, weight: int) -> None:
        self._weights[server] = weight

    def pick(self, excluded: frozenset[int] = frozenset()) -> int | None:
        weights = self._weights
        count = len(weights)
        loads = self._loads()
        index = self._start = (self._start + 1) % count
        best: int | None = None
        best_load = best_weight = 0
        for _ in range(count):
            weight = weights[index]
            if weight and index not in excluded:
                load = loads[index] + 1
                if best is None or load * best_weight < best_load * weight:
                    best, best_load, best_weight = index, load, weight
            index += 1
            if index == count:
                index = 0
        return best
