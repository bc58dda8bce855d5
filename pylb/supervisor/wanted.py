"""How many workers are to run, and in which slots. It knows numbers only; what keeps a worker from leaving is
asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pylb.config.model import Workers
from pylb.log import log


class Wanted:
    """The slots in which a worker is to run.

    Args:
        slots: how many there are.
        limits: gives those of the newest configuration.
        held_back: what keeps a slot's worker from leaving, as something to sort by; the least goes first.
    """

    def __init__(self, slots: int, limits: Callable[[], Workers], held_back: Callable[[int], Any]) -> None:
        self.most = slots
        self.slots = set(range(limits().min))
        self.pinned: int | None = None
        """The number of workers that the operator has fixed."""
        self._limits = limits
        self._held_back = held_back

    @property
    def count(self) -> int:
        """How many workers are to run."""
        return len(self.slots)

    def clamped(self, count: int) -> int:
        """The nearest number of workers that may run."""
        workers = self._limits()
        high = min(workers.max, self.most)
        return max(min(workers.min, high), min(high, count))

    def why_not(self, count: int) -> str:
        """Why so many can't run, as a remark in brackets; empty if they can."""
        workers, most = self._limits(), self.clamped(count)
        if most < count:
            limit = "workers.max" if workers.max <= self.most else "the start's workers.max"
            return f" ({count} were asked for, but {limit} is {most})"
        if most > count:
            return f" ({count} were asked for, but workers.min is {workers.min})"
        return ""

    def scale(self, count: int, reason: str) -> bool:
        """Have so many, or as many as may run; whether that is another number."""
        count, before = self.clamped(count), self.count
        if count == before:
            return False
        log.info("scale %s from %d to %d: %s", "up" if count > before else "down", before, count, reason)
        self._resize(count)
        return True

    def fit(self) -> None:
        """The limits are others now."""
        count = self.clamped(self.count)
        if self.pinned is not None and self.pinned != count:
            log.info("pinned to %d workers now, not %d: limits changed by reload", count, self.pinned)
            self.pinned = count
        if count != self.count:
            log.info("scale from %d to %d: limits changed by reload", self.count, count)
        self._resize(count)

    def _resize(self, count: int) -> None:
        """Take the lowest free slots; or give up those whose workers leave soonest."""
        while len(self.slots) < count:
            self.slots.add(min(set(range(self.most)) - self.slots))
        while len(self.slots) > count:
            self.slots.remove(min(self.slots, key=self._held_back))
