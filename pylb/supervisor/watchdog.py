"""How long a process has shown no sign of life. Pure: time, heartbeats and readings are passed in.

A process writes a heartbeat as long as its loop turns. One that only gets no CPU is not to blame, so its
silence grows by that time alone in which it ran or slept of its own accord: a process that is stopped, that
loops, or that waits for its swapped pages is silent, one that waits for a busy CPU is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DOUBTFUL = 0.3
"""Seconds of silence from which a worker is given no more of the others' connections."""
STUCK = 1.0
"""Seconds of silence from which it gets no connections at all, and others read its listeners."""
START_TIMEOUT = 30.0
"""Seconds in which a process is to begin."""
LONGEST_STEP = 0.3
"""Seconds that one look adds at most: when the watching process (or its machine) was stopped itself, the time
until its next look says nothing about the others."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the kernel tells of a process; times in seconds since it began."""

    runnable: bool
    """It runs, or would if there were a CPU for it."""
    ran: float
    waited: float
    """How long it was runnable without a CPU. The kernel adds to this only when the process gets one."""


class Watch:
    """Follows one process's heartbeat."""

    def __init__(self) -> None:
        self.silence = 0.0
        """Seconds without a sign of life, as of the last look."""
        self._beat = 0
        self._at = 0.0
        self._before: Reading | None = None

    def look(self, now: float, beat: int, read: Callable[[], Reading | None]) -> float:
        """Look at the process; returns its silence in seconds.

        Args:
            now: monotonic seconds.
            beat: its heartbeat, any number that changes; 0 while it has not begun, which is no silence.
            read: asks the kernel; it is called only when a heartbeat is overdue.
        """
        passed, self._at = now - self._at, now
        if beat != self._beat or not beat:
            self._beat = beat
            self._before = None
            self.silence = 0.0
            return 0.0
        counted = min(passed, LONGEST_STEP)
        if self.silence + counted >= DOUBTFUL:
            before, self._before = self._before, read()
            if before is not None and self._before is not None:
                counted -= _held_back(passed, before, self._before)
        self.silence += max(0.0, counted)
        return self.silence


def _held_back(passed: float, before: Reading, after: Reading) -> float:
    """For how many of the ``passed`` seconds it had no CPU though it was runnable."""
    told = after.waited - before.waited
    if after.runnable:  # it may be waiting now, of which nothing is told yet
        return max(told, passed - (after.ran - before.ran))
    return told
