"""Idleness as measured: per-CPU times of the kernel, smoothed. Knows this machine, and no balancer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from controller.sources.quota import usable_cores, whole_cores

HALF_LIFE = 0.7
"""Seconds after which a measurement counts half. Balancers smooth their own use so: the two are added up."""

_SHORTEST = 0.1
"""Seconds without which nothing is known yet: the kernel counts in hundredths."""
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_times(stat: Path = Path("/proc/stat")) -> dict[int, tuple[float, ...]]:
    """(idle, total, interrupts) seconds of every CPU that is online, since boot (man 5 proc).

    I/O wait is idle: the core is free. A guest's time is in user time already. Where the kernel doesn't tell
    (no ``/proc``), no core is known to be idle, and balancers don't grow.
    """
    times: dict[int, tuple[float, ...]] = {}
    try:
        lines = stat.read_bytes().splitlines()
    except OSError:
        return {}
    for line in lines:
        name, *words = line.split()
        if not name.startswith(b"cpu"):
            break
        if name != b"cpu":
            user, nice, system, idle, wait, irq, softirq, steal = (int(word) / _TICKS for word in words[:8])
            total = user + nice + system + idle + wait + irq + softirq + steal
            times[int(name[3:])] = idle + wait, total, irq + softirq
    return times


class MeasuredSource:
    """CPUs of the affinity mask that idle, within the cgroup's quota.

    Time in interrupts belongs to whoever causes them. It can be a quarter of a balancer's core (network), and
    is counted as its use, in proportion to what it uses of the time that is no interrupt's.

    Args:
        half_life: seconds after which a measurement counts half.
        read: gives (idle, total) seconds by CPU, and those in interrupts, for tests.
        usable: gives the cores that may be used, for tests.
    """

    name = "measured"

    def __init__(
        self,
        half_life: float = HALF_LIFE,
        read: Callable[[], Mapping[int, tuple[float, ...]]] = cpu_times,
        usable: Callable[[], float] = usable_cores,
        mask: Callable[[], set[int]] = lambda: os.sched_getaffinity(0),
    ) -> None:
        self._half_life = half_life
        self._read = read
        self._usable = usable
        self._mask = mask
        self._last = dict(read())
        self._last_time: float | None = None
        self._idle = dict.fromkeys(self._last, 0.0)
        self._interrupts = dict.fromkeys(self._last, 0.0)
        self._started = False
        self._new: set[int] = set()
        """CPUs that were not measured yet since one came."""

    def sample(self, now: float) -> None:
        times = dict(self._read())
        if times.keys() != self._last.keys():  # a CPU came or went
            # What is known stays until the next measurement: else all would look used for a moment. Where a
            # CPU came, that one then counts alone: who was busy before may run on the new CPU now.
            came = self._started and times.keys() - self._last.keys()
            self._new = set(times) if came else self._new & times.keys()
            self._last = times
            self._idle = {cpu: self._idle.get(cpu, 0.0) for cpu in times}
            self._interrupts = {cpu: self._interrupts.get(cpu, 0.0) for cpu in times}
            return
        elapsed = self._half_life if self._last_time is None else max(0.0, now - self._last_time)
        keep = 0.5 ** (elapsed / self._half_life) if self._started else 0.0
        moved = False
        for cpu, (idle, total, *more) in times.items():
            idle_before, total_before, *more_before = self._last[cpu]
            new = not self._started or cpu in self._new
            if total - total_before <= (_SHORTEST if new else 0.0):
                continue
            moved = True
            share = min(1.0, max(0.0, (idle - idle_before) / (total - total_before)))
            self._idle[cpu] = share if new else keep * self._idle[cpu] + (1 - keep) * share
            self._new.discard(cpu)
            if more and more_before:
                interrupts = min(1.0 - share, max(0.0, (more[0] - more_before[0]) / (total - total_before)))
                before = self._interrupts[cpu]
                self._interrupts[cpu] = interrupts if new else keep * before + (1 - keep) * interrupts
        if moved:
            self._last, self._last_time, self._started = times, now, True

    def idle(self) -> float:
        if not self._started:
            return 0.0
        return sum(self._idle[cpu] for cpu in self._mask() & self._idle.keys())

    def capacity(self, used: Mapping[str, float]) -> float:
        # How much of a core is idle may be rounded by whoever shares it out; what a quota allows is known.
        theirs = self._with_interrupts(sum(used.values()))
        return min(self.idle() + theirs, float(whole_cores(self.usable())))

    def _with_interrupts(self, used: float) -> float:
        """What balancers use, with the part of the interrupts' time that falls to them."""
        mask = self._mask() & self._idle.keys()
        interrupts = sum(self._interrupts[cpu] for cpu in mask)
        processes = len(mask) - sum(self._idle[cpu] for cpu in mask) - interrupts
        return used + interrupts * min(1.0, used / processes) if processes > 0 else used

    def usable(self) -> float:
        return self._usable()

    def per_cpu(self) -> list[float]:
        return [round(self._idle.get(cpu, 0.0), 3) for cpu in range(max(self._idle, default=-1) + 1)]
