"""An ordered stop: when it is announced, when it begins, and which further order means "now".

It knows time and orders; what a stop consists of is handed to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pylb.log import log
from pylb.scoreboard import Scoreboard, SupervisorField

AGAIN = 0.5
"""Seconds from which a second stop signal counts: timeout(1) sends one twice, to pylb and to its group."""


class Stop:
    """Nothing is ordered at first.

    Args:
        board: where workers read that a stop is announced.
        drain: begins the stop.
        kill: ends everything at once.
    """

    def __init__(self, board: Scoreboard, drain: Callable[[], None], kill: Callable[[], None]) -> None:
        self._board = board
        self._drain = drain
        self._kill = kill
        self._ordered_at: float | None = None
        self._begins_at: float | None = None  # while it is announced

    @property
    def announced(self) -> bool:
        """It was ordered, and all goes on for a while so that those who ask can hear of it."""
        return self._begins_at is not None

    def order(self, name: str, announce: float, now: float) -> None:
        """A stop signal.

        Args:
            name: of the signal, for the log.
            announce: seconds between the order and the beginning (``drain.announce``).
            now: monotonic seconds.
        """
        if self._ordered_at is not None:
            if now - self._ordered_at >= AGAIN:
                self.now()
            return
        self._ordered_at = now
        if announce:
            self._begins_at = now + announce
            self._board.supervisor[SupervisorField.ANNOUNCING] = 1
            log.info("%s: health paths say so for %g s, then draining, then quitting", name, announce)
        else:
            log.info("%s: draining, then quitting", name)
            self._drain()

    def tick(self, now: float) -> None:
        """Begin the stop whose time has come."""
        if self._begins_at is not None and now >= self._begins_at:
            self._begins_at = None
            self._drain()

    def now(self) -> None:
        """End everything at once."""
        log.warning("quitting now")
        if self._ordered_at is None:
            self._ordered_at = -math.inf
        self._begins_at = None
        self._kill()
