"""What the model says: of the measured set-ups, of larger hosts, and of fleets that share a controller."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from simpy import Environment

from bench.model.machine import Cores, Costs, Process, Vm
from bench.model.scene import CALIBRATED_FROM, CLIENTS, Result, Runs, held, measured, quantile_ms, run_setup
from bench.model.service import Balancer, Controller, open_loop
from bench.setups import ADAPTIVE, SETUPS, Setup

LATE = 0.1
"""Seconds above which a response is counted as late."""
HOSTS = (4, 16, 64)
SETTLE = {4: 6.0, 16: 15.0, 64: 30.0}
"""Seconds of load before adaptive is measured: more workers take more steps."""
LARGER = ("2a", "2b", "2c", "3-4", "4-Base", "4-L")
"""The set-ups that are tried on larger hosts."""
COARSE = {4: 1, 16: 2, 64: 4}
"""Real requests that a simulated one stands for: more workers need more of them at a time."""
FLEETS = ((16, 2), (16, 4), (16, 8), (64, 4), (64, 8))
PERIOD, WARM_UP = 40.0, 20.0

Step = Callable[[str], None]


def word(count: int) -> str:
    """A number of workers as the results have it."""
    return "adaptive" if count == ADAPTIVE else str(count)


def turns(host: int) -> list[tuple[Setup, int]]:
    """Set-ups and counts (`ADAPTIVE` too) that are simulated on a host so many cores large."""
    times = host // 4
    found = []
    for setup in SETUPS:
        if times == 1 or setup.key in LARGER:
            counts = setup.counts if times == 1 else (1, *(count * times for count in setup.counts))
            found += [(setup, count) for count in (*counts, ADAPTIVE)]
    return found


def figures(costs: Costs, host: int, step: Step) -> dict[str, dict[str, Result]]:
    """The paper's set-ups on a host so many cores large (the paper's have 4, one has 5)."""
    times = host // 4
    found: dict[str, dict[str, Result]] = {}
    for setup, count in turns(host):
        step(f"{host} cores, figure {setup.key}, {word(count)}")
        # Fixed counts: until each client has had about one answer.
        settle = SETTLE[host] if count == ADAPTIVE else max(1.0, 1.2 * CLIENTS * times * costs.worker / count)
        seconds = 4.0 if times == 1 else 2.0
        result = run_setup(setup, count, costs, seconds, settle, times, COARSE[host])
        found.setdefault(setup.key, {})[word(count)] = result
    return found


@dataclass(frozen=True)
class Check:
    """A measured cell beside what the model says."""

    setup: str
    count: str
    calibrated: bool
    """The cell gave a cost, so it says nothing about the model."""
    rps: float
    model_rps: float
    p50_ms: float
    model_p50_ms: float
    p99_ms: float
    model_p99_ms: float
    cores: float
    model_cores: float
    workers: float
    model_workers: float

    @property
    def off(self) -> float:
        """Relative error of the rate."""
        return self.model_rps / self.rps - 1


def validate(runs: Runs, simulated: dict[str, dict[str, Result]]) -> list[Check]:
    """Every measured cell of pylb."""
    checks = []
    for key, results in simulated.items():
        for count, result in results.items():
            if f"pylb {count}" not in runs.get(key, {}):
                continue

            def of(what: str, key: str = key, count: str = count) -> float:
                return measured(runs, key, count, what)

            checks.append(
                Check(
                    *(key, count, (key, count) in CALIBRATED_FROM, of("rps"), result.rps),
                    *(of("p50_ms"), result.p50_ms, of("p99_ms"), result.p99_ms),
                    *(of("balancer_cores"), result.cores, of("workers"), result.workers),
                )
            )
    return checks


def median_off(checks: list[Check], what: str = "rps") -> float:
    """Median absolute relative error over the cells that were not calibrated from."""
    free = [one for one in checks if not one.calibrated]
    return statistics.median(
        abs(float(getattr(one, f"model_{what}")) / float(getattr(one, what)) - 1) for one in free
    )


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
        p50_ms=quantile_ms(latencies, 0.5),
        p99_ms=quantile_ms(latencies, 0.99),
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


def plain(value: Any) -> Any:
    """Dataclasses to JSON's types, numbers rounded."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return round(value, 4)
    return plain(asdict(value)) if hasattr(value, "__dataclass_fields__") else value
