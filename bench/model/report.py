"""The model's page, its charts and its JSON."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from bench.figure_drawing import repetitions
from bench.machine import in_words, machine
from bench.model.machine import Costs
from bench.model.predict import LATE, SETTLE, Check, Fleet, median_off, plain
from bench.model.scene import Result
from bench.model.tuning import MOST, SEEDS, Trials

Hosts = dict[int, dict[str, dict[str, Result]]]

SIMILAR = 0.05
"""Relative differences below this count as none: the load is random."""


def _best(results: dict[str, Result]) -> tuple[str, Result]:
    fixed = [(count, one) for count, one in results.items() if count != "adaptive"]
    return max(fixed, key=lambda pair: pair[1].rps)


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


def _ratio(checks: list[Check], what: str) -> float:
    return statistics.median(float(getattr(one, f"model_{what}") / getattr(one, what)) for one in checks)


def _cpu(checks: list[Check]) -> tuple[list[float], list[float]]:
    """CPU seconds of the balancer's per request, measured and in the model."""
    return [one.cores / one.rps for one in checks], [one.model_cores / one.model_rps for one in checks]


def _validation(checks: list[Check]) -> list[str]:
    free = [one for one in checks if not one.calibrated]
    worst = max(free, key=lambda one: abs(one.off))
    by_setup: dict[str, list[Check]] = {}
    for one in free:
        by_setup.setdefault(one.setup, []).append(one)
    lines = [
        "## How much it is off",
        "",
        f"Over the {len(free)} measured cells that gave no cost: answered/s off by "
        f"**{median_off(checks):.1%}** (median of absolute errors; worst {worst.off:+.0%}, {worst.setup} "
        f"with {worst.count}), median response time by {median_off(checks, 'p50_ms'):.0%}, p99 by "
        f"{median_off(checks, 'p99_ms'):.0%}, cores used by {median_off(checks, 'cores'):.0%}.",
        "",
        f"The model's p99 is {_ratio(free, 'p99_ms'):.2f} of the measured one (median), probably "
        "since it has neither event loops that take requests in batches nor cores that come in slices of 2.5 "
        "of every 10 ms, and its machine does nothing else. That more processes than vCPUs cost "
        "something only within a machine, and "
        "no more from two for each vCPU on, was chosen with an earlier, smaller run of the figures in view. "
        "Where the measured CPU per request differs from the model's, the same code cost more or less there, "
        "which the model can't know: what shares the machine's caches and hyperthreads is not in it.",
        "",
        "| set-up | cells | answered/s off, median | from | to | measured CPU per request, ms | model |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, cells in by_setup.items():
        off = [one.off for one in cells]
        middle = statistics.median(abs(one) for one in off)
        costs = [1000 * statistics.median(pairs) for pairs in _cpu(cells)]
        lines.append(
            f"| {key} | {len(cells)} | {middle:.0%} | {min(off):+.0%} | {max(off):+.0%} | {costs[0]:.2f} | "
            f"{costs[1]:.2f} |"
        )
    lines += [
        "",
        "| set-up | workers | answered/s | model | off | p50 ms | model | p99 ms | model | cores | model |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in checks:
        mark = " (calibrated)" if one.calibrated else ""
        lines.append(
            f"| {one.setup} | {one.count}{mark} | {one.rps:.0f} | {one.model_rps:.0f} | {one.off:+.0%} | "
            f"{one.p50_ms:.0f} | {one.model_p50_ms:.0f} | {one.p99_ms:.0f} | {one.model_p99_ms:.0f} | "
            f"{one.cores:.2f} | {one.model_cores:.2f} |"
        )
    return lines


def _hosts(hosts: Hosts) -> list[str]:
    lines = [
        "## Larger hosts",
        "",
        "The paper's set-ups with everything so many times as large: cores, vCPUs, web servers, clients. "
        "Cores are the test bed's, a quarter of a real one.",
        "",
        "| cores | set-up | one worker/s | best fixed count | answered/s | most processes | adaptive "
        "| its workers | of the best | settled after s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for host, setups in hosts.items():
        for key, results in setups.items():
            count, best = _best(results)
            most = max((one for one in results if one != "adaptive"), key=int)
            ours = results["adaptive"]
            lines.append(
                f"| {host} | {key} | {results['1'].rps:.0f} | {count} | {best.rps:.0f} | "
                f"{most}: {results[most].rps:.0f} | {ours.rps:.0f} | {ours.workers:.1f} | "
                f"{ours.rps / best.rps:.0%} | {ours.settled:.1f} |"
            )
    for host, setups in hosts.items():
        shares = [one["adaptive"].rps / _best(one)[1].rps for one in setups.values()]
        took = max(one["adaptive"].settled for one in setups.values())
        lines.append(
            ("\n" if host == next(iter(hosts)) else "")
            + f"- {host} cores: adaptive answers {min(shares):.0%} to {max(shares):.0%} of what the best "
            f"fixed count does; its last change was after {took:.0f} s at most (from 1 worker, "
            f"{SETTLE[host]:.0f} s seen)."
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


def _policy(trials: list[Trials]) -> list[str]:
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
        f"{verdict}. {len(SEEDS)} seeds for each trace; differences below {SIMILAR:.0%} count as none, "
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


def draw(checks: list[Check], hosts: Hosts, trials: list[Trials], folder: Path) -> list[str]:
    """One PNG per question; gives their names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 5.4), layout="constrained")
    for calibrated, colour, label in ((False, "#3b7dd8", "checked"), (True, "#c2552d", "calibrated from")):
        cells = [(one.rps, one.model_rps) for one in checks if one.calibrated == calibrated]
        axes.plot(*zip(*cells, strict=True), "o", markersize=4, color=colour, label=label)
    top = 1.1 * max(max(one.rps, one.model_rps) for one in checks)
    axes.plot([0, top], [0, top], color="#8c8c8c", linewidth=1)
    axes.fill_between([0, top], [0, 0.8 * top], [0, 1.2 * top], color="#8c8c8c", alpha=0.15, label="20 %")
    axes.set(xlabel="measured, answered/s", ylabel="model", xlim=(0, top), ylim=(0, top))
    axes.legend(fontsize=8)
    figure.savefig(folder / "model-checked.png", dpi=90)
    pyplot.close(figure)

    figure, all_axes = pyplot.subplots(1, len(hosts), figsize=(4 * len(hosts), 4.2), layout="constrained")
    for axes, (host, setups) in zip(all_axes, hosts.items(), strict=True):
        for key in [key for key in ("2a", "2b", "2c", "3-4", "4-Base") if key in setups]:
            fixed = [(int(count), one.rps) for count, one in setups[key].items() if count != "adaptive"]
            (line,) = axes.plot(*zip(*fixed, strict=True), marker="o", markersize=3, label=key)
            ours = setups[key]["adaptive"]
            axes.plot(ours.workers, ours.rps, marker="*", markersize=11, color=line.get_color())
        axes.set(xscale="log", xlabel="workers (star: adaptive)", title=f"{host} cores", ylim=(0, None))
        axes.set_xticks(sorted({count for count, _ in fixed}), sorted({count for count, _ in fixed}))
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    all_axes[0].set_ylabel("answered/s")
    all_axes[0].legend(fontsize=8)
    figure.savefig(folder / "model-hosts.png", dpi=90)
    pyplot.close(figure)

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for one in reversed([one for one in trials if not one.name.startswith("fixed")]):
        colour = "#c2552d" if one is trials[0] else "#3b7dd8"
        axes.plot(one.mean("workers"), one.p99_ms, "o", markersize=5, color=colour)
        at = (one.mean("workers"), one.p99_ms)
        axes.annotate(one.name, at, fontsize=6, xytext=(4, 3), textcoords="offset points")
    axes.set(xlabel="workers held, mean", ylabel="p99 (ms)")
    axes.set_title("The policy's constants on six traces")
    axes.grid(alpha=0.25)
    figure.savefig(folder / "model-policy.png", dpi=90)
    pyplot.close(figure)
    return ["model-checked.png", "model-hosts.png", "model-policy.png"]


def write(
    document: dict[str, Any],
    costs: Costs,
    checks: list[Check],
    hosts: Hosts,
    fleets: list[Fleet],
    trials: list[Trials],
    folder: Path,
) -> list[str]:
    """All files; gives the page's lines. ``document`` is the figures' JSON."""
    lines = [
        "# Beyond this machine: a model",
        "",
        f"Written by `python -m bench.model` (`make model`). {in_words()}. Costs from figures.json "
        f"({repetitions(document['runs'])} repetitions of {document['connections']:,} connections).",
        "",
        "A discrete-event simulation of clients, accept queues, workers, web servers, virtual machines and "
        "cores (bench/model/machine.py, service.py). The policy, the lease table, the cgroups source and the "
        "steering's weights in it are pylb's own code. Costs, in CPU time of the test bed's cores: "
        f"{1000 * costs.worker:.3f} ms per request of a worker (2b, 1 worker), {1000 * costs.web:.3f} ms of "
        f"a web server (2c, 4 workers), {costs.cold:.1%} of a process's time lost with two or more for each "
        f"vCPU (2a, 4 workers), {costs.control:.3f} cores for supervisor and control plane (2b, 1 worker).",
        "",
    ]
    lines += [*_validation(checks), "", *_hosts(hosts), "", *_fleets(fleets), "", *_policy(trials)]
    notes = folder / "model_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    lines += ["", *(f"![{name}]({name})" for name in draw(checks, hosts, trials, folder))]
    (folder / "model.md").write_text("\n".join(lines) + "\n")
    found = {
        "machine": machine(),
        "costs": costs,
        "checks": checks,
        "median_off": median_off(checks),
        "hosts": hosts,
        "fleets": fleets,
        "policy": trials,
    }
    (folder / "model.json").write_text(json.dumps(plain(found)) + "\n")
    return lines
