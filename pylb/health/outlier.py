"""Outliers: servers that answer requests badly are taken out for a while, by what clients got of them.

Pure: counts and time are passed in. Counts are those of all workers together, and only grow; how they come
together is above. One `Outliers` judges the servers of one backend:

- so many failures in a row, seen by whichever workers, eject a server; so does their share of its requests in
  a window of time;
- an ejection takes longer each time, and is forgotten step by step while the server stays in;
- at its end the server is *tried*: it gets a small share, and its first failure ejects it again, its first
  good answers bring it back;
- no more than a share of the servers is ejected at a time, and never the last one that can be used.

The names are Envoy's (outlier detection); the way back is the half-open state of a circuit breaker.

Floor: pure, beside the checks. Knows no table and no worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)
"""What stands for a server."""


class State(Enum):
    """The value is how it is written for people."""

    IN = "in"
    EJECTED = "ejected"
    TRIED = "tried"


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds."""

    failures: int = 5
    """In a row; 0 to look at none."""
    rate: float = 0.0
    """Share of requests, above which the server is ejected; 0 to look at none."""
    requests: int = 20
    """Requests in the window, below which a share says nothing."""
    window: float = 10.0
    eject: float = 30.0
    """The first ejection; the n-th takes n times as long."""
    eject_most: float = 300.0
    share: float = 0.5
    """Of all servers, that may be ejected at a time; one may always be."""
    good: int = 3
    """Good answers that bring a server back that is tried."""


class Counts(NamedTuple):
    """Of one server, since whenever; they only grow."""

    good: int
    failed: int


@dataclass(frozen=True, slots=True)
class Event(Generic[S]):
    """A server's state has changed; ``spared`` says that it hasn't, though it should have."""

    server: S
    state: State
    why: str
    spared: bool = False


@dataclass(slots=True)
class _Server:
    counts: Counts
    state: State = State.IN
    until: float = 0.0
    """When the ejection ends; of a server that is in, when the next of its ejections is forgotten."""
    times: int = 0
    """Ejections that are remembered."""
    row: int = 0
    """Failures since the last good answer."""
    good: int = 0
    """Good answers since it is tried."""
    window: deque[tuple[float, int, int]] = field(default_factory=deque)
    """Times, good answers and failures of the looks in the window."""
    spared: bool = False

    def forget(self) -> None:
        self.row = self.good = 0
        self.window.clear()
        self.spared = False


class Outliers(Generic[S]):
    """The servers of one backend."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers: dict[S, _Server] = {}

    def look(self, now: float, counts: Mapping[S, Counts], usable: Set[S]) -> list[Event[S]]:
        """What has changed, by what was counted until ``now``.

        Args:
            counts: of all servers that there are; others are forgotten.
            usable: those that take requests, apart from what is decided here: the others are down, or in
                maintenance.
        """
        for gone in self._servers.keys() - counts.keys():
            del self._servers[gone]
        events: list[Event[S]] = []
        for server, count in counts.items():
            known = self._servers.get(server)
            if known is None:
                self._servers[server] = _Server(count)
            else:
                self._look_at(server, known, count, now, usable, events)
        return events

    def state(self, server: S) -> State:
        """A server's; one that isn't known is in."""
        known = self._servers.get(server)
        return State.IN if known is None else known.state

    def kept(self, server: S) -> list[float]:
        """What the next process needs to go on with it, for `take_back`."""
        known = self._servers[server]
        return [list(State).index(known.state), known.until, known.times]

    def take_back(self, server: S, counts: Counts, kept: list[float]) -> None:
        """Go on with a server as `kept` said; raises ValueError or IndexError for what it never says."""
        state, until, times = kept
        self._servers[server] = _Server(counts, list(State)[int(state)], float(until), int(times))

    # One server

    def _look_at(
        self,
        server: S,
        known: _Server,
        count: Counts,
        now: float,
        usable: Set[S],
        events: list[Event[S]],
    ) -> None:
        good, failed = count.good - known.counts.good, count.failed - known.counts.failed
        known.counts = count
        if good < 0 or failed < 0:  # another server's figures were there
            good = failed = 0
        if known.state is State.EJECTED:
            if now >= known.until:
                known.state = State.TRIED
                known.forget()
                events.append(Event(server, State.TRIED, "the ejection is over; it gets a few requests"))
            return  # what ends now began before
        if server not in usable:
            known.forget()
            return
        # Of a look with both, nobody knows which came last; in its favour, the good ones did.
        known.row = 0 if good else known.row + failed
        why = self._wrong(known, good, failed, now)
        if why:
            self._eject(server, known, why, now, usable, events)
        elif known.state is State.TRIED:
            known.good += good
            if known.good >= self._settings.good:
                known.state = State.IN
                known.until = now + self._settings.eject
                events.append(Event(server, State.IN, f"{known.good} good answers"))
        else:
            if good:
                known.spared = False
            if known.times and now >= known.until:
                known.times -= 1
                known.until = now + self._settings.eject

    def _wrong(self, known: _Server, good: int, failed: int, now: float) -> str:
        """Why the server is to be ejected, if it is."""
        settings = self._settings
        if known.state is State.TRIED:
            return "it has failed again when it was tried" if failed else ""
        if settings.rate:
            window = known.window
            if good or failed:
                window.append((now, good, failed))
            while window and window[0][0] <= now - settings.window:
                window.popleft()
        if not failed:
            return ""
        if settings.failures and known.row >= settings.failures:
            return f"{known.row} failures in a row"
        if settings.rate:
            failures = sum(one[2] for one in known.window)
            requests = failures + sum(one[1] for one in known.window)
            if requests >= settings.requests and failures > settings.rate * requests:
                return f"{failures} of {requests} requests in {settings.window:g} s have failed"
        return ""

    def _eject(
        self, server: S, known: _Server, why: str, now: float, usable: Set[S], events: list[Event[S]]
    ) -> None:
        settings = self._settings
        out = {one for one, other in self._servers.items() if other.state is State.EJECTED}
        enough = len(out) >= max(1, int(settings.share * len(self._servers)))
        if enough or not usable - out - {server}:
            known.row = 0
            if not known.spared:
                known.spared = True
                of_all = f"{len(out)} of {len(self._servers)} servers are ejected"
                but = of_all if enough else "no other server is usable"
                events.append(Event(server, known.state, f"{why}, but {but}", spared=True))
            return
        known.times += 1
        seconds = min(settings.eject * known.times, settings.eject_most)
        known.state = State.EJECTED
        known.until = now + seconds
        known.forget()
        events.append(Event(server, State.EJECTED, f"{why}; for {seconds:g} s"))
