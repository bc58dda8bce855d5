"""The budget: retries as a share of the traffic, so that they can't multiply an overload. Pure.

Without it, a backend whose servers fail gets ``1 + retries`` times the load just then. With a share of 0.2 it
gets at most 1.2 times (Finagle's and Linkerd's retry budgets; *Site Reliability Engineering*, chapter 22).
"""

from __future__ import annotations

from math import exp

WINDOW = 10.0
"""Seconds for which traffic counts: what was saved up fades by as much."""


class Budget:
    """Counts lazily: traffic is looked at when a retry asks, so that a request that succeeds costs nothing.

    Args:
        share: retries for each try that isn't one.
        least: retries per second that are always allowed, so that little traffic is tried again, too.
    """

    __slots__ = ("_share", "_least", "_left", "_traffic", "_at")

    def __init__(self, share: float, least: float, now: float) -> None:
        self._share = share
        self._least = least
        self._left = least * WINDOW
        self._traffic = 0
        self._at = now

    def take(self, traffic: int, now: float) -> bool:
        """Whether one more request may be tried again.

        Args:
            traffic: all tries so far, of all requests; it only grows.
            now: monotonic seconds.
        """
        passed = max(0.0, now - self._at)
        kept = exp(-passed / WINDOW)
        came = max(0, traffic - self._traffic)
        # What came is spread over the time that has passed, and has faded by half of that.
        self._left = self._left * kept + self._share * came * kept**0.5 + self._least * WINDOW * (1 - kept)
        self._at, self._traffic = now, traffic
        if self._left < 1:
            return False
        self._left -= 1
        self._traffic += 1  # the try that this leads to is no traffic of its own
        return True
