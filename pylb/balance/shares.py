"""Shares: what of its weight each server of a backend has now. Pure; time is passed in.

Whoever changes whether a server may be picked, or what it weighs, does it here, and here alone.

A server that becomes usable begins with a small part of its weight, where it has a slow start, and has all of
it at the end (HAProxy's ``slowstart``): its caches are cold, and with leastconn it would get all requests at
once, being at none. Backup servers are picked from while none of the others can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pylb.balance.members import NONE, Balancer, Members, Observer

STEPS = 20
"""In which a slow start raises the weight."""


class Shares:
    """The servers' weights, and the algorithm that picks by them.

    Args:
        ramps: seconds of each server's slow start; 0 for none.
    """

    def __init__(self, balancer: Balancer, weights: Sequence[float], ramps: Sequence[float]) -> None:
        self._balancer = balancer
        self._weights = list(weights)
        self._ramps = list(ramps)
        self._usable = [True] * len(self._weights)
        self._began: dict[int, float] = {}  # when the slow starts have begun that are under way
        self._given = list(weights)

    @property
    def rising(self) -> bool:
        """Whether a slow start is under way, so that `step` is to be called now and then."""
        return bool(self._began)

    def is_usable(self, server: int) -> bool:
        """Whether a server may be picked now."""
        return self._usable[server]

    def began(self, server: int) -> float | None:
        """When its slow start has begun, if one is under way."""
        return self._began.get(server)

    def go_on(self, server: int, began: float, now: float) -> None:
        """Its slow start has begun at this moment, under other shares."""
        if self._ramps[server]:
            self._began[server] = began
            self._give(server, now)

    def usable(self, server: int, usable: bool, now: float) -> None:
        """A server may be picked from now on, or not any more."""
        if usable and not self._usable[server] and self._ramps[server]:
            self._began[server] = now
        self._usable[server] = usable
        self._give(server, now)

    def weigh(self, server: int, weight: float, now: float) -> None:
        """A server's weight is another one from now on."""
        self._weights[server] = weight
        self._give(server, now)

    def step(self, now: float) -> None:
        """Raise the weights of servers in their slow start."""
        for server in list(self._began):
            self._give(server, now)

    def _give(self, server: int, now: float) -> None:
        part = 1.0
        if server in self._began:
            steps = int(STEPS * (now - self._began[server]) / self._ramps[server])
            part = max(1, steps) / STEPS
            if part >= 1 or not self._usable[server]:
                del self._began[server]
                part = 1.0
        weight = self._weights[server] * part if self._usable[server] else 0
        if weight != self._given[server]:
            self._given[server] = weight
            self._balancer.set_weight(server, weight)


class WithBackups:
    """An algorithm for the usual servers, and the same one for backup servers, for when none of them can be
    picked."""

    def __init__(
        self, make: Callable[[Members], Balancer], members: Members, backups: Sequence[bool]
    ) -> None:
        weights = list(zip(members.weights, backups, strict=True))
        self._backups = list(backups)
        self._usual = make(replace(members, weights=[0 if backup else weight for weight, backup in weights]))
        self._backup = make(replace(members, weights=[weight if backup else 0 for weight, backup in weights]))
        if isinstance(self._usual, Observer):
            self.observe = self._observe

    def pick(self, excluded: frozenset[int] = NONE, key: bytes | None = None) -> int | None:
        found = self._usual.pick(excluded, key)
        return found if found is not None else self._backup.pick(excluded, key)

    def set_weight(self, server: int, weight: float) -> None:
        (self._backup if self._backups[server] else self._usual).set_weight(server, weight)

    def _observe(self, server: int, seconds: float) -> None:
        one = self._backup if self._backups[server] else self._usual
        if isinstance(one, Observer):
            one.observe(server, seconds)
