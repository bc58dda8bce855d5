"""The policy's constants, tried on traces of load: one at a time, then a few together."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from simpy import Environment, Event

from bench.model.fleet import LATE
from bench.model.machine import SLICE, Cores, Costs, Process, Vm
from bench.model.scene import Step, held
from bench.model.service import Balancer, Controller, open_loop
from bench.rig.report import quantile
from pylb.scaling.policy import Tuning

SECONDS = 60.0
DRAIN = 10.0
"""Seconds after the trace in which the last requests may be answered."""
CORES, VCPUS, MOST = 8, 6, 6
"""The host; the balancer's machine, which owns one core of it; the most workers."""
WAKES, SLEEPS = 20.0, 40.0
"""When a neighbour needs 4 of the 8 cores, in the trace ``neighbour``."""
TOGGLES = 1.0
"""Seconds that it needs them and then doesn't, in the trace ``toggling``."""
WARM_UP = 10.0
"""Seconds at the trace's first level before it begins."""
COARSE = 8.0
"""Real requests that a simulated one stands for."""


def _noise(at: float) -> float:
    """Another level each half second, about the threshold of two workers."""
    return 1.0 + 1.2 * random.Random(int(at * 2)).random()


TRACES: dict[str, Callable[[float], float]] = {
    "steps": lambda at: 4.5 if int(at / 15) % 2 else 0.8,
    "sawtooth": lambda at: 0.5 + 4.0 * (at % 20) / 20,
    "noise": _noise,
    "day": lambda at: 2.5 - 2.0 * math.cos(2 * math.pi * at / SECONDS),
    "bursts": lambda at: 4.0 if at % 10 > 8 else 1.0,
    "neighbour": lambda at: 3.0,
    "toggling": lambda at: 4.5,
}
"""Offered load over time in workers' worth: 1 keeps one worker busy all the time."""

GRID: dict[str, tuple[float, ...]] = {
    "high": (0.6, 0.8, 0.9),
    "low": (0.4, 0.6),
    "grow_after": (0.5, 1.0),
    "shrink_after": (5.0, 20.0),
    "settle": (0.25, 1.0, 2.0),
    "step": (1.0, 2.0, 4.0),
    "credit": (0.0, 20.0),
}
TOGETHER = (
    {"high": 0.6, "low": 0.4},
    {"high": 0.8, "low": 0.6},
    {"grow_after": 0.5, "settle": 1.0},
    {"high": 0.8, "low": 0.6, "grow_after": 0.5, "settle": 1.0, "step": 1.0},
)
SEEDS = 3
"""Each trace is run with so many different visitors."""


@dataclass(frozen=True)
class Trial:
    """One set of constants on one trace. ``workers`` is the mean number; each holds a core's lease."""

    p99_ms: float
    late: float
    core_seconds: float
    workers: float
    changes_per_minute: float


@dataclass(frozen=True)
class Trials:
    """One set of constants, or a fixed count, on all traces."""

    name: str
    traces: dict[str, Trial]

    @property
    def p99_ms(self) -> float:
        """Geometric mean: every trace weighs the same."""
        return statistics.geometric_mean(trial.p99_ms for trial in self.traces.values())

    def mean(self, what: str) -> float:
        return statistics.fmean(getattr(trial, what) for trial in self.traces.values())


def run_trace(trace: str, costs: Costs, tuning: Tuning | None, fixed: int | None, seed: int = 1) -> Trial:
    """A minute of one balancer, two web servers and a neighbour that may sleep all the time."""
    env, chance, small = Environment(), random.Random(seed), costs.coarse(COARSE)
    cores = Cores(env, CORES)
    webs = [Vm(env, f"web-{part}", 2, cores, 1) for part in (1, 2)]
    servers = [Process(env, web, costs.cold) for web in webs for _ in range(2)]
    machine = Vm(env, "pylb", VCPUS, cores, 1)
    neighbour = Vm(env, "batch", 4, cores, 4)
    controller = Controller(env, CORES, [*webs, machine, neighbour])
    balancer = Balancer(env, machine, servers, small, chance, fixed, controller, (1, MOST), tuning)
    seen: list[tuple[float, float]] = []
    load = TRACES[trace]

    def rate(at: float) -> float:
        return load(max(0.0, at - WARM_UP)) / small.worker if at < WARM_UP + SECONDS else 0.0

    env.process(open_loop(balancer, rate, env, chance, seen))
    if trace == "neighbour":
        env.process(_awake(env, neighbour, costs.cold, WAKES, SLEEPS))
    if trace == "toggling":
        for wakes in range(0, int(SECONDS), int(2 * TOGGLES)):
            env.process(_awake(env, neighbour, costs.cold, wakes, wakes + TOGGLES))
    env.run(WARM_UP)
    del seen[:]
    used = machine.used
    end = WARM_UP + SECONDS
    env.run(end)
    core_seconds = machine.used - used
    env.run(end + DRAIN)
    latencies = [latency for _, latency in seen]
    latencies += [DRAIN] * (balancer.begun - balancer.answered)  # else who never answers looks fast
    return Trial(
        p99_ms=1000 * quantile(latencies, 0.99),
        late=sum(latency > LATE for latency in latencies) / len(latencies),
        core_seconds=core_seconds,
        workers=held(balancer.counts, WARM_UP, end),
        changes_per_minute=sum(WARM_UP < at <= end for at, _ in balancer.counts) * 60 / SECONDS,
    )


def _awake(
    env: Environment, vm: Vm, cold: float, wakes: float, sleeps: float
) -> Generator[Event, None, None]:
    """The neighbour needs all its vCPUs for a while."""
    yield env.timeout(WARM_UP + wakes)
    for _ in range(vm.vcpus.number):
        process = Process(env, vm, cold)

        def again(process: Process = process) -> None:
            if env.now < WARM_UP + sleeps:
                process.put(SLICE, again)

        again()


def settings() -> list[tuple[str, Tuning | None, int | None]]:
    """Name, constants, fixed number of workers; the present constants first."""
    present = Tuning()
    found: list[tuple[str, Tuning | None, int | None]] = [("present", present, None)]
    changes = [{name: value} for name, values in GRID.items() for value in values]
    for change in (*changes, *TOGETHER):
        name = ", ".join(f"{key} {value:g}" for key, value in change.items())
        found.append((name, replace(present, **change), None))
    return [*found, *((f"fixed {count}", None, count) for count in (2, 4, MOST))]


def _once(one: tuple[str, Costs, Tuning | None, int | None, int]) -> Trial:
    return run_trace(*one)


def _together(trials: Sequence[Trial]) -> Trial:
    """The seeds' mean; of p99 the geometric one, as over the traces."""
    means = {name: statistics.fmean(getattr(one, name) for one in trials) for name in Trial.__annotations__}
    return Trial(**means | {"p99_ms": statistics.geometric_mean(one.p99_ms for one in trials)})


def tune(
    costs: Costs, step: Step, traces: Sequence[str] = tuple(TRACES), seeds: int = SEEDS
) -> list[Trials]:
    """All settings on these traces, with the same visitors; a process per core."""
    runs = [
        (trace, costs, tuning, fixed, seed + 1)
        for _, tuning, fixed in settings()
        for trace in traces
        for seed in range(seeds)
    ]
    found = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        ended = pool.map(_once, runs)
        for name, _, _ in settings():
            on = {}
            for trace in traces:
                step(f"policy, {name}, {trace}")
                on[trace] = _together([next(ended) for _ in range(seeds)])
            found.append(Trials(name, on))
    return found
