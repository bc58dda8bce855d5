"""How many client connections a worker's descriptors suffice for (no I/O, time is passed in).

A client connection needs a second descriptor, for its server (HAProxy's rule: ``maxsock`` is twice
``maxconn``). If clients could take all, none would be left to serve them with. Above the bound nothing is
accepted: what the kernel completes waits in its queue.

Floor: the bottom of the worker; knows numbers only.
"""

from __future__ import annotations

import errno

OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
"""Of this process, of the machine."""

SPARE = 32
"""Descriptors for files, name look-ups, and what is accepted before accepting has stopped."""


class Descriptors:
    """The bound, and whether accepting is paused.

    Args:
        limit: descriptors that the process may have (``ulimit -n``).
        open_: how many it has open for itself, before the first connection.
    """

    def __init__(self, limit: int, open_: int) -> None:
        self.limit = limit
        self.bound = max(4, (limit - open_ - SPARE) // 2)
        self.packet = max(1, min(200, self.bound // 8))
        """Connections that may travel in one packet: a process that lacks room for all loses the rest."""
        self.paused = False
        # From there on it goes on: not at once, or each connection that ends would start and stop it.
        self._low = self.bound - max(1, self.bound // 32)
        self._not_before = 0.0

    def full(self, held: int) -> bool:
        """Whether no more than ``held`` client connections are to be had."""
        return held >= self.bound

    def pause(self, now: float, seconds: float = 0.0) -> bool:
        """Stop accepting, for ``seconds`` at least; False when it had stopped before."""
        self._not_before = max(self._not_before, now + seconds)
        before, self.paused = self.paused, True
        return not before

    def goes_on(self, held: int, now: float) -> bool:
        """Whether accepting begins again now."""
        if self.paused and held <= self._low and now >= self._not_before:
            self.paused = False
            return True
        return False
