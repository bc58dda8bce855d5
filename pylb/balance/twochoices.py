"""Two choices: of two servers drawn by chance, the better one. Pure.

Loads differ hardly more than with the least loaded of all servers, and workers that know little of each other
don't all run to the same one (Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing*).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from bisect import bisect
from itertools import accumulate
from math import exp

from pylb.balance.members import NONE, Members

_random = random.random


class TwoChoices(ABC):
    """Draws servers by their weights."""

    def __init__(self, members: Members) -> None:
        self._loads = members.loads
        self._weights = list(members.weights)
        self._usable: list[int] = []
        self._sums: list[float] = []
        self._start()

    def _start(self) -> None:
        self._usable = [server for server, weight in enumerate(self._weights) if weight]
        weights = [self._weights[server] for server in self._usable]
        self._sums = list(accumulate(weights)) if len(set(weights)) > 1 else []

    def set_weight(self, server: int, weight: float) -> None:
        self._weights[server] = weight
        self._start()

    @abstractmethod
    def cost(self, server: int) -> float:
        """How bad a choice it is."""

    def _draw(self) -> int:
        """A place in the list of usable servers."""
        sums, count = self._sums, len(self._usable)
        return min(bisect(sums, _random() * sums[-1]), count - 1) if sums else int(_random() * count)

    def pick(self, excluded: frozenset[int] = NONE, key: bytes | None = None) -> int | None:
        usable = self._usable
        if len(usable) < 2 or excluded:
            left = [server for server in usable if server not in excluded]
            return min(random.sample(left, min(2, len(left))), key=self.cost, default=None)
        first, second = self._draw(), self._draw()
        if first == second:  # often, where there are few servers, or one has nearly all the weight
            second = (first + 1) % len(usable)
        one, other = usable[first], usable[second]
        return one if self.cost(one) <= self.cost(other) else other


class Random(TwoChoices):
    """The one with fewer active requests for its weight (HAProxy's ``random(2)``)."""

    def cost(self, server: int) -> float:
        return (self._loads.of(server) + 1) / self._weights[server]


class LeastLatency(TwoChoices):
    """The one that will have answered sooner: response time, times requests that it is at (peak EWMA).

    The average of response times follows a slow response at once and forgets it in `DECAY` seconds, so that a
    server that has become slow is left alone soon, and tried again later (as in Finagle). Each worker goes by
    the responses that it has seen; active requests are those of all workers.
    """

    DECAY = 10.0

    def __init__(self, members: Members) -> None:
        super().__init__(members)
        self._clock = members.clock
        self._all = members.latencies
        self._each = members.latencies.of(members.loads.indices)

    def cost(self, server: int) -> float:
        known = self._each[server]
        time = known.seconds
        if time:
            time *= exp((known.since - self._clock()) / self.DECAY)
        else:
            time = self._all.usual
        return time * (self._loads.of(server) + 1) / self._weights[server]

    def observe(self, server: int, seconds: float) -> None:
        now = self._clock()
        known = self._each[server]
        kept = exp((known.since - now) / self.DECAY)
        before = known.seconds * kept
        known.seconds = seconds if seconds > before else before + seconds * (1 - kept)
        known.since = now
        self._all.usual += (seconds - self._all.usual) / 64
