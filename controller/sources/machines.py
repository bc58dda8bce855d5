"""What virtual machines may use of a host's CPUs. Pure arithmetic: no I/O, time is passed in.

A reader (`controller.sources.procreader`, ...) gives `Facts`: counters that only grow. `Rates` makes cores of
them, smoothed. `may_use` says what balancers' machines may have beside the others: a machine *needs* what it
runs and what it waits for, at most its cap. (Of a neighbour that is starved, what it runs looks content.) The
machines' vCPUs flow over the CPUs that they are allowed; nobody gets less than it needs or than its
share by weight, whichever is smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_EPSILON = 1e-9
_PRECISION = 0.005  # cores


class VcpuFacts(NamedTuple):  # which is made in half the time of a frozen dataclass
    """Nanoseconds that a vCPU ran, and that it could have run and got no CPU; the CPUs that it may run on."""

    run: int
    wait: int
    cpus: frozenset[int]


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """``vcpus`` by a number that stays; ``cap`` in cores; ``weight`` as cpu.weight of cgroups has it.

    ``beside`` has the nanoseconds that the machine's process ran beside its vCPUs: its network and disks.
    """

    vcpus: Mapping[int, VcpuFacts]
    cap: float = math.inf
    weight: float = 100.0
    beside: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a reader saw at ``at`` (monotonic seconds); ``idle`` has each CPU's seconds of idleness so far."""

    at: float
    machines: Mapping[str, MachineFacts]
    idle: Mapping[int, float]


class Vcpu(NamedTuple):
    """What it runs and waits now, in cores."""

    run: float
    wait: float
    cpus: frozenset[int]


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine now."""

    vcpus: Sequence[Vcpu]
    cap: float = math.inf
    weight: float = 100.0
    beside: float = 0.0
    """Cores that its process uses beside the vCPUs."""

    @property
    def run(self) -> float:
        """Cores that its vCPUs use."""
        return sum(vcpu.run for vcpu in self.vcpus)

    @property
    def need(self) -> float:
        """Cores that it would use if it were alone."""
        return min(self.cap, sum(min(1.0, vcpu.run + vcpu.wait) for vcpu in self.vcpus))


class Rates:
    """Differences of facts, smoothed: a measurement counts half after ``half_life`` seconds."""

    def __init__(self, half_life: float) -> None:
        self.machines: dict[str, Machine] = {}
        self.idle: dict[int, float] = {}
        self._half_life = half_life
        self._last: Facts | None = None
        self._vcpus: dict[tuple[str, int], Vcpu] = {}

    def take(self, facts: Facts) -> None:
        """Facts that are no newer than the last ones change nothing."""
        last = self._last
        if last is None:
            self._last = facts
            return
        elapsed = facts.at - last.at
        if elapsed <= 0:
            return
        self._last = facts
        keep = 0.5 ** (elapsed / self._half_life)

        new, nanoseconds = 1 - keep, 1e9 * elapsed
        idle: dict[int, float] = {}
        for cpu, seconds in facts.idle.items():
            if cpu in last.idle:
                share = min(1.0, max(0.0, (seconds - last.idle[cpu]) / elapsed))
                idle[cpu] = keep * self.idle.get(cpu, share) + new * share
        self.idle = idle
        machines: dict[str, Machine] = {}
        seen: dict[tuple[str, int], Vcpu] = {}
        for name, machine in facts.machines.items():
            known = last.machines.get(name)
            vcpus = []
            for number, vcpu in machine.vcpus.items():
                before = known.vcpus.get(number) if known is not None else None
                if before is None:  # has just come: nothing is known of it
                    vcpus.append(Vcpu(0.0, 0.0, vcpu.cpus))
                    continue
                run = min(1.0, max(0.0, (vcpu.run - before.run) / nanoseconds))
                wait = min(1.0, max(0.0, (vcpu.wait - before.wait) / nanoseconds))
                if (was := self._vcpus.get((name, number))) is not None:
                    run, wait = keep * was.run + new * run, keep * was.wait + new * wait
                now = seen[name, number] = Vcpu(run, wait, vcpu.cpus)
                vcpus.append(now)
            beside = self._beside(name, machine, known, elapsed, keep)
            machines[name] = Machine(vcpus, machine.cap, machine.weight, beside)
        self._vcpus = seen
        self.machines = machines

    def _beside(
        self, name: str, machine: MachineFacts, before: MachineFacts | None, elapsed: float, keep: float
    ) -> float:
        now = 0.0 if before is None else max(0.0, (machine.beside - before.beside) / 1e9 / elapsed)
        known = self.machines.get(name)
        return now if known is None else keep * known.beside + (1 - keep) * now


class _Host:
    """The host's CPUs, grouped by the masks that they belong to: those that nothing tells apart are one."""

    def __init__(self, cpus: frozenset[int], masks: Sequence[frozenset[int]]) -> None:
        groups: dict[frozenset[int], int] = {}
        for cpu in cpus:
            member = frozenset(number for number, mask in enumerate(masks) if cpu in mask)
            groups[member] = groups.get(member, 0) + 1
        groups.pop(frozenset(), None)
        self.sizes = [float(size) for size in groups.values()]
        self._allowed = [
            [group for group, member in enumerate(groups) if number in member] for number in range(len(masks))
        ]
        self._narrow_first = sorted(range(len(masks)), key=lambda number: len(self._allowed[number]))

    def flow(self, wants: Sequence[float]) -> float:
        """The most cores that can be used at once when ``wants[i]`` are wanted on the CPUs of mask *i*."""
        if len(self.sizes) == 1:
            return min(self.sizes[0], sum(want for want, on in zip(wants, self._allowed, strict=True) if on))
        left = list(self.sizes)
        placed = [[0.0] * len(left) for _ in wants]
        # Those with little choice first: that places nearly all.
        more: list[tuple[int, float]] = []
        for number in self._narrow_first:
            want = wants[number]
            for group in self._allowed[number]:
                if want > _EPSILON and left[group] > _EPSILON:
                    moved = min(want, left[group])
                    placed[number][group] = moved
                    left[group] -= moved
                    want -= moved
            if want > _EPSILON:
                more.append((number, want))
        for number, want in more:
            while want > _EPSILON and any(room > _EPSILON for room in left):
                way = self._way(number, left, placed)
                if way is None:
                    break
                want -= self._push(way, want, left, placed)
        return sum(self.sizes) - sum(left)

    def _way(self, start: int, left: list[float], placed: list[list[float]]) -> list[tuple[int, int]] | None:
        """A way to a group with room, moving others aside: pairs (mask, the group it takes)."""
        came: dict[int, tuple[int, int | None]] = {}  # per group who takes it, and what that one gives up
        queue: list[tuple[int, int | None]] = [(start, None)]
        for mask, behind in queue:
            for group in self._allowed[mask]:
                if group in came:
                    continue
                came[group] = mask, behind
                if left[group] > _EPSILON:
                    way: list[tuple[int, int]] = []
                    at: int | None = group
                    while at is not None:
                        taker, before = came[at]
                        way.append((taker, at))
                        at = before
                    return way[::-1]
                queue += [(other, group) for other, row in enumerate(placed) if row[group] > _EPSILON]
        return None

    @staticmethod
    def _push(way: list[tuple[int, int]], want: float, left: list[float], placed: list[list[float]]) -> float:
        amount = min(want, left[way[-1][1]])
        for (_, group), (other, _) in zip(way, way[1:], strict=False):
            amount = min(amount, placed[other][group])
        for step, (mask, group) in enumerate(way):
            placed[mask][group] += amount
            if step + 1 < len(way):
                placed[way[step + 1][0]][group] -= amount
        left[way[-1][1]] -= amount
        return amount


def may_use(
    mine: Sequence[Machine], others: Sequence[Machine], cpus: frozenset[int], host: float = 0.0
) -> float:
    """Cores that the machines ``mine`` may use together.

    Args:
        others: machines that are no balancers'; their needs, up to their shares by weight, are kept free.
        cpus: of the host.
        host: cores that the host itself uses, on whichever CPU.
    """
    masks: dict[frozenset[int], int] = {}
    number: dict[frozenset[int], int] = {}  # of the mask of the host's CPUs among these
    for machine in (*mine, *others):
        for vcpu in machine.vcpus:
            if vcpu.cpus not in number:
                number[vcpu.cpus] = masks.setdefault(vcpu.cpus & cpus, len(masks))
    masks.setdefault(cpus, len(masks))
    sizes = [float(len(mask)) for mask in masks]
    network = _Host(cpus, list(masks))
    wants = [0.0] * len(masks)
    for machine in mine:
        part = min(1.0, machine.cap / len(machine.vcpus)) if machine.vcpus else 0.0
        for vcpu in machine.vcpus:
            wants[number[vcpu.cpus]] += part
    needs: list[tuple[float, float, list[tuple[int, float]]]] = []
    for machine in others:
        parts: dict[int, float] = {}
        for run, wait, allowed in machine.vcpus:
            if sizes[at := number[allowed]]:
                parts[at] = min(sizes[at], parts.get(at, 0.0) + min(1.0, run + wait))
        whole = sum(parts.values())
        need = min(machine.cap, whole)
        if need > _EPSILON:
            needs.append((need, machine.weight, [(at, part / whole) for at, part in parts.items()]))
    weight = sum(machine.weight for machine in mine)

    def left(taken: float) -> float:
        """What is left when nobody else gets less than it needs, or than its share beside ``taken``."""
        kept = [0.0] * len(masks)
        kept[masks[cpus]] = host
        for need, other_weight, shares in needs:
            most = min(need, taken * other_weight / weight)
            for at, share in shares:
                kept[at] += most * share
        both = [keeps + wanted for keeps, wanted in zip(kept, wants, strict=True)]
        return network.flow(both) - network.flow(kept)

    low, high = 0.0, min(sum(wants), float(len(cpus)))
    if not wants or high <= 0 or left(high) >= high - _EPSILON:
        return high
    while high - low > _PRECISION:
        middle = (low + high) / 2
        if left(middle) >= middle:
            low = middle
        else:
            high = middle
    return low
