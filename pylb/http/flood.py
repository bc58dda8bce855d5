"""A budget against clients that make work without asking for anything (pure; time is passed in).

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


# Who downloads sends window updates, most often Go's client: two for each 4 KiB that it has read.
_BYTES_PER_UPDATE = 1024
_MOST_UPDATES = 10_000  # however much was downloaded


class Patience:
    """What one HTTP/2 client may send that asks for nothing."""

    __slots__ = ("_resets", "_chatter", "_updates")

    def __init__(self) -> None:
        self._resets = Budget(100, 20)
        self._chatter = Budget(1000, 200)
        self._updates = 0  # window updates that answer what was sent to it

    def sent(self, size: int) -> None:
        """A frame of DATA goes to the client, who may answer it with window updates."""
        self._updates = min(self._updates + 2 + size // _BYTES_PER_UPDATE, _MOST_UPDATES)

    def reset(self, now: float) -> bool:
        """The client has reset a stream that was under way; False when it has done so too often."""
        return self._resets.spend(now)

    def noise(self, now: float, count: int = 1) -> bool:
        """So many frames have come that ask for nothing; False when there were too many."""
        return self._chatter.spend(now, count)

    def updates(self, now: float, count: int) -> bool:
        """So many frames have come that are likely window updates; False when there were too many."""
        free = min(count, self._updates)
        self._updates -= free
        return count == free or self._chatter.spend(now, count - free)
