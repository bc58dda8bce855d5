"""When a server is checked next.

Pure; moments and durations are seconds, and who calls has a random number. Many servers with one interval are
spread over it, and a little jitter keeps them from coming together again.
"""

from __future__ import annotations

from dataclasses import dataclass

from pylb.health.state import Phase, Tracker

_APART = 0.001  # seconds between the first checks of servers of which nothing is known


@dataclass(frozen=True, slots=True)
class Pace:
    """The intervals of a check, in seconds from the beginning of one to that of the next."""

    interval: float
    fast: float
    """In transition."""
    down: float
    """While it is down."""
    jitter: float = 0.0
    """The share by which an interval is longer or shorter, at most."""

    def first(self, tracker: Tracker, number: int, chance: float) -> float:
        """Seconds until the first check: at once for a server that is unknown, those of many one by one.

        Args:
            number: how many are waiting for their first check.
            chance: a random number from 0 to 1.
        """
        if tracker.phase is Phase.UNKNOWN:
            return number * _APART
        return self._interval(tracker) * chance

    def after(self, tracker: Tracker, began: float, now: float, chance: float) -> float:
        """The moment of the check after one that ``began`` then and ends now."""
        interval = self._interval(tracker) * (1 + self.jitter * (2 * chance - 1))
        return max(now, began + interval)

    def _interval(self, tracker: Tracker) -> float:
        if tracker.phase is Phase.DOWN:
            return self.down
        return self.fast if tracker.in_transition else self.interval
