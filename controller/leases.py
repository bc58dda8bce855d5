"""Who may use how many cores: lease arithmetic, without I/O and without a clock (time is passed in).

The cores to share are those that are idle plus those that the balancers' own workers use. Every balancer
has its ``min`` whatever happens; what is left is shared by weighted max-min fairness on what each asks for
(its *demand*: one core more than it uses while it is under pressure). A core is never leased twice: the
leases' sum is at most what there is to share, unless the minimums alone exceed it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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

    @property
    def demand(self) -> int:
        """Workers it could use now, from its own report."""
        wanted = math.ceil(max(self.report.pressure, self.report.busy) - 1e-9)
        return max(self.hello.min, min(self.hello.max, wanted))


def share(capacity: int, demands: Mapping[str, tuple[int, int, float]]) -> dict[str, int]:
    """Weighted max-min fair shares of whole cores.

    Args:
        capacity: cores to share.
        demands: per name the minimum, the demand (at least the minimum) and the weight.

    Gives per name at least its minimum and at most its demand. One core at a time goes to whoever has
    least for its weight and still wants more, which is max-min fairness for indivisible cores.
    """
    shares = {name: least for name, (least, _, _) in demands.items()}
    left = capacity - sum(shares.values())
    wanting = {name for name, (_, demand, _) in demands.items() if shares[name] < demand}
    while left > 0 and wanting:
        poorest = min(wanting, key=lambda name: ((shares[name] + 1) / demands[name][2], name))
        shares[poorest] += 1
        left -= 1
        if shares[poorest] >= demands[poorest][1]:
            wanting.discard(poorest)
    return shares


class LeaseTable:
    """The leases of all balancers."""

    def __init__(self, lease: float = LEASE_SECONDS) -> None:
        self.lease = lease
        self.holders: dict[str, Holder] = {}

    def join(self, key: str, hello: Hello, now: float) -> None:
        """A balancer says who it is; its earlier lease, if any, goes on."""
        known = self.holders.get(key)
        if known is not None:
            known.hello, known.heard = hello, now
        else:
            report = Report(workers=hello.min, busy=0.0, pressure=0.0)
            self.holders[key] = Holder(hello, now, report, hello.min)

    def report(self, key: str, report: Report, now: float) -> None:
        """A balancer says how it is.

        Raises:
            KeyError: it never said hello, or its lease has expired.
        """
        holder = self.holders[key]
        holder.report, holder.heard = report, now

    def leave(self, key: str) -> None:
        """A balancer has gone."""
        self.holders.pop(key, None)

    def used(self) -> dict[str, float]:
        """Cores that each balancer's own workers use, by its name; these are not counted against it."""
        used: dict[str, float] = {}
        for holder in self.holders.values():
            used[holder.hello.name] = used.get(holder.hello.name, 0.0) + holder.report.busy
        return used

    def expire(self, now: float) -> list[str]:
        """Take back the leases of the silent; gives who they were."""
        silent = [key for key, holder in self.holders.items() if now - holder.heard > self.lease]
        for key in silent:
            del self.holders[key]
        return silent

    def tick(self, now: float, capacity: float, idle: float) -> dict[str, Grant]:
        """Share anew.

        Args:
            now: seconds, monotonic.
            capacity: cores that the balancers may have all together (a fraction counts).
            idle: how many of them nobody uses, for the reason in words.
        """
        self.expire(now)
        used = sum(self.used().values())
        running = sum(holder.report.workers for holder in self.holders.values())
        cores = max(math.floor(capacity + _ROUND_UP), min(running, math.floor(capacity + _KEEP)))
        demands = {
            key: (holder.hello.min, holder.demand, holder.hello.weight)
            for key, holder in self.holders.items()
        }
        shares = share(cores, demands)
        spare = max(0, cores - sum(shares.values()))
        grants = {}
        for key, holder in self.holders.items():
            holder.cores = shares[key]
            # Above its demand a balancer is told of idle cores, but they are leased when it asks.
            more = min(spare, holder.hello.max - holder.cores)
            reason = (
                f"{idle:.2f} cores idle, {capacity:.2f} to share, {used:.2f} used by "
                f"{len(self.holders)} balancer{'s' if len(self.holders) != 1 else ''}; "
                f"{holder.cores} leased to you"
            )
            grants[key] = Grant(max(0, more), holder.cores, self.lease, reason)
        return grants
