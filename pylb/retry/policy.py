"""The policy of a backend: which failures are tried again, for which requests, and after which pause. Pure.

The words for failures are those of HAProxy's ``retry-on`` (configuration manual, §4.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CONNECT = "conn-failure"
"""No connection came about: no byte of the request was sent."""
EMPTY = "empty-response"
"""The connection ended, or was reset, before a response's head was whole."""
JUNK = "junk-response"
"""What came is no response."""
LATE = "response-timeout"
"""No response's head came in time."""
CONDITIONS = (CONNECT, EMPTY, JUNK, LATE)
ALL = "all-retryable-errors"
"""HAProxy's word for all conditions and the statuses of servers that can't serve."""
ALL_STATUSES = frozenset({500, 502, 503, 504})

GROWTH = 4
"""Times that a pause is longer than the one before it."""
_JITTER = 0.25
"""The part of a pause by which it is longer at random, so that requests which failed together don't come back
together."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a request is tried again. The defaults are HAProxy's."""

    retries: int = 3
    """Further tries of one request, at most."""
    on: frozenset[str] = frozenset({CONNECT})
    """Some of `CONDITIONS`."""
    statuses: frozenset[int] = frozenset()
    """Responses in whose place another one is asked for."""
    methods: frozenset[bytes] = frozenset()
    """Requests that may be sent twice, though a server may have acted on them."""
    pause: float = 0.1
    """Seconds before servers that were all tried are tried once more; the first time."""
    longest_pause: float = 1.0
    per_try: float = math.inf
    """Seconds for a response's head, from when the request was sent."""
    timeout: float = math.inf
    """Seconds for a response's head, over all tries and pauses."""
    body: int = 65536
    """Bytes of a request's body that are kept, so that it can be sent again."""

    @property
    def timed(self) -> bool:
        """Whether tries have a time of their own."""
        return min(self.per_try, self.timeout) < math.inf

    def covers(self, condition: str, method: bytes | None) -> bool:
        """Whether a request of this method (None: it is not HTTP's) is sent again after such a failure.

        Without a connection no server has seen anything of it, so that its method doesn't matter.
        """
        if condition not in self.on:
            return False
        return condition == CONNECT or (method is not None and method in self.methods)

    def covers_status(self, status: int, method: bytes | None) -> bool:
        """Whether another response is asked for in place of one with this status."""
        return status in self.statuses and method is not None and method in self.methods

    def pause_before(self, number: int, chance: float) -> float:
        """Seconds before the servers are tried once more, after all were; ``number`` counts from 1.

        Args:
            chance: from 0 to 1, by which equal pauses differ.
        """
        seconds = min(self.pause * float(GROWTH) ** (number - 1), self.longest_pause)
        return seconds * (1 + _JITTER * chance)

    @property
    def pauses(self) -> float:
        """Seconds that all pauses of one request take together, at most."""
        return sum(self.pause_before(number, 1.0) for number in range(1, self.retries + 1))
