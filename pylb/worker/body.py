"""A request's body, as the exchange sees it: how much has come, and how much may be sent again.

Floor: below the exchange; plain data with the clock passed in. Knows neither side.
"""

from __future__ import annotations

from pylb.http.body import body_deadline
from pylb.worker.sides import Spans, Trailers

READ_AHEAD = 65536
"""Bytes that are kept while there is no server; the client isn't read above it."""


class Body:
    """The body of one request; made only for requests that have one, or may have one."""

    __slots__ = ("done", "whole", "kept", "spans", "trailers", "paused", "_began", "_paused_at")

    def __init__(self, buffer: bytes, spans: Spans, done: bool, now: float) -> None:
        self.done = done
        """Whether all of it has come."""
        self.whole = True
        """Whether what is kept is all that has come, so that the request may be sent again."""
        self.kept = buffer
        self.spans = spans
        self.trailers: Trailers = ()
        self.paused = False
        """Whether the client isn't read, since no server takes what it sends."""
        self._began = now
        self._paused_at = 0.0

    def keep(self, buffer: bytes, spans: Spans) -> bool:
        """Keep a further piece for a server; False when no more should be read for now."""
        before = len(self.kept)
        if spans is not None:
            self.spans = (self.spans or []) + [(before + start, before + end) for start, end in spans]
        self.kept += buffer
        return len(self.kept) <= READ_AHEAD

    def sent(self, buffer: bytes, spans: Spans, most: int) -> None:
        """A further piece goes to the server at once; it is kept, too, up to ``most`` bytes of them."""
        if len(self.kept) + len(buffer) <= most:
            self.keep(buffer, spans)
        else:
            self.let_go()

    def let_go(self) -> None:
        """It won't be sent again."""
        self.whole = False
        self.kept = b""
        self.spans = None

    def end(self, trailers: Trailers) -> None:
        """The body is whole."""
        self.done = True
        self.trailers = trailers

    def pause(self, now: float) -> None:
        """From ``now`` on the client isn't read."""
        self.paused = True
        self._paused_at = now

    def resume(self, now: float) -> None:
        """From ``now`` on it is read again. The time between doesn't count against the body's rate."""
        self.paused = False
        self._began += now - self._paused_at

    def deadline(self, now: float, idle: float, rate: float, came: int) -> float:
        """When the next piece must have come (`pylb.http.body.body_deadline`)."""
        return body_deadline(now, idle, rate, self._began, came)
