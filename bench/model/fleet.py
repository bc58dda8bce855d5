"""Several balancers on one host that share one controller: does one of them starve?"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from simpy import Environment

from bench.model.machine import Cores, Costs, Process, Vm
from bench.model.scene import Step, held
from bench.model.service import Balancer, Controller, open_loop
from bench.rig.report import quantile

LATE = 0.1
"""Seconds above which a response is counted as late."""
FLEETS = ((16, 2), (16, 4), (16, 8), (64, 4), (64, 8))
"""Cores of the host, and balancers on it."""
PERIOD, WARM_UP = 40.0, 20.0


@dataclass(frozen=True)
class Fleet:
    """Several balancers on one host, over one period of their loads."""

    host: int
    balancers: int
    variant: str
    each: str
    """Workers that each may have."""
    p50_ms: float
    p99_ms: float
    late: float
    """Share of the responses after more than `LATE` seconds."""
    unanswered: float
    """Share of the period's requests that were not answered within it."""
    cores: float
    """Used by all balancers, mean."""
    workers: float
    """Of all balancers, mean."""
    changes_per_minute: float


def fleet(costs: Costs, host: int, number: int, variant: str, seed: int = 1) -> Fleet:
    """Balancers whose loads are sine waves with shifted phases; all together need six tenths of the host.

    Args:
        variant: ``adaptive`` (one controller), ``even`` (fixed: the host's cores by the number of
            balancers) or ``most`` (fixed: as many workers as adaptive may have).
    """
    coarse = host / 2
    env, chance, small = Environment(), random.Random(seed), costs.coarse(coarse)
    cores = Cores(env, host)
    webs = [Vm(env, f"web-{part}", host // 8, cores, host // 8) for part in (1, 2)]
    servers = [Process(env, web, costs.cold) for web in webs for _ in range(host // 8)]
    theirs = host * costs.worker / (costs.worker + costs.web)
    most = min(host // 2, 2 * host // number)
    machines = [Vm(env, f"pylb-{one}", most, cores, 1) for one in range(number)]
    controller = Controller(env, host, [*webs, *machines])
    seen: list[tuple[float, float]] = []
    even = max(1, round(theirs / number))
    balancers = []
    for one, vm in enumerate(machines):
        workers = {"adaptive": None, "even": even, "most": most}[variant]
        balancer = Balancer(env, vm, servers, small, chance, workers, controller, (1, most))
        balancers.append(balancer)

        def rate(at: float, phase: float = one / number) -> float:
            wave = 1 + 0.8 * math.sin(2 * math.pi * (at / PERIOD + phase))
            return 0.6 * theirs / number / small.worker * wave

        env.process(open_loop(balancer, rate, env, chance, seen))
    env.run(WARM_UP)
    del seen[:]
    used, begun = sum(vm.used for vm in machines), sum(one.begun for one in balancers)
    env.run(WARM_UP + PERIOD)
    latencies = [latency for _, latency in seen]
    end = WARM_UP + PERIOD
    asked = sum(one.begun for one in balancers) - begun
    changes = sum(at > WARM_UP for one in balancers for at, _ in one.counts)
    return Fleet(
        *(host, number, variant, f"1..{most}" if variant == "adaptive" else str(workers)),
        p50_ms=1000 * quantile(latencies, 0.5),
        p99_ms=1000 * quantile(latencies, 0.99),
        late=sum(latency > LATE for latency in latencies) / len(latencies),
        unanswered=max(0.0, 1 - len(latencies) / asked),
        cores=(sum(vm.used for vm in machines) - used) / PERIOD,
        workers=sum(held(one.counts, WARM_UP, end) for one in balancers),
        changes_per_minute=changes / number / PERIOD * 60,
    )


def fleets(costs: Costs, step: Step) -> list[Fleet]:
    """All of them."""
    found = []
    for host, number in FLEETS:
        for variant in ("even", "most", "adaptive"):
            step(f"{number} balancers on {host} cores, {variant}")
            found.append(fleet(costs, host, number, variant))
    return found
