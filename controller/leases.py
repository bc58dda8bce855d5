"""Who may use how many cores: lease arithmetic, without I/O and without a clock (time is passed in).

The cores to share are those that are idle plus those that the balancers' own workers use. They are shared by
weighted max-min fairness on what each balancer asks for (its *demand*: one core more than it uses while it is
under pressure, and its ``min`` in any case). So a ``min`` counts up to a fair share: what it claims beyond
that is leased where nobody else asks for it, and takes nothing from those who do. Everybody has one core,
whatever happens. A core is never leased twice: the leases' sum is at most what there is to share, or the
number of balancers where there are more balancers than cores.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from controller.protocol import Grant, Hello, Report

LEASE_SECONDS = 3.0
_ROUND_UP = 0.25  # three quarters of a core and more count as an idle core
_KEEP = 0.5  # half a core is enough for a worker that runs: what hovers at three quarters must not flap


@dataclass(slots=True)
class Holder:
    """One balancer as the table knows it."""

    hello: Hello
    heard: float  # time of its last message
    report: Report
    cores: int  # leased
    machine: str = ""  # that it runs in, for the source
    idle: int = 0  # cores that it could have beside those

    @property
    def demand(self) -> int:
        """Workers it could use now, from its own report."""
        wanted = math.ceil(max(self.report.pressure, self.report.busy) - 1e-9)
        return max(self.hello.min, min(self.hello.max, wanted))


def share(
    capacity: int,
    demands: Mapping[str, tuple[int, float]],
    groups: Mapping[str, str] = MappingProxyType({}),
    bounds: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """Weighted max-min fair shares of whole cores.

    Args:
        capacity: cores to share.
        demands: per name the demand (at least 1) and the weight.
        groups: per name the group, where several have a bound together.
        bounds: per group how many cores it may have.

    Gives per name at least 1 and at most its demand. One core at a time goes to whoever has least for its
    weight and still wants more, which is max-min fairness for indivisible cores.
    """
    shares = dict.fromkeys(demands, 1)
    left = dict(bounds)
    for name in demands:
        if (group := groups.get(name)) in left:
            left[group] -= 1
    poorest = [(2 / weight, name) for name, (demand, weight) in demands.items() if demand > 1]
    heapq.heapify(poorest)
    for _ in range(capacity - len(shares)):
        while poorest and left.get(groups.get(poorest[0][1], ""), 1) <= 0:
            heapq.heappop(poorest)
        if not poorest:
            break
        name = poorest[0][1]
        demand, weight = demands[name]
        shares[name] += 1
        if (group := groups.get(name)) in left:
            left[group] -= 1
        if shares[name] < demand:
            heapq.heapreplace(poorest, ((shares[name] + 1) / weight, name))
        else:
            heapq.heappop(poorest)
    return shares


def _whole(capacity: float, running: int) -> int:
    """Cores that can be leased of a capacity, of which so many workers run already."""
    return max(math.floor(capacity + _ROUND_UP), min(running, math.floor(capacity + _KEEP)))


class LeaseTable:
    """The leases of all balancers."""

    def __init__(self, lease: float = LEASE_SECONDS) -> None:
        self.lease = lease
        self.holders: dict[str, Holder] = {}
        self._needs: Mapping[str, tuple[float, float]] = {}
        self._shared = ""  # what the last sharing went by, in words

    def join(self, key: str, hello: Hello, now: float, machine: str | None = None) -> None:
        """A balancer says who it is; its earlier lease, if any, goes on.

        Not so with another session: then it has begun anew, or another one has taken its place. ``machine``
        is what it runs in, where the source knows that; else its name is.
        """
        known = self.holders.get(key)
        if known is not None and known.hello.session == hello.session:
            known.hello, known.heard = hello, now
        else:
            self.holders[key] = Holder(hello, now, Report(workers=1), 1)
        self.holders[key].machine = hello.name if machine is None else machine

    def report(self, key: str, report: Report, now: float) -> None:
        """A balancer says how it is.

        Raises:
            KeyError: it never said hello, or its lease has expired.
            ValueError: the reports' numbers run backwards (a machine that was set back to a snapshot).
        """
        holder = self.holders[key]
        if holder.hello.session and report.seq <= holder.report.seq:
            del self.holders[key]
            raise ValueError(f"report {report.seq} comes after report {holder.report.seq}")
        holder.report, holder.heard = report, now

    def leave(self, key: str) -> None:
        """A balancer has gone."""
        self.holders.pop(key, None)

    def used(self) -> dict[str, float]:
        """Cores that balancers' own workers use, by machine; these are not counted against them."""
        used: dict[str, float] = {}
        for holder in self.holders.values():
            used[holder.machine] = used.get(holder.machine, 0.0) + holder.report.busy
        return used

    def expire(self, now: float) -> list[str]:
        """Take back the leases of the silent; gives who they were."""
        silent = [key for key, holder in self.holders.items() if now - holder.heard > self.lease]
        for key in silent:
            del self.holders[key]
        return silent

    def settle(
        self,
        now: float,
        capacity: float,
        idle: float,
        usable: float = math.inf,
        bounds: Mapping[str, float] = MappingProxyType({}),
        needs: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    ) -> None:
        """Share anew.

        Args:
            now: seconds, monotonic.
            capacity: cores that the balancers may have all together (a fraction counts).
            idle: how many of them nobody uses, for the reason in words.
            usable: cores that exist; nobody gets more, whatever sources and balancers say.
            bounds: per machine the cores that its balancers may have; of all machines or of none.
            needs: per machine what it uses and what it would use if it were alone, for the grants.
        """
        self.expire(now)
        self._needs = needs
        capacity = min(capacity, usable)
        used = sum(holder.report.busy for holder in self.holders.values())
        running: dict[str, int] = {}
        for holder in self.holders.values():
            running[holder.machine] = running.get(holder.machine, 0) + holder.report.workers
        cores = _whole(capacity, sum(running.values()))
        most = {machine: _whole(bounds[machine], count) for machine, count in running.items() if bounds}
        groups = {key: holder.machine for key, holder in self.holders.items() if bounds}
        demands = {key: (holder.demand, holder.hello.weight) for key, holder in self.holders.items()}
        shares = share(cores, demands, groups, most)
        spare = max(0, cores - sum(shares.values()))
        for key, machine in groups.items():
            most[machine] -= shares[key]
        for key, holder in self.holders.items():
            holder.cores = shares[key]
            # Above its demand a balancer is told of idle cores, but they are leased when it asks.
            more = min(spare, holder.hello.max - holder.cores, most.get(groups.get(key, ""), spare))
            holder.idle = max(0, more)
        many = "s" if len(self.holders) != 1 else ""
        self._shared = (
            f"{idle:.2f} cores idle, {capacity:.2f} to share, {used:.2f} used by "
            f"{len(self.holders)} balancer{many}; "
        )

    def grant(self, key: str) -> Grant:
        """What a holder is told after `settle`."""
        holder = self.holders[key]
        reason = f"{self._shared}{holder.cores} leased to you"
        session, seq = holder.hello.session, holder.report.seq
        grant = Grant(holder.idle, holder.cores, self.lease, reason, session, seq)
        if holder.machine not in self._needs:
            return grant
        used, need = self._needs[holder.machine]
        waited = max(0.0, need - used)
        words = f"{reason}; your machine uses {used:.2f} cores and waits for {waited:.2f}"
        return replace(grant, reason=words, used=round(used, 3), waited=round(waited, 3))

    def tick(
        self,
        now: float,
        capacity: float,
        idle: float,
        usable: float = math.inf,
        bounds: Mapping[str, float] = MappingProxyType({}),
    ) -> dict[str, Grant]:
        """`settle`, and everybody's grant."""
        self.settle(now, capacity, idle, usable, bounds)
        return {key: self.grant(key) for key in self.holders}
