"""What one source knows, shared among the balancers that have said hello.

Cores are shared anew at most every `SHARE_EVERY` seconds, for all reports since then, so a report costs the
same however many balancers there are. Whatever a source raises, leases run out and balancers come and go.
Knows balancers as `Leaseholder`s; that they are connections, it doesn't know.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from controller.act.actor import Actor
from controller.act.policy import Balancer
from controller.leases import Holder, LeaseTable
from controller.protocol import Hello, Report, Status
from controller.sources import Hosting, Source
from controller.sources.quota import whole_cores

SHARE_EVERY = 0.025
"""Seconds between two sharings; a report waits for the next one."""

log = logging.getLogger("controller")


class Leaseholder(Protocol):
    """One balancer, or what may become one."""

    key: str
    who: str
    """Where it comes from, for people."""
    pid: int
    """The process at the other end of a unix socket; 0 where it is another kind of connection."""
    placed: bool
    """Whether its machine is known."""

    def grant(self, holder: Holder, now: float) -> None:
        """What it holds after a sharing."""


class Sharing:
    """The source, the lease table, and the moments at which one is applied to the other.

    Args:
        source: what knows the idle cores.
        everybody: gives all peers, in the order in which the status names them.
        actor: acts for those under pressure, where that is wanted.
    """

    def __init__(
        self, source: Source, everybody: Callable[[], Sequence[Leaseholder]], actor: Actor | None = None
    ) -> None:
        self.source = source
        self._actor = actor
        self.table = LeaseTable()
        self._everybody = everybody
        self._host = source if isinstance(source, Hosting) else None
        self._due: asyncio.TimerHandle | None = None
        self._shared_at = 0.0
        self._problem = ""
        self._same: set[str] = set()

    def tick(self, now: float) -> None:
        """Measure, and share what is found."""
        try:
            self.source.sample(now)
        except Exception as error:
            self._say(f"source {self.source.name}: {error!r}")
        self.share()
        for peer in self._everybody():
            self._place(peer)

    def changed(self) -> None:
        """Something came that the leases depend on: share soon, once for all that comes until then."""
        if self._due is None:
            wait = self._shared_at + SHARE_EVERY - time.monotonic()
            self._due = asyncio.get_running_loop().call_later(max(0.0, wait), self.share)

    def share(self) -> None:
        """Work the leases out anew, and give each balancer its own."""
        self.cancel()
        self._shared_at = now = time.monotonic()
        source = self.source
        try:
            used = self.table.used()
            capacity, idle = source.capacity(used), source.idle()
            bounds = {} if self._host is None else self._host.bounds(used)
            needs = {} if self._host is None else self._host.needs()
            usable = float(whole_cores(source.usable()))
        except Exception as error:  # grants run out
            self._say(f"source {source.name}: {error!r}")
            self.table.expire(now)
            self._act(now, {})
            return
        self.table.settle(now, capacity, idle, usable, bounds, needs)
        self._act(now, needs)
        for peer in self._everybody():
            holder = self.table.holders.get(peer.key)
            if holder is not None:
                peer.grant(holder, now)

    def _act(self, now: float, needs: Mapping[str, tuple[float, float]]) -> None:
        """Have the host act for those that hold a lease, by their last reports."""
        if self._actor is None:
            return
        seen = []
        for holder in self.table.holders.values():
            if holder.machine in needs:
                used, need = needs[holder.machine]
                report, cores = holder.report, holder.cores + holder.idle
                waited = max(0.0, need - used)
                who = holder.machine, holder.hello.name
                seen.append(Balancer(*who, report.workers, report.pressure, cores, used, waited))
        self._actor.look(now, seen)

    def _place(self, peer: Leaseholder) -> None:
        """Ask again for the machine of a balancer that had none: it, or the source, may have just begun."""
        holder = self.table.holders.get(peer.key)
        if self._host is None or holder is None or peer.placed or not peer.pid:
            return
        if (machine := self._host.machine(peer.pid)) is not None:
            holder.machine = machine
            peer.placed = True

    def greeted(self, peer: Leaseholder, hello: Hello) -> None:
        """A balancer has said who it is."""
        if len(self._same) < 1000 and hello.name not in self._same:
            others = (key for key, holder in self.table.holders.items() if holder.hello.name == hello.name)
            if any(key != peer.key for key in others):
                self._same.add(hello.name)
                log.warning(
                    "a second balancer (%s) calls itself %r: they count as two on one machine",
                    *(peer.who, hello.name),
                )
        machine = None
        if self._host is not None:
            # Never by what it says: it would get another one's cores. Without a machine it gets one core.
            machine = self._host.machine(peer.pid)
            peer.placed = machine is not None
            machine = machine or f"no machine: {peer.who}"
        self.table.join(peer.key, hello, time.monotonic(), machine)
        self.changed()

    def reported(self, key: str, report: Report) -> None:
        """A balancer has said how it is.

        Raises:
            KeyError, ValueError: as `LeaseTable.report`.
        """
        try:
            self.table.report(key, report, time.monotonic())
        finally:
            self.changed()

    def left(self, key: str) -> None:
        """A peer has gone, whether it was a balancer or not."""
        if key in self.table.holders:
            self.table.leave(key)
            self.changed()

    def status(self) -> Status:
        """All there is to see."""
        leases = [
            {
                "name": holder.hello.name,
                "machine": holder.machine,
                "peer": peer.who,
                "min": holder.hello.min,
                "max": holder.hello.max,
                "weight": holder.hello.weight,
                "workers": holder.report.workers,
                "busy": round(holder.report.busy, 3),
                "pressure": round(holder.report.pressure, 3),
                "cores": holder.cores,
            }
            for peer in self._everybody()
            if (holder := self.table.holders.get(peer.key)) is not None
        ]
        source = self.source
        idle = round(source.idle(), 3)
        status = Status(source.name, source.usable(), idle, leases, source.per_cpu())
        if self._actor is None:
            return status
        return replace(status, preferred=self._actor.preferred, actions=self._actor.actions)

    def cancel(self) -> None:
        """Forget the sharing that is due, if one is."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.error("%s", problem)
