"""Outcomes: how many good answers and bad ones a server has given, for who judges it by them.

They are counted in backends with ``outliers`` alone; connections that fail, timeouts and broken responses are
counted for every server (`ServerField.ERRORS`).

Floor: near the bottom of the worker. Knows the scoreboard; what is a bad answer is said by who makes it.
"""

from __future__ import annotations

from pylb.scoreboard import Scoreboard, ServerField


class Outcomes:
    """Of one server, in one worker.

    Args:
        index: of the server.
        row: the worker's.
        statuses: of responses that are bad.
    """

    __slots__ = ("good", "bad", "statuses", "_good", "_bad", "_row")

    def __init__(self, board: Scoreboard, index: int, row: int, statuses: frozenset[int]) -> None:
        self.good = 0
        self.bad = 0
        self.statuses = statuses
        self._good = board.server_column(ServerField.GOOD, index)
        self._bad = board.server_column(ServerField.BAD, index)
        self._row = row

    def flush(self) -> None:
        """Write the counters to the scoreboard."""
        self._good[self._row] = self.good
        self._bad[self._row] = self.bad

    def removed(self) -> None:
        """The server is gone, and its index may be another one's."""
        self._good[self._row] = self._bad[self._row] = 0
