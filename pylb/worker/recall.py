"""How many clients are asked to connect anew, so that workers are level (pure; time is passed in).

A connection with TLS or HTTP/2 can't move to another worker. Its client can be asked to come back: with
``Connection: close`` in a response, or a GOAWAY. That costs it a handshake, so it is done for an excess that
has lasted, for no more clients than are too many, and spread over ``drain.spread``.

The supervisor renews its order several times a second with what is too much then, by figures that are a tick
old. A client that was asked is still here for a while, and then on its way to another worker; both are taken
off the figure.

Floor: the bottom of the worker; a connection is any object here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container

SETTLE = 0.5
"""Seconds for which there must have been an excess: short connections come and go in waves."""
LAPSE = 1.0
"""Seconds after which an order that is not renewed holds no more."""
RETURN = 0.5
"""Seconds in which a client that was asked and has left is expected elsewhere."""
PATIENCE = 1.0
"""Seconds of an excess from which connections are asked that are never idle."""


class Recalls:
    """The supervisor's order to one worker, and the connections whose clients were asked.

    Args:
        spread: seconds over which the clients of a first excess are asked.
    """

    def __init__(self, spread: float) -> None:
        self.open = False
        """Whether a connection at a good moment is to call `take`."""
        self._spread = spread
        self._left = 0
        self._most = 0  # the largest excess since there is one
        self._since = self._renewed = -math.inf
        self._next = -math.inf
        self._asked: set[object] = set()
        self._returning: deque[float] = deque()  # when they left

    def order(self, excess: int, clients: Container[object], now: float) -> None:
        """So many of the connections ``clients`` are too many and can't move; holds for `LAPSE` seconds."""
        if now - self._renewed > LAPSE:
            self._since, self._most = now, 0
        self._renewed = now
        gone = [client for client in self._asked if client not in clients]
        self._asked.difference_update(gone)
        self._returning.extend([now] * len(gone))
        while self._returning and self._returning[0] < now - RETURN:
            self._returning.popleft()
        self._most = max(self._most, excess)
        self._left = excess - len(self._asked) - len(self._returning)
        self.open = self._left > 0 and now - self._since >= SETTLE

    def forget(self, now: float) -> None:
        """Forget an order that was not renewed."""
        if now - self._renewed > LAPSE:
            self.open = False
            self._asked.clear()

    def take(self, client: object, now: float, idle: bool = True) -> bool:
        """Whether this connection's client is to be asked now.

        Args:
            idle: nothing else is under way on it.
        """
        if not self.open or now < self._next or not (idle or now - self._since >= PATIENCE):
            return False
        if client in self._asked:
            return False
        self._next = max(self._next, now - LAPSE / 10) + self._spread / self._most
        self._asked.add(client)
        self._left -= 1
        self.open = self._left > 0
        return True
