"""Balancing algorithms: which server of a backend takes the next request.

Each is a plain class that knows weights and loads and nothing of sockets. To add one, write a class with
`Balancer`'s methods and name it in `ALGORITHMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pylb.balance.leastconn import LeastConn
from pylb.balance.roundrobin import RoundRobin

Loads = Callable[[], Sequence[int]]
"""Gives the number of active requests of each server, over all workers."""


class Balancer(Protocol):
    """Picks servers by index (position in the backend's list)."""

    def pick(self, excluded: frozenset[int] = frozenset()) -> int | None:
        """The server for the next request, or None when none is usable."""

    def set_weight(self, server: int, weight: int) -> None:
        """Change a server's share; 0 takes it out."""


ALGORITHMS: dict[str, Callable[[Sequence[int], Loads], Balancer]] = {
    "roundrobin": RoundRobin,
    "leastconn": LeastConn,
}
