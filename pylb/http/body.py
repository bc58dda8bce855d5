"""Where a request's body ends, how large it may be, and how fast it must come."""

from __future__ import annotations

import math

from pylb.http.chunked import ChunkError, ChunkScanner
from pylb.http.errors import Refused

_RATE_GRACE = 5.0  # seconds before a body's rate counts


def body_deadline(now: float, idle: float, rate: float, began: float, came: int) -> float:
    """When the next piece of a body must have come: within ``idle`` seconds, and as the rate demands."""
    if rate:
        return min(now + idle, began + _RATE_GRACE + came / rate)
    return now + idle


class RequestBody:
    """The body of one HTTP/1 request, of known length or chunked.

    Args:
        length: bytes to come; not used when ``chunked``.
        limit: the most bytes that are let through; 0 for no limit.
        rate: the fewest bytes per second; 0 for any.
        now: seconds on the worker's clock.
    """

    __slots__ = ("done", "_chunks", "_length", "_came", "_limit", "_rate", "_began")

    def __init__(self, chunked: bool, length: int, limit: int, rate: int, now: float) -> None:
        if length > limit > 0:
            raise Refused(413, "body_bytes")
        self.done = False
        self._chunks = ChunkScanner() if chunked else None
        self._length = length
        self._came = 0
        self._limit = limit
        self._rate = rate
        self._began = now

    def feed(self, data: bytes) -> int:
        """How many of these bytes belong to the body.

        Raises:
            Refused: 400 for broken chunks, 413 for too many bytes.
        """
        if self._chunks is not None:
            try:
                used = self._chunks.feed(data)
            except ChunkError:
                raise Refused(400, "chunk") from None
            self._came += used
            if self._came > self._limit > 0:
                raise Refused(413, "body_bytes")
            self.done = self._chunks.done
        else:
            used = min(len(data), self._length - self._came)
            self._came += used
            self.done = self._came == self._length
        return used

    def deadline(self, now: float, idle: float) -> float:
        """When the next piece must have come."""
        return math.inf if self.done else body_deadline(now, idle, self._rate, self._began, self._came)
