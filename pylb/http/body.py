"""Where a request's body ends, and how fast it must come (pure)."""

from __future__ import annotations

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
    """

    __slots__ = ("done", "_chunks", "_left")

    def __init__(self, chunked: bool, length: int) -> None:
        self.done = False
        self._chunks = ChunkScanner() if chunked else None
        self._left = length

    def feed(self, data: bytes) -> tuple[int, list[tuple[int, int]] | None]:
        """How many of these bytes belong to the body; and of a chunked one, where in them its contents lie.

        Raises:
            Refused: 400 for broken chunks.
        """
        if self._chunks is not None:
            spans: list[tuple[int, int]] = []
            try:
                used = self._chunks.feed(data, spans)
            except ChunkError:
                raise Refused(400, "chunk") from None
            self.done = self._chunks.done
            return used, spans
        left = self._left
        size = len(data)
        if size >= left:
            self.done = True
            self._left = 0
            return left, None
        self._left = left - size
        return size, None

    @property
    def trailers(self) -> list[bytes]:
        """The trailer fields of a chunked body, as lines."""
        return self._chunks.trailers if self._chunks is not None else []
