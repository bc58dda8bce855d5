"""Simulated hosts: cores, virtual machines that queue for them, processes that have work.

Times are in seconds, simulated. A process runs on one core at a time. Where a machine has more runnable
processes than vCPUs, each begins its slices with cold caches and loses a part of them: that is what makes
more processes than cores slower (paper, figure 2a). The part grows to `Costs.cold` at two processes for each
vCPU and no further, because the kernel's slices get no shorter. Machines that take turns on the host's cores
cost each other nothing: so it was measured in the set-ups with more vCPUs than cores. The next core goes to
the machine, and the next vCPU to the process, that has used least lately, as Linux and Xen do it.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from simpy import Environment, Event

SLICE = 0.004
"""Seconds for which a process keeps its core when others wait for it."""
MEMORY = 0.1
"""Seconds over which schedulers are fair: older use is forgotten exponentially."""


@dataclass(frozen=True)
class Costs:
    """CPU seconds that were measured; see `calibration.py`."""

    worker: float
    """A pylb worker's per request with a connection of its own."""
    web: float
    """A web server's per request."""
    cold: float
    """The part of its CPU time that a process loses where there are two or more for each vCPU."""
    control: float
    """Cores that the balancer's other processes (supervisor, control plane) use."""

    def coarse(self, requests: float) -> Costs:
        """One simulated request that stands for so many real ones."""
        return replace(self, worker=self.worker * requests, web=self.web * requests)


class Recent:
    """CPU time used lately, by which schedulers decide who is next."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._at = 0.0

    def add(self, now: float, seconds: float) -> None:
        self._seconds = self._seconds * math.exp((self._at - now) / MEMORY) + seconds
        self._at = now

    @property
    def turn(self) -> float:
        """Lower is sooner; the order of two doesn't change while neither runs (it is a logarithm)."""
        return math.log(self._seconds) + self._at / MEMORY if self._seconds else -math.inf


class Cores:
    """So many cores, and who waits for one."""

    def __init__(self, env: Environment, number: int) -> None:
        self.number = number
        self.free = number
        self._env = env
        self._waiting: list[tuple[float, int, Event]] = []
        self._tickets = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def due(self, turn: float) -> bool:
        """Whether somebody waits who comes before ``turn``."""
        return bool(self._waiting) and self._waiting[0][0] < turn

    def take(self, turn: float) -> Event | None:
        """None: a core is free, and taken. Else wait for the event; the lowest ``turn`` is next."""
        if self.free:
            self.free -= 1
            return None
        event = self._env.event()
        self._tickets += 1
        heapq.heappush(self._waiting, (turn, self._tickets, event))
        return event

    def give(self) -> None:
        """Let a core go."""
        if self._waiting:
            heapq.heappop(self._waiting)[2].succeed()
        else:
            self.free += 1


class Vm:
    """A virtual machine on cores that it shares with others."""

    def __init__(self, env: Environment, name: str, vcpus: int, cores: Cores, own: int) -> None:
        self.name = name
        self.own = own
        self.cores = cores
        self.vcpus = Cores(env, vcpus)
        self.used = 0.0
        """CPU seconds."""
        self.recent = Recent()


class Process:
    """A single-threaded process: pieces of work in the order in which they came."""

    def __init__(self, env: Environment, vm: Vm, cold: float) -> None:
        self.cpu = 0.0
        """Seconds used."""
        self.waited = 0.0
        """Seconds in which it could have run, but had no core."""
        self.queue: deque[tuple[float, Callable[[], None] | None]] = deque()
        self.running = False
        self._recent = Recent()
        self._env = env
        self._vm = vm
        self._cold = cold
        self._wake: Event | None = None
        self._since: float | None = None
        env.process(self._run())

    def put(self, cost: float, then: Callable[[], None] | None = None) -> None:
        """Work of so many CPU seconds, and what to do when it's done."""
        self.queue.append((cost, then))
        if self._wake is not None:
            self._wake.succeed()
            self._wake = None

    def times(self) -> tuple[float, float]:
        """CPU and waiting seconds up to now."""
        going = 0.0 if self._since is None else self._env.now - self._since
        return (self.cpu + going, self.waited) if self.running else (self.cpu, self.waited + going)

    def _run(self) -> Generator[Event, None, None]:
        env, vm, queue = self._env, self._vm, self.queue
        while True:
            if not queue:
                self._wake = env.event()
                yield self._wake
            self._since = began = env.now
            if (vcpu := vm.vcpus.take(self._recent.turn)) is not None:
                yield vcpu
            if (core := vm.cores.take(vm.recent.turn)) is not None:
                yield core
            self.waited += env.now - began
            self.running = True
            while queue:
                self._since = begin = env.now
                end = begin + SLICE
                if vm.vcpus.waiting:
                    crowd = min(1.0, vm.vcpus.waiting / vm.vcpus.number)
                    yield env.timeout(self._cold * SLICE * crowd)
                while queue and (left := end - env.now) > 1e-9:
                    cost, then = queue.popleft()
                    if cost > left:
                        yield env.timeout(left)
                        queue.appendleft((cost - left, then))
                        break
                    yield env.timeout(cost)
                    if then is not None:
                        then()
                self._account(env.now - begin)
                if vm.vcpus.due(self._recent.turn) or vm.cores.due(vm.recent.turn):
                    break
            self.running = False
            self._since = None
            vm.cores.give()
            vm.vcpus.give()

    def _account(self, seconds: float) -> None:
        """So much was used in a slice that ends now."""
        now = self._env.now
        self.cpu += seconds
        self._since = now
        self._recent.add(now, seconds)
        self._vm.used += seconds
        self._vm.recent.add(now, seconds)


def spin(env: Environment, vm: Vm, loops: int, cold: float) -> list[Process]:
    """Processes that always have work."""
    processes = [Process(env, vm, cold) for _ in range(loops)]
    for process in processes:
        process.put(math.inf)
    return processes
