"""Which machines have preference, which get another vCPU, and why. Pure: no I/O, time is passed in.

As the paper's figure 4: the cores that machines compete for go by preference to the balancer (its *L*), or to
the balancer and machines that are named with it (*L/W*: its web servers; *L/A*: any others).

A machine has preference from its balancer's first report of pressure until the balancer has been calm for
`CALM` seconds, or its lease ends. Calm is who reports no pressure *and* whose machine uses no more than it
got without preference: else preference itself would end the pressure, and come and go. It is given at most
once in `EVERY` seconds to each machine: whoever comes and goes, or says so, can't make the host do more.
Taking it back never waits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

CALM = 3.0
"""Seconds without pressure after which preference ends."""
SLACK = 0.1
"""Cores by which a machine may use more than it did before, and count as calm."""
EVERY = 3.0
"""Seconds between two times at which the same machine is given preference."""
VCPU_AFTER = 0.5
"""Seconds of pressure after which a machine is given a vCPU."""
VCPU_EVERY = 2.0
"""Seconds between two times at which the same machine is given vCPUs."""
VCPU_CALM = 30.0
"""Seconds without pressure after which these vCPUs go offline again; that costs more than a weight does."""


@dataclass(frozen=True, slots=True)
class Balancer:
    """A balancer as its last report and its lease say.

    ``pressure`` is the number of cores that its ``workers`` could use; ``cores`` is what is leased to it or
    idle for it; ``used`` and ``waited`` are its machine's cores, by the host.
    """

    machine: str
    name: str
    workers: int
    pressure: float
    cores: int
    used: float = 0.0
    waited: float = 0.0

    @property
    def pressed(self) -> bool:
        """Whether it could use more than its workers give it."""
        return self.pressure > self.workers


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be so.

    ``preferred`` has the reason by machine, ``ended`` why a machine has preference no more; ``vcpus`` how
    many vCPUs a machine is to have online at least.
    """

    preferred: Mapping[str, str] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    vcpus: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Case:
    """What is known of one balancer's machine."""

    pressed_since: float | None = None
    pressed_at: float = -math.inf
    preferred: bool = False
    given_at: float = -math.inf
    had: float = 0.0
    """Cores that its machine used when it was given preference."""
    reason: str = ""
    """Why it has preference, or why it has it no more."""
    vcpus: int = 0
    vcpus_at: float = -math.inf


@dataclass(slots=True)
class Policy:
    """Remembers who was pressed when.

    ``together`` has the machines that have preference with a balancer's machine.
    """

    together: Mapping[str, Collection[str]] = field(default_factory=dict)
    _cases: dict[str, _Case] = field(default_factory=dict)

    def decide(self, now: float, balancers: Iterable[Balancer]) -> Wanted:
        """What is wanted at ``now`` (monotonic seconds) with these balancers, all that hold a lease."""
        by_machine: dict[str, list[Balancer]] = {}
        for balancer in balancers:
            by_machine.setdefault(balancer.machine, []).append(balancer)
        for machine, those in by_machine.items():
            pressed = max((one for one in those if one.pressed), key=lambda one: one.pressure, default=None)
            case = self._cases.setdefault(machine, _Case())
            if case.preferred and max(one.used for one in those) > case.had + SLACK:
                case.pressed_at = now  # without preference it would be under pressure again
            if pressed is None:
                self._calm(now, case, "" if now - case.pressed_at < CALM else f"calm for {CALM:g} s")
            else:
                self._pressed(now, case, pressed)
        for machine in self._cases.keys() - by_machine.keys():
            self._calm(now, self._cases[machine], "its balancer's lease has ended")
            if now - self._cases[machine].pressed_at >= VCPU_CALM:
                del self._cases[machine]
        preferred: dict[str, str] = {}
        ended: dict[str, str] = {}
        for wants in (True, False):  # a machine that is named with two has preference with either
            for machine, case in self._cases.items():
                if case.preferred is wants:
                    reasons = preferred if wants else ended
                    reasons[machine] = case.reason
                    for other in self.together.get(machine, ()):
                        reasons.setdefault(other, f"together with machine {machine!r}: {case.reason}")
        vcpus = {machine: case.vcpus for machine, case in self._cases.items() if case.vcpus}
        return Wanted(preferred, ended, vcpus)

    @staticmethod
    def _calm(now: float, case: _Case, over: str) -> None:
        """No pressure; ``over`` says why preference ends, if it does."""
        case.pressed_since = None
        if over and case.preferred:
            case.preferred, case.reason = False, over
        if now - case.pressed_at >= VCPU_CALM:
            case.vcpus = 0

    @staticmethod
    def _pressed(now: float, case: _Case, balancer: Balancer) -> None:
        if case.pressed_since is None:
            case.pressed_since = now
        case.pressed_at = now
        if not case.preferred and now - case.given_at >= EVERY:
            case.preferred, case.given_at, case.reason = True, now, reason(balancer)
            case.had = balancer.used
        wanted = min(balancer.cores, math.ceil(balancer.pressure))
        due = now - case.pressed_since >= VCPU_AFTER and now - case.vcpus_at >= VCPU_EVERY
        if due and wanted > max(balancer.workers, case.vcpus):
            case.vcpus, case.vcpus_at = wanted, now


def reason(balancer: Balancer) -> str:
    """Why, in words."""
    workers = f"{balancer.workers} worker{'s' if balancer.workers != 1 else ''}"
    return (
        f"balancer {balancer.name!r} has {workers} and could use {balancer.pressure:.1f} cores; the machine "
        f"uses {balancer.used:.2f} and waits for {balancer.waited:.2f}"
    )
