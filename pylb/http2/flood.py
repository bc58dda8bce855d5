"""A budget against peers that make work without asking for anything (time is passed in).

Each attack on HTTP/2 of that kind is a cheap frame that costs the receiver more: opening and resetting
streams (CVE-2023-44487), pings and settings that must be answered (CVE-2019-9512, -9515), empty frames
(CVE-2019-9518), window updates and priorities. Honest peers send few of them per second, and those that
answer what was sent to them (window updates; grpc-go's pings, one for each frame of DATA) are paid for by it.

Floor: near the bottom of `pylb.http2`.
"""

from __future__ import annotations

from pylb.http2.codes import Code, Fault


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
ANSWERS = 3
"""Frames with which a peer may answer one of DATA: a window update each of the stream and the connection, and
a ping; and one more for each KiB of it."""
_MOST_ANSWERS = 10_000  # however much was downloaded
_MOST_GOOD = 500


class Patience:
    """What one peer may send that asks for nothing."""

    __slots__ = ("_resets", "_chatter", "answers", "good")

    def __init__(self) -> None:
        self._resets = Budget(100, 20)
        self._chatter = Budget(1000, 200)
        self.answers = 0
        """Frames that answer what was sent, and have not come yet; whoever sends counts them up."""
        self.good = 0
        """Streams that have come to their end, likewise. As many may be given up: the share counts."""

    def reset(self, now: float) -> None:
        """A stream that was under way was reset, or has failed by the peer's fault.

        Raises:
            Fault: that happens too often.
        """
        self.good = min(self.good, _MOST_GOOD)
        if self.good:
            self.good -= 1
        elif not self._resets.spend(now):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many streams are given up")

    def noise(self, now: float, count: int = 1) -> None:
        """So many frames have come that ask for nothing.

        Raises:
            Fault: there were too many.
        """
        if not self._chatter.spend(now, count):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def answer(self, now: float) -> None:
        """A frame has come that may answer what was sent.

        Raises:
            Fault: there were too many.
        """
        self.answers = min(self.answers, _MOST_ANSWERS)
        if self.answers:
            self.answers -= 1
        else:
            self.noise(now)
