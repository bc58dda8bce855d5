"""The operator's orders of how many workers are to run: while they hold, the policy's are passed over.

It knows the fleet, and not from where an order comes (a signal, the admin address).
"""

from __future__ import annotations

from typing import Any

from pylb.log import log
from pylb.supervisor.fleet import Fleet


class Pins:
    """``done`` is what the last order from the admin address did: its number, an HTTP status, a sentence."""

    def __init__(self, fleet: Fleet) -> None:
        self.done: list[Any] = [0, 200, ""]
        self._fleet = fleet

    def order(self, number: int, count: int | None) -> None:
        """Carry out an order, and keep what was done, for the operator who gave it."""
        self.done = [number, *self.pin(count)]

    def pin(self, count: int | None) -> tuple[int, str]:
        """Fix the number of workers, or release it; an HTTP status, and a sentence that says what was
        done."""
        wanted = self._fleet.wanted
        if self._fleet.stopping:
            return 409, "pylb is stopping; the number of workers stays"
        if count is None:
            wanted.pinned = None
            log.info("worker count is automatic again")
            return 200, "the number of workers follows the idle cores again"
        pinned = wanted.pinned = wanted.clamped(count)
        why = wanted.why_not(count)
        log.info("worker count pinned to %d%s", pinned, why)
        self._fleet.scale(pinned, "pinned by the operator")
        return 200, f"pinned to {pinned} workers until 'scale auto'{why}"

    def policy(self, count: int, reason: str) -> None:
        """What the policy has decided; passed over while pinned, and at a stop."""
        if self._fleet.wanted.pinned is None and not self._fleet.stopping:
            self._fleet.scale(count, reason)
