"""One server that is checked again and again: when, and what came of it.

Above `probe`, below `checks`, which says what follows. A watch has one timer at a time: for the next check,
or for the end of the one under way.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pylb.config.address import Address
from pylb.control.poll import Poll
from pylb.control.probe import Probe, Way
from pylb.health.exchange import Exchange, Verdict
from pylb.health.pace import Pace
from pylb.health.state import Event, Tracker


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done in each check of a server."""

    address: Address
    make: Callable[[], Exchange]
    pace: Pace
    timeout: float
    """Seconds for the whole of it."""
    header: bytes = b""
    """The PROXY header."""
    context: ssl.SSLContext | None = None
    name: str | None = None
    """Of the server, for TLS."""


class Places:
    """How many checks may be under way at a time; the others wait in turn."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, start: Callable[[], None]) -> None:
        """Call ``start`` when there is a place, perhaps now."""
        if self._free:
            self._free -= 1
            start()
        else:
            self._waiting.append(start)

    def give(self) -> None:
        """Give a place back."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class Watch:
    """The checks of one server.

    Args:
        came: called with each verdict, and whether the server's state has changed by it.
        paused: whether the server isn't to be checked now.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poll: Poll,
        plan: Plan,
        tracker: Tracker,
        places: Places,
        came: Callable[[Watch, Verdict, bool], None],
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        # For its life.
        self._loop = loop
        self._poll = poll
        self._plan = plan
        self._places = places
        self._came = came
        self._paused = paused
        self._way = _way(plan)
        self._stopped = False
        # Of all checks so far.
        self.tracker = tracker
        self.checks = 0
        self.failures = 0
        self.last: Verdict | None = None
        self.last_at = 0.0
        """When the last check ended (`time.time`)."""
        self.took = 0.0
        """Seconds that it took."""
        # Of the check under way, or to come.
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0
        self._probe: Probe | None = None
        self._lookup: asyncio.Task[None] | None = None

    def begin(self, number: int) -> None:
        """Begin with the checks, after ``number`` others."""
        wait = self._plan.pace.first(self.tracker, number, random.random())
        self._timer = self._loop.call_later(wait, self._due)

    def stop(self) -> None:
        """No further check; one under way is given up."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lookup is not None:
            self._lookup.cancel()
        if self._probe is not None:
            self._probe.cancel()
            self._release()

    def _due(self) -> None:
        self._timer = None
        if self._paused():
            self._schedule(self._loop.time())
        else:
            self._places.take(self._start)

    def _start(self) -> None:
        """There is a place for a check."""
        if self._stopped:
            self._places.give()
            return
        self._began = self._loop.time()
        if self._way is None:
            self._lookup = self._loop.create_task(self._look_up())
        else:
            self._go(self._way)

    def _go(self, way: Way) -> None:
        probe = self._probe = Probe(self._poll, way, self._plan.make(), self._ended)
        left = self._plan.timeout - (self._loop.time() - self._began)
        self._timer = self._loop.call_later(left, probe.late, self._plan.timeout)
        probe.start()

    async def _look_up(self) -> None:
        """The server's host is a name: look it up as workers do, at each connection."""
        address = self._plan.address
        try:
            async with asyncio.timeout(self._plan.timeout):
                found = await self._loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except TimeoutError:
            self._ended(Verdict(False, f"its name isn't looked up within {self._plan.timeout:g} s"))
        except OSError as error:
            self._ended(Verdict(False, f"its name can't be looked up: {error.strerror or error}"))
        except BaseException:
            self._release()
            raise
        else:
            self._lookup = None
            self._go(_to(self._plan, found[0][0], found[0][4]))

    def _release(self) -> None:
        self._probe = self._lookup = None
        self._places.give()

    def _ended(self, verdict: Verdict) -> None:
        """A check is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._release()
        if self._stopped:
            return
        now = self._loop.time()
        self.checks += 1
        self.failures += not verdict.passed
        self.last, self.last_at, self.took = verdict, time.time(), now - self._began
        changed = self.tracker.take(_event(verdict))
        self._schedule(self._began)
        self._came(self, verdict, changed)

    def _schedule(self, began: float) -> None:
        now = self._loop.time()
        at = self._plan.pace.after(self.tracker, began, now, random.random())
        self._timer = self._loop.call_at(at, self._due)


def _event(verdict: Verdict) -> Event:
    if verdict.at_once:
        return Event.SAID_UP if verdict.passed else Event.SAID_DOWN
    return Event.PASSED if verdict.passed else Event.FAILED


def _way(plan: Plan) -> Way | None:
    """How probes get to the server; None where its name has to be looked up."""
    address = plan.address
    if address.is_unix:
        return _to(plan, socket.AF_UNIX, address.path)
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except OSError:
        return None
    return _to(plan, found[0][0], found[0][4])


def _to(plan: Plan, family: int, to: object) -> Way:
    return Way(family, to, plan.header, plan.context, plan.name)
