"""A balancer in the model, and what surrounds it: clients, accept queues, web servers, the controller.

Policy, demand, steering's weights, lease table and the cgroups source are pylb's own code, called with
simulated times. Simulated are only those parts of the scaler and the supervisor which need real processes.
"""

from __future__ import annotations

import math
import random
import tempfile
from bisect import bisect
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from simpy import Environment, Event

from bench.model.machine import Costs, Process, Vm
from controller.leases import LeaseTable
from controller.protocol import Grant, Hello, Report
from controller.sources.cgroups import HALF_LIFE, CgroupSource
from pylb.net.steering import LOOK, Arrivals, weights_for
from pylb.scaling.policy import Inputs, Policy, Tuning, demand

TICK = 0.25
REPORT = 0.5
START = 0.2
"""Seconds from the decision until a new worker serves."""
BEFORE = 0.6
"""What part of a worker's CPU per request is spent before the web server has the request."""


class Controller:
    """The lease table over the cgroups source, which reads the simulated machines."""

    def __init__(self, env: Environment, cores: float, vms: Sequence[Vm]) -> None:
        self.table = LeaseTable()
        self.grants: dict[str, Grant] = {}
        self._env = env
        by_name = {vm.name: vm for vm in vms}
        with tempfile.TemporaryDirectory(prefix="pylb-model-") as name:
            folder = Path(name)
            for vm in vms:
                (folder / vm.name).mkdir()
                (folder / vm.name / "cpu.stat").touch()
            lines = [f'{vm.name} = {{ cgroup = "/{vm.name}", vcpus = {vm.own} }}\n' for vm in vms]
            file = folder / "vms.toml"
            file.write_text(f"cores = {cores}\n[vms]\n{''.join(lines)}")
            self._source = CgroupSource(str(file), folder, lambda counter: by_name[counter.parent.name].used)
        env.process(self._run())

    def _run(self) -> Generator[Event, None, None]:
        while True:
            self._source.sample(self._env.now)
            capacity = self._source.capacity(self.table.used())
            self.grants = self.table.tick(self._env.now, capacity, self._source.idle())
            yield self._env.timeout(TICK)


@dataclass(eq=False, slots=True)
class Worker:
    """A process with an accept queue."""

    process: Process
    held: int = 0
    """Connections that it has, accepted or not."""
    unaccepted: int = 0


@dataclass(eq=False, slots=True)
class _Request:
    balancer: Balancer
    due: float
    answered: Callable[[float], None]
    worker: Worker
    server: int = 0

    def to_server(self) -> None:
        balancer = self.balancer
        self.worker.unaccepted -= 1
        self.server = server = balancer.next_server()
        balancer.active[server] += 1
        balancer.servers[server].put(balancer.costs.web * balancer.vary(), self.back)

    def back(self) -> None:
        self.balancer.active[self.server] -= 1
        cost = self.balancer.costs.worker * (1 - BEFORE) * self.balancer.vary()
        self.worker.process.put(cost, self.done)

    def done(self) -> None:
        self.worker.held -= 1
        self.balancer.answered += 1
        self.answered(self.due)


class Balancer:
    """pylb in a machine: workers behind SO_REUSEPORT, and, without a fixed count, its scaling.

    Args:
        workers: a fixed number, or None for adaptive.
        controller: whose grants are followed when adaptive.
    """

    def __init__(
        self,
        env: Environment,
        vm: Vm,
        servers: Sequence[Process],
        costs: Costs,
        chance: random.Random,
        workers: int | None,
        controller: Controller | None = None,
        limits: tuple[int, int] = (1, 1),
        tuning: Tuning | None = None,
    ) -> None:
        self.vm = vm
        self.servers = servers
        self.active = [0] * len(servers)
        self.costs = costs
        self.begun = 0
        self.answered = 0
        self.counts: list[tuple[float, int]] = []
        """When the number of workers was set, and to what."""
        self.workers: list[Worker] = []
        self._env = env
        self._chance = chance
        self._arrivals = Arrivals()
        self._rest = Process(env, vm, costs.cold)
        self._tuning = tuning or Tuning()
        self.target = limits[0] if workers is None else workers
        for _ in range(self.target):
            self.workers.append(Worker(Process(env, vm, costs.cold)))
        self._weights: list[float] = list(range(1, self.target + 1))
        self.counts.append((env.now, self.target))
        self._policy = Policy(*limits, self._tuning)
        self._controller = controller if workers is None else None
        self._used = 0.0
        self._before: dict[Worker, tuple[float, float, float]] = {}
        if self._controller is not None:
            self._controller.table.join(vm.name, Hello(vm.name, *limits), env.now)
        env.process(self._run())
        env.process(self._steer())

    def vary(self) -> float:
        """Requests differ a little in what they cost."""
        return 0.5 + self._chance.random()

    def next_server(self) -> int:
        """leastconn, as in the measured set-ups."""
        least = min(self.active)
        first = self.answered % len(self.active)
        for number in range(first, first + len(self.active)):
            if self.active[number % len(self.active)] == least:
                return number % len(self.active)
        raise AssertionError("one has least")

    def connect(self, due: float, answered: Callable[[float], None]) -> None:
        """A client's connection with its request; ``answered`` is called with ``due`` at the response."""
        self.begun += 1
        self._queue(_Request(self, due, answered, self.workers[0]))

    def _queue(self, request: _Request) -> None:
        draw = self._chance.random() * self._weights[-1]
        request.worker = worker = self.workers[min(bisect(self._weights, draw), len(self.workers) - 1)]
        worker.held += 1
        worker.unaccepted += 1
        worker.process.put(self.costs.worker * BEFORE * self.vary(), request.to_server)

    def _run(self) -> Generator[Event, None, None]:
        next_report = 0.0
        while True:
            self._rest.put(self.costs.control * TICK)
            if self._controller is not None:
                next_report = self._scale(self._controller, next_report)
            yield self._env.timeout(TICK)

    def _steer(self) -> Generator[Event, None, None]:
        """As the supervisor does (`pylb/supervisor/spreading.py`)."""
        while True:
            self._arrivals.look(self.begun, self._env.now)
            held = {number: worker.held for number, worker in enumerate(self.workers)}
            self._weights = list(accumulate(weights_for(held, self._arrivals.rate).values()))
            yield self._env.timeout(LOOK)

    def _scale(self, controller: Controller, next_report: float) -> float:
        """One step of the scaler (`pylb/control/scaler.py`); gives when to report again."""
        now = self._env.now
        inputs = self._inputs(controller)
        keep = 0.5 ** (TICK / HALF_LIFE)
        self._used = keep * self._used + (1 - keep) * math.fsum(inputs.busy)
        decision = self._policy.decide(now, inputs)
        changed = decision.target != self.target
        if now >= next_report or changed:
            pressure = demand(replace(inputs, current=decision.target), self._tuning)
            report = Report(decision.target, self._used, pressure, accept_queue=inputs.accept_queue)
            controller.table.report(self.vm.name, report, now)
            next_report = now + REPORT
        if changed:
            self._set(decision.target)
        return next_report

    def _inputs(self, controller: Controller) -> Inputs:
        now = self._env.now
        busy, waiting = [], []
        for worker in self.workers:
            cpu, waited = worker.process.times()
            before = self._before.get(worker)
            self._before[worker] = (now, cpu, waited)
            if before is None or now - before[0] <= 0:
                busy.append(0.0)
                waiting.append(0.0)
                continue
            wall = now - before[0]
            busy.append(min(1.0, (cpu - before[1]) / wall))
            waiting.append(min(1.0 - busy[-1], (waited - before[2]) / wall))
        grant = controller.grants.get(self.vm.name)
        return Inputs(
            current=self.target,
            usable=self.vm.vcpus.number,
            granted=None if grant is None else grant.cores,
            idle=None if grant is None else grant.idle_cores,
            busy=busy,
            waiting=waiting,
            accept_queue=sum(worker.unaccepted for worker in self.workers),
        )

    def _set(self, target: int) -> None:
        before, self.target = self.target, target
        self.counts.append((self._env.now, target))
        if target > before:
            self._env.process(self._start(target))
        while len(self.workers) > target:
            self._leave(self.workers.pop())

    def _start(self, target: int) -> Generator[Event, None, None]:
        yield self._env.timeout(START)
        while len(self.workers) < min(target, self.target):
            self.workers.append(Worker(Process(self._env, self.vm, self.costs.cold)))
        self._weights = list(range(1, len(self.workers) + 1))

    def _leave(self, worker: Worker) -> None:
        """What it has not begun goes to the others; what it has, it finishes."""
        self._weights = list(range(1, len(self.workers) + 1))
        queue = worker.process.queue
        for _ in range(len(queue)):
            cost, then = queue.popleft()
            owner = getattr(then, "__self__", None)
            if isinstance(owner, _Request) and then == owner.to_server:
                worker.held -= 1
                worker.unaccepted -= 1
                self._queue(owner)
            else:
                queue.append((cost, then))


def closed_loop(balancer: Balancer, clients: int, env: Environment, seen: list[tuple[float, float]]) -> None:
    """Clients that each connect again when they have the response. ``seen`` gets when, and how long."""

    def answered(due: float) -> None:
        seen.append((env.now, env.now - due))
        balancer.connect(env.now, answered)

    for _ in range(clients):
        balancer.connect(env.now, answered)


def open_loop(
    balancer: Balancer,
    rate: Callable[[float], float],
    env: Environment,
    chance: random.Random,
    seen: list[tuple[float, float]],
) -> Generator[Event, None, None]:
    """Independent visitors, ``rate(t)`` per second, for ever (a simpy process)."""

    def answered(due: float) -> None:
        seen.append((env.now, env.now - due))

    while True:
        now = rate(env.now)
        gap = chance.expovariate(now) if now > 0 else math.inf
        yield env.timeout(min(gap, 0.1))
        if gap <= 0.1:  # else: the rate is looked at again
            balancer.connect(env.now, answered)
