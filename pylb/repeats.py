"""Which events are worth a line of the log of their own, and what there is to say of their repetitions.

Pure: time is passed in, and the caller writes the lines. Known to all processes; knows none of them.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass

EVERY = 10.0
"""Seconds between lines that say how often something has happened again."""
QUIET = 60.0
"""Seconds after which something that didn't happen again is forgotten; the next time it is said at once."""
MOST = 1024
"""Kinds that are told apart; beyond that the one that was met first is forgotten."""


@dataclass(slots=True)
class _Kind:
    level: int
    text: str
    said: float
    last: float
    again: int = 0


class Repeats:
    """An event is said once, then counted, and the count is said now and then.

    Args:
        every: seconds between two lines with a kind's count.
        quiet: seconds without an event after which its kind is forgotten; infinite for never.
        most: how many kinds are kept.
    """

    def __init__(self, every: float = EVERY, quiet: float = QUIET, most: int = MOST) -> None:
        self._every = every
        self._quiet = quiet
        self._most = most
        self._kinds: dict[Hashable, _Kind] = {}

    def happened(self, kind: Hashable, now: float, level: int, text: str) -> bool:
        """Note an event; True when it is to be said now, False when it is counted for later."""
        known = self._kinds.get(kind)
        if known is None or now - known.last >= self._quiet and not known.again:
            if known is None and len(self._kinds) >= self._most:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[kind] = _Kind(level, text, now, now)
            return True
        known.again += 1
        known.last = now
        known.level, known.text = level, text
        return False

    def due(self, now: float) -> list[tuple[int, str]]:
        """Level and text of the lines that say how often things have happened again."""
        lines = []
        for kind, known in list(self._kinds.items()):
            if known.again and now - known.said >= self._every:
                lines.append((known.level, f"{known.text} ({known.again} more in {now - known.said:.0f} s)"))
                known.said, known.again = now, 0
            elif not known.again and now - known.last >= self._quiet:
                del self._kinds[kind]
        return lines

    def over(self, kind: Hashable) -> None:
        """It has ended: the next time is news again."""
        self._kinds.pop(kind, None)


def raised_at(error: BaseException) -> str:
    """File and line where an exception was raised, ``pool.py:88``; ``?`` where nothing tells."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
