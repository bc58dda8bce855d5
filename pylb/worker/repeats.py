"""What happens again and again is said once, then counted (no I/O, time is passed in)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

EVERY = 10.0
"""Seconds between lines that say how often something has happened again."""
QUIET = 60.0
"""Seconds after which something that didn't happen again is forgotten; the next time it is said at once."""


@dataclass(slots=True)
class _Kind:
    level: int
    text: str
    said: float
    last: float
    again: int = 0


class Repeats:
    """Which events are worth a line of their own, and what there is to say of the others."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}

    def happened(self, kind: Hashable, now: float, level: int, text: str) -> bool:
        """Note an event; True when it is to be said now, False when it is counted for later."""
        known = self._kinds.get(kind)
        if known is None or now - known.last >= QUIET and not known.again:
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
            if known.again and now - known.said >= EVERY:
                lines.append((known.level, f"{known.text} ({known.again} more in {now - known.said:.0f} s)"))
                known.said, known.again = now, 0
            elif not known.again and now - known.last >= QUIET:
                del self._kinds[kind]
        return lines

    def over(self, kind: Hashable) -> None:
        """It has ended: the next time is news again."""
        self._kinds.pop(kind, None)
