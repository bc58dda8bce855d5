"""A budget against clients that make work without asking for anything (sans I/O, time passed in).

Each attack on HTTP/2 of that kind is a cheap frame that costs the receiver more: opening and resetting
streams (CVE-2023-44487), pings and settings that must be answered (CVE-2019-9512, -9515), empty frames
(CVE-2019-9518), window updates and priorities. Honest clients send few of them per second.
"""

from __future__ import annotations


class Budget:
    """A token bucket.

    Args:
        burst: how much may be spent at once.
        rate: how much comes back per second.
    """

    __slots__ = ("_burst", "_rate", "_left", "_at")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at = 0.0

    def spend(self, now: float, cost: float = 1.0) -> bool:
        """Take ``cost``; False when there isn't that much left."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) if self._at else self._burst
        self._at = now
        if self._left < cost:
            return False
        self._left -= cost
        return True
