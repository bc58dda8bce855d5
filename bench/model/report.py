"""The model's page and its JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.figure_drawing import repetitions
from bench.model.fleet import LATE, Fleet
from bench.model.machine import Costs
from bench.model.scene import Check, median_off
from bench.model.tuning import MOST, Trials
from bench.rig.report import in_words, write

SIMILAR = 0.05
"""Relative differences below this count as none: the load is random."""


def better(trials: list[Trials]) -> list[Trials]:
    """Settings that answer sooner than the present ones with no more workers, or as soon with fewer."""
    present = trials[0]
    found = []
    for one in trials[1:]:
        if one.name.startswith("fixed"):
            continue
        slower = one.p99_ms / present.p99_ms - 1
        more = one.mean("workers") / present.mean("workers") - 1
        if (slower < -SIMILAR and more < SIMILAR) or (slower < SIMILAR and more < -SIMILAR):
            found.append(one)
    return sorted(found, key=lambda one: one.p99_ms)


def _validation(checks: list[Check]) -> list[str]:
    free = [one for one in checks if not one.calibrated]
    worst = max(free, key=lambda one: abs(one.off))
    ratio = statistics.median(one.model_p99_ms / one.p99_ms for one in free)
    lines = [
        "## How much it is off",
        "",
        f"Over the {len(free)} measured cells that gave no cost: answered/s off by "
        f"**{median_off(checks):.1%}** (median of absolute errors; worst {worst.off:+.0%}, {worst.setup} "
        f"with {worst.count}), p99 by {median_off(checks, 'p99_ms'):.0%}, cores used by "
        f"{median_off(checks, 'cores'):.0%}.",
        "",
        f"The model's p99 is {ratio:.2f} of the measured one (median), probably "
        "since it has neither event loops that take requests in batches nor cores that come in slices of 2.5 "
        "of every 10 ms, and its machine does nothing else. That more processes than vCPUs cost "
        "something only within a machine, and "
        "no more from two for each vCPU on, was chosen with an earlier, smaller run of the figures in view. "
        "What shares the machine's caches and hyperthreads is not in it.",
        "",
        "| set-up | workers | answered/s | model | off | p99 ms | model | cores | model |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in checks:
        mark = " (calibrated)" if one.calibrated else ""
        lines.append(
            f"| {one.setup} | {one.count}{mark} | {one.rps:.0f} | {one.model_rps:.0f} | {one.off:+.0%} | "
            f"{one.p99_ms:.0f} | {one.model_p99_ms:.0f} | {one.cores:.2f} | {one.model_cores:.2f} |"
        )
    return lines


def _fleets(fleets: list[Fleet]) -> list[str]:
    lines = [
        "## Fleets that share a controller",
        "",
        "Balancers on one host, each with a load that is a sine wave of 40 s (0.2 to 1.8 of its mean), "
        "phases spread evenly; all together need 60 % of the host. *even*: fixed, the cores by the number of "
        "balancers. *most*: fixed at adaptive's maximum. *adaptive*: leases of one controller. A simulated "
        "request stands for several real ones: response times compare within a host, not between hosts. "
        "*most* is flattered: in the model more vCPUs than cores cost nothing by themselves.",
        "",
        f"| cores | balancers | workers each | p50 ms | p99 ms | later than {1000 * LATE:.0f} ms "
        "| cores used | workers held, all | changes/min each |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in fleets:
        lines.append(
            f"| {one.host} | {one.balancers} | {one.variant} {one.each} | {one.p50_ms:.0f} | "
            f"{one.p99_ms:.0f} | {one.late:.1%} | {one.cores:.1f} | {one.workers:.1f} | "
            f"{one.changes_per_minute:.1f} |"
        )
    by = {(one.host, one.balancers, one.variant): one for one in fleets}
    lines.append("")
    for host, number in dict.fromkeys((one.host, one.balancers) for one in fleets):
        ours, even, most = (by[host, number, variant] for variant in ("adaptive", "even", "most"))
        lines.append(
            f"- {number} on {host} cores: p99 of adaptive is {ours.p99_ms / even.p99_ms:.2f} of even's and "
            f"{ours.p99_ms / most.p99_ms:.2f} of most's, with {ours.workers / even.workers:.2f} and "
            f"{ours.workers / most.workers:.2f} of their workers."
        )
    return lines


def _policy(trials: list[Trials], seeds: int) -> list[str]:
    present = trials[0]
    names = list(present.traces)
    dominating = better(trials)
    if dominating:
        verdict = "Better than the present ones (sooner with no more workers, or as soon with fewer): "
        verdict += "; ".join(
            f"**{one.name}** (p99 {one.p99_ms / present.p99_ms - 1:+.0%}, workers "
            f"{one.mean('workers') / present.mean('workers') - 1:+.0%}, "
            f"{one.mean('changes_per_minute'):.1f} changes/min)"
            for one in dominating
        )
    else:
        verdict = "No other setting answers sooner with no more workers, or as soon with fewer"
    lines = [
        "## The policy's constants",
        "",
        f"Traces of a minute on 8 cores, 1 to {MOST} workers, 4 to 5 workers' worth of load at their peaks. "
        "*p99* is the geometric mean over the traces; *workers* the mean number held. "
        f"{verdict}. {seeds} seeds for each trace; differences below {SIMILAR:.0%} count as none, "
        "and a little above it says little.",
        "",
        "| constants | p99 ms | later than 100 ms | core-seconds | workers | changes/min | "
        + " | ".join(f"{name} p99" for name in names)
        + " |",
        "|---|---|---|---|---|---|" + "---|" * len(names),
    ]
    for one in trials:
        cells = " | ".join(f"{one.traces[name].p99_ms:.0f}" for name in names)
        lines.append(
            f"| {one.name} | {one.p99_ms:.0f} | {one.mean('late'):.1%} | {one.mean('core_seconds'):.0f} | "
            f"{one.mean('workers'):.2f} | {one.mean('changes_per_minute'):.1f} | {cells} |"
        )
    return lines


def report(
    document: dict[str, Any],
    costs: Costs,
    checks: list[Check],
    fleets: list[Fleet],
    trials: list[Trials],
    seeds: int,
    folder: Path,
) -> None:
    """The page and the JSON. ``document`` is the figures' JSON."""
    lines = [
        "# A model of the policy",
        "",
        f"Written by `python -m bench.model` (`make model`). {in_words()}. Costs from figures.json "
        f"({repetitions(document['cells'])} repetitions of {document['connections']:,} connections).",
        "",
        "A discrete-event simulation of clients, accept queues, workers, web servers, virtual machines and "
        "cores (bench/model/machine.py, service.py). The policy, the lease table, the cgroups source and the "
        "steering's weights in it are pylb's own code. Costs, in CPU time of the test bed's cores: "
        f"{1000 * costs.worker:.3f} ms per request of a worker (2b, 1 worker), {1000 * costs.web:.3f} ms of "
        f"a web server (2c, 4 workers), {costs.cold:.1%} of a process's time lost with two or more for each "
        f"vCPU (2a, 4 workers), {costs.control:.3f} cores for supervisor and control plane (2b, 1 worker).",
        "",
    ]
    lines += [*_validation(checks), "", *_fleets(fleets), "", *_policy(trials, seeds)]
    found = {
        "costs": asdict(costs),
        "checks": [asdict(one) for one in checks],
        "median_off": median_off(checks),
        "fleets": [asdict(one) for one in fleets],
        "policy": [asdict(one) for one in trials],
    }
    write("model", found, lines, folder)
