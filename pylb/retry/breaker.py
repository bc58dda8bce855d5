"""The circuit breaker: a backend most of whose requests fail is left alone for a while. Pure.

*Closed* lets everything through. When in a window of time enough requests have failed, it *opens*: requests
are answered at once, which costs clients less than waiting, and lets the servers recover. After a while one
request at a time is let through; by how that ends it closes, or is open again.
"""

from __future__ import annotations

import math


class Breaker:
    """One backend's, as one worker sees it.

    Args:
        share: of the requests that have failed, from which on it opens.
        least: requests in a window below which nothing follows from their share.
        window: seconds.
        rest: seconds for which it stays open.
    """

    __slots__ = ("_share", "_least", "_window", "_rest", "_began", "_seen", "_failed", "_until", "_trial")

    def __init__(self, share: float, least: int, window: float, rest: float) -> None:
        self._share = share
        self._least = least
        self._window = window
        self._rest = rest
        self._began = -math.inf
        self._seen = 0
        self._failed = 0
        self._until: float | None = None
        """When the first request may pass; None while it is closed."""
        self._trial = -math.inf
        """When the last one was let through since then."""

    @property
    def closed(self) -> bool:
        """Whether everything passes."""
        return self._until is None

    def passes(self, now: float) -> bool:
        """Whether a request may go to a server; called once for each request."""
        if self._until is None:
            return True
        if now < self._until or now - self._trial < self._rest:
            return False
        self._trial = now
        return True

    def over(self, failed: bool, now: float) -> bool:
        """A request has ended; gives whether the breaker has opened or closed by that."""
        if self._until is not None:
            if self._trial < self._until:
                return False  # it had begun before
            if failed:
                self._until = now + self._rest
                return False
            self._until = None
            self._began, self._seen, self._failed = now, 0, 0
            return True
        if now - self._began > self._window:
            self._began, self._seen, self._failed = now, 0, 0
        self._seen += 1
        self._failed += failed
        if not failed or self._seen < self._least or self._failed < self._share * self._seen:
            return False
        self._until = now + self._rest
        return True

    @property
    def figures(self) -> tuple[int, int]:
        """Of the window under way: how many requests have failed, of how many."""
        return self._failed, self._seen
