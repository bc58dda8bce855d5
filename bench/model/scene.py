"""The paper's set-ups in the model: costs calibrated from what was measured, and the model checked by it.

Calibration uses four numbers of three cells of ``figures.json`` (see `calibrate`); every other cell is for
validation.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from simpy import Environment

from bench.figure_drawing import Cells
from bench.model.machine import Cores, Costs, Process, Vm, spin
from bench.model.service import Balancer, Controller, closed_loop
from bench.rig.report import quantile
from bench.setups import ADAPTIVE, SETUPS, Setup
from pylb.scaling.policy import Tuning

CLIENTS = 250
CALIBRATED_FROM = {("2b", "1"), ("2c", "4"), ("2a", "4")}

SETTLE = 6.0
"""Seconds of load before adaptive is measured."""

Step = Callable[[str], None]
"""Is told what is simulated next."""


def word(count: int) -> str:
    """A number of workers as the results have it."""
    return "adaptive" if count == ADAPTIVE else str(count)


def measured(cells: Cells, key: str, count: str, what: str) -> float:
    """Median over the repetitions of a measured cell of pylb."""
    return float(cells[key][f"pylb {count}"][what]["median"])


def calibrate(cells: Cells) -> Costs:
    """The model's costs.

    - A worker that is alone on its core (2b, 1) is busy all the time: a core over its rate. What the
      machine used beyond that core is the control plane's.
    - Four workers on four cores with the web servers (2c, 4): what the workers left of the host went to
      the web servers.
    - Four workers on two cores (2a, 4): the rate that is missing is lost in slices that begin cold.
    """
    alone = measured(cells, "2b", "1", "rps")
    control = max(0.0, measured(cells, "2b", "1", "balancer_cores") - 1.0)
    web = (4.0 - measured(cells, "2c", "4", "balancer_cores")) / measured(cells, "2c", "4", "rps")
    crowded = measured(cells, "2a", "4", "rps") / (alone * (2 - control))
    return Costs(1 / alone, web, min(0.9, max(0.0, 1 - crowded)), control)


@dataclass
class Result:
    """What the clients saw, and what it took."""

    rps: float
    p50_ms: float
    p99_ms: float
    cores: float
    workers: float
    counts: list[tuple[float, int]] = field(default_factory=list, repr=False)


def held(counts: list[tuple[float, int]], begin: float, end: float) -> float:
    """Mean number of workers between two moments."""
    total = 0.0
    for (at, workers), after in zip(counts, [*(at for at, _ in counts[1:]), end], strict=True):
        total += workers * max(0.0, min(after, end) - max(at, begin))
    return total / (end - begin)


def run_setup(
    setup: Setup, count: int, costs: Costs, seconds: float, settle: float, tuning: Tuning | None = None
) -> Result:
    """One turn of one balancer in one of the paper's set-ups.

    Args:
        count: workers, or `ADAPTIVE`.
        seconds: of the measurement, after ``settle`` seconds of the same load.
    """
    env, chance = Environment(), random.Random(1)
    host = Cores(env, setup.cores)
    preferred, others = host, host
    if setup.preferred:
        preferred, others = Cores(env, setup.kept), Cores(env, setup.cores - setup.kept)

    def vm(name: str, vcpus: int, own: int | None = None) -> Vm:
        cores = preferred if name in setup.preferred else others
        return Vm(env, name, vcpus, cores, vcpus if own is None else own)

    webs = [vm(f"web-{number + 1}", vcpus) for number, vcpus in enumerate(setup.web)]
    servers = [Process(env, web, costs.cold) for web in webs for _ in range(web.vcpus.number)]
    machine = vm("pylb", setup.balancer, setup.own)
    vms = [*webs, machine]
    if setup.extra:
        vms.append(vm("extra", setup.extra))
        spin(env, vms[-1], setup.extra, costs.cold)
    controller = Controller(env, setup.cores, vms) if count == ADAPTIVE else None
    workers = None if count == ADAPTIVE else count
    limits = (1, setup.balancer)
    balancer = Balancer(env, machine, servers, costs, chance, workers, controller, limits, tuning)
    seen: list[tuple[float, float]] = []
    closed_loop(balancer, CLIENTS, env, seen)
    env.run(settle)
    del seen[:]
    used = machine.used
    env.run(settle + seconds)
    latencies = [latency for _, latency in seen]
    return Result(
        rps=len(seen) / seconds,
        p50_ms=1000 * quantile(latencies, 0.5),
        p99_ms=1000 * quantile(latencies, 0.99),
        cores=(machine.used - used) / seconds,
        workers=held(balancer.counts, settle, settle + seconds),
        counts=balancer.counts,
    )


@dataclass(frozen=True)
class Check:
    """A measured cell beside what the model says."""

    setup: str
    count: str
    calibrated: bool
    """The cell gave a cost, so it says nothing about the model."""
    rps: float
    model_rps: float
    p99_ms: float
    model_p99_ms: float
    cores: float
    model_cores: float

    @property
    def off(self) -> float:
        """Relative error of the rate."""
        return self.model_rps / self.rps - 1


def turns() -> list[tuple[Setup, int]]:
    """Set-ups and counts (`ADAPTIVE` too) that were measured."""
    return [(setup, count) for setup in SETUPS for count in (*setup.counts, ADAPTIVE)]


def check(cells: Cells, costs: Costs, step: Step) -> list[Check]:
    """Every measured cell of pylb."""
    found = []
    for setup, count in turns():
        key, name = setup.key, word(count)
        step(f"figure {key}, {name}")
        if f"pylb {name}" not in cells.get(key, {}):
            continue
        # Fixed counts: until each client has had about one answer.
        settle = SETTLE if count == ADAPTIVE else max(1.0, 1.2 * CLIENTS * costs.worker / count)
        result = run_setup(setup, count, costs, 4.0, settle)
        rps, p99, cores = (measured(cells, key, name, what) for what in ("rps", "p99_ms", "balancer_cores"))
        calibrated = (key, name) in CALIBRATED_FROM
        found.append(
            Check(key, name, calibrated, rps, result.rps, p99, result.p99_ms, cores, result.cores)
        )  # fmt: skip
    return found


def median_off(checks: list[Check], what: str = "rps") -> float:
    """Median absolute relative error over the cells that were not calibrated from."""
    free = [one for one in checks if not one.calibrated]
    return statistics.median(
        abs(float(getattr(one, f"model_{what}")) / float(getattr(one, what)) - 1) for one in free
    )
