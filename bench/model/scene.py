"""The paper's set-ups in the model, on hosts of any size, with costs calibrated from what was measured.

Calibration uses four numbers of three cells of ``figures.json`` (see `calibrate`); every other cell is for
validation.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field
from typing import Any

from simpy import Environment

from bench.model.machine import Cores, Costs, Process, Vm, spin
from bench.model.service import Balancer, Controller, closed_loop
from bench.setups import ADAPTIVE, Setup
from pylb.scaling.policy import Tuning

CLIENTS = 250
CALIBRATED_FROM = {("2b", "1"), ("2c", "4"), ("2a", "4")}

Runs = dict[str, dict[str, list[dict[str, Any]]]]


def measured(runs: Runs, key: str, count: str, what: str) -> float:
    """Median over the repetitions of a measured cell of pylb."""
    return float(statistics.median(run[what] for run in runs[key][f"pylb {count}"]))


def calibrate(runs: Runs) -> Costs:
    """The model's costs.

    - A worker that is alone on its core (2b, 1) is busy all the time: a core over its rate. What the
      machine used beyond that core is the control plane's.
    - Four workers on four cores with the web servers (2c, 4): what the workers left of the host went to
      the web servers.
    - Four workers on two cores (2a, 4): the rate that is missing is lost in slices that begin cold.
    """
    alone = measured(runs, "2b", "1", "rps")
    control = max(0.0, measured(runs, "2b", "1", "balancer_cores") - 1.0)
    web = (4.0 - measured(runs, "2c", "4", "balancer_cores")) / measured(runs, "2c", "4", "rps")
    crowded = measured(runs, "2a", "4", "rps") / (alone * (2 - control))
    return Costs(1 / alone, web, min(0.9, max(0.0, 1 - crowded)), control)


@dataclass
class Result:
    """What the clients saw, and what it took. Rates are of real requests."""

    rps: float
    p50_ms: float
    p99_ms: float
    cores: float
    workers: float
    settled: float = 0.0
    """Seconds until the last change of the number of workers before the measurement."""
    counts: list[tuple[float, int]] = field(default_factory=list, repr=False)


def quantile_ms(latencies: list[float], share: float) -> float:
    """Of latencies in seconds."""
    ordered = sorted(latencies)
    return 1000 * ordered[round(share * (len(ordered) - 1))] if ordered else 0.0


def held(counts: list[tuple[float, int]], begin: float, end: float) -> float:
    """Mean number of workers between two moments."""
    total = 0.0
    for (at, workers), after in zip(counts, [*(at for at, _ in counts[1:]), end], strict=True):
        total += workers * max(0.0, min(after, end) - max(at, begin))
    return total / (end - begin)


def run_setup(
    setup: Setup,
    count: int,
    costs: Costs,
    seconds: float,
    settle: float,
    times: int = 1,
    coarse: float = 1,
    seed: int = 1,
    tuning: Tuning | None = None,
) -> Result:
    """One turn of one balancer in one of the paper's set-ups.

    Args:
        count: workers, or `ADAPTIVE`.
        seconds: of the measurement, after ``settle`` seconds of the same load.
        times: how many times as large as in the paper everything is.
        coarse: real requests that one simulated request stands for.
    """
    env, chance, small = Environment(), random.Random(seed), costs.coarse(coarse)
    kept, total = setup.kept * times, setup.cores * times
    host = Cores(env, total)
    preferred, others = (Cores(env, kept), Cores(env, total - kept)) if setup.preferred else (host, host)

    def vm(name: str, vcpus: int, own: int | None = None) -> Vm:
        cores = preferred if name in setup.preferred else others
        return Vm(env, name, vcpus * times, cores, times * (vcpus if own is None else own))

    webs = [vm(f"web-{number + 1}", vcpus) for number, vcpus in enumerate(setup.web)]
    servers = [Process(env, web, costs.cold) for web in webs for _ in range(web.vcpus.number)]
    machine = vm("pylb", setup.balancer, setup.own)
    vms = [*webs, machine]
    if setup.extra:
        vms.append(vm("extra", setup.extra))
        spin(env, vms[-1], vms[-1].vcpus.number, costs.cold)
    controller = Controller(env, total, vms) if count == ADAPTIVE else None
    limits = (1, setup.balancer * times)
    workers = None if count == ADAPTIVE else count
    balancer = Balancer(env, machine, servers, small, chance, workers, controller, limits, tuning)
    seen: list[tuple[float, float]] = []
    closed_loop(balancer, max(1, round(CLIENTS * times / coarse)), env, seen)
    env.run(settle)
    del seen[:]
    used = machine.used
    env.run(settle + seconds)
    latencies = [latency for _, latency in seen]
    return Result(
        rps=len(seen) * coarse / seconds,
        p50_ms=quantile_ms(latencies, 0.5),
        p99_ms=quantile_ms(latencies, 0.99),
        cores=(machine.used - used) / seconds,
        workers=held(balancer.counts, settle, settle + seconds),
        settled=max(at for at, _ in balancer.counts if at <= settle),
        counts=balancer.counts,
    )
