"""Smooth weighted round robin, as nginx does it: ``{a: 5, b: 1, c: 1}`` gives a a b a c a a, not aaaaabc.

Pure. The sequence changes only when a weight does, so it is made once and then walked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import gcd


class RoundRobin:
    """Servers in turn, in proportion to their weights."""

    def __init__(
        self, weights: Sequence[int], loads: Callable[[], Sequence[int]], start: int | None = None
    ) -> None:
        self._weights = list(weights)
        # Workers start at different places; else all of them would choose the same server first.
        self._next = random.randrange(1 << 16) if start is None else start
        self._sequence = smooth_sequence(self._weights)

    def set_weight(self, server: int, weight: int) -> None:
        self._weights[server] = weight
        self._sequence = smooth_sequence(self._weights)

    def pick(self, excluded: frozenset[int] = frozenset()) -> int | None:
        sequence = self._sequence
        length = len(sequence)
        if not length:
            return None
        position = self._next
        self._next = position + 1
        server = sequence[position % length]
        if not excluded or server not in excluded:
            return server
        for step in range(1, length):
            server = sequence[(position + step) % length]
            if server not in excluded:
                return server
        return None


def smooth_sequence(weights: Sequence[int]) -> list[int]:
    """One full cycle of smooth weighted round robin: ``sum(weights) / gcd`` server indices."""
    divisor = gcd(*weights)
    if not divisor:
        return []
    effective = [weight // divisor for weight in weights]
    total = sum(effective)
    current = [0] * len(effective)
    sequence = []
    for _ in range(total):
        best = -1
        for index, weight in enumerate(effective):
            current[index] += weight
            if weight and (best < 0 or current[index] > current[best]):
                best = index
        current[best] -= total
        sequence.append(best)
    return sequence
