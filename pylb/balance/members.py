"""What an algorithm is made of: the servers of a backend as it knows them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pylb.balance.loads import Loads

NONE: frozenset[int] = frozenset()


@dataclass(slots=True)
class Latency:
    """The average response time of one server."""

    seconds: float = 0.0
    """0 where there was no response yet."""
    since: float = 0.0
    """When it was so, in monotonic seconds."""


class Latencies:
    """Response times of servers. They outlive an algorithm, which is made anew when servers come or go."""

    def __init__(self) -> None:
        self._known: dict[int, Latency] = {}
        self.usual = 1e-3
        """The average of all servers, which is expected of one that has not answered yet, in seconds."""

    def of(self, indices: Sequence[int]) -> list[Latency]:
        """Of the servers with these indices; those of others are forgotten."""
        self._known = {index: self._known.get(index) or Latency() for index in indices}
        return list(self._known.values())


@dataclass(frozen=True, slots=True)
class Members:
    """The servers, by position in their backend."""

    weights: Sequence[float]
    """Their shares, beside each other; 0 takes a server out."""
    names: Sequence[str]
    """By which a hash knows them: the same in all workers, and after a restart."""
    loads: Loads
    """Their active requests, over all workers."""
    clock: Callable[[], float]
    """Gives monotonic seconds."""
    fills: Sequence[int] = ()
    """Of ``first``: how many requests each takes before the next one gets some; 0 for any number."""
    latencies: Latencies = field(default_factory=Latencies)
    """Where an algorithm that goes by response times has them."""
    factor: float = 0.0
    """Of a hash: how many times its share of the active requests a server takes at most; 0 for any number."""


class Balancer(Protocol):
    """Picks servers by position."""

    def pick(self, excluded: frozenset[int] = NONE, key: bytes | None = None) -> int | None:
        """The server for the next request, or None when none is usable.

        Args:
            excluded: those that were tried in vain.
            key: what algorithms that hash go by; where a request has none, its server is one in turn.
        """

    def set_weight(self, server: int, weight: float) -> None:
        """Change a server's share. This is how a server becomes usable and stops to be: 0 takes it out."""


class Nobody:
    """The algorithm of a backend that has no server."""

    def pick(self, excluded: frozenset[int] = NONE, key: bytes | None = None) -> int | None:
        return None

    def set_weight(self, server: int, weight: float) -> None:
        raise IndexError(f"no server {server}")


@runtime_checkable
class Observer(Protocol):
    """What an algorithm has beside that, if it goes by response times."""

    def observe(self, server: int, seconds: float) -> None:
        """A server has taken so long for the head of a response."""
