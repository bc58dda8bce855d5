"""``python -m bench.dynamic``: what the paper could not do, load and neighbours that change while it serves.

A host of four cores has a balancer machine that owns one core and may use the idle ones, two web servers, and
a neighbour that sleeps and then needs two cores. The offered load rises, stays and falls; the neighbour wakes
up in the middle. pylb adaptive takes turns with pylb and HAProxy fixed at the least and at the most. The
requests are sent when they are due, however late the last ones are, each on a new connection. Needs root,
nginx and haproxy.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.figures import name_of
from bench.rig.command import console, in_turns, need, parser, progress
from bench.rig.load import Outcome, open_loop
from bench.rig.report import in_words, pyplot, quantile, together, write
from bench.setups import ADAPTIVE, Scene, Setup, running, scene
from bench.testbed import spinning

SETUP = Setup("dynamic", "a neighbour wakes up", (1, 4), balancer=4, own=1, batch=2)
VARIANTS = (("pylb", ADAPTIVE), ("pylb", 1), ("pylb", 4), ("haproxy", 1), ("haproxy", 4))
LOW, PEAK = 300.0, 1800.0  # requests per second; one of pylb's workers will do, and two can do the most
SECONDS = 75.0  # long enough after the load fell for a worker to go: the policy waits for 10 calm seconds
WAKES, SLEEPS = 27.0, 41.0  # the neighbour
SAMPLE = 0.5
COLOURS = {"adaptive": "#111111", "1": "#c2552d", "4": "#3b7dd8"}


def offered(at: float, peak: float) -> float:
    """Requests per second at a moment: up from 8 to 18 s, down from 45 to 52 s."""
    rising, falling = (at - 8) / 10, (52 - at) / 7
    return LOW + (peak - LOW) * min(1.0, max(0.0, rising if at < 18 else falling))


def _load(pipe: Any, port: int, peak: float) -> None:
    pipe.send(open_loop(port, partial(offered, peak=peak), SECONDS))


def measure(here: Scene, kind: str, count: int, peak: float) -> dict[str, Any]:
    """One run of one balancer."""
    neighbour = here.host.vms["batch"]
    groups = {vm.name: vm.group for vm in here.host.vms.values()}
    uses: list[dict[str, float]] = []
    context = multiprocessing.get_context("fork")
    with running(here, kind, count) as one:
        ours, theirs = context.Pipe()
        process = context.Process(target=_load, args=(theirs, one.port, peak), daemon=True)
        began = time.monotonic()
        process.start()

        def watch(until: float) -> None:
            while (now := time.monotonic() - began) < until:
                uses.append({"at": now} | {name: group.use() for name, group in groups.items()})
                time.sleep(max(0.0, min(SAMPLE, until - now)))

        watch(WAKES)
        with spinning(neighbour, SETUP.batch):
            watch(SLEEPS)
        watch(SECONDS)
        outcome: Outcome = ours.recv()
        process.join()
        counts = [(at - began, workers) for at, workers in one.counts]
    return _series(outcome, uses, counts or [(0.0, count)], peak)


def _series(
    outcome: Outcome, uses: list[dict[str, float]], counts: list[tuple[float, int]], peak: float
) -> dict[str, Any]:
    """Samples over time, and sums."""
    samples: list[dict[str, Any]] = []
    position = 0
    pairs = sorted(zip(outcome.ends, outcome.latencies, strict=True))
    for before, after in zip(uses, uses[1:], strict=False):
        begin, end = before["at"], after["at"]
        latencies = []
        while position < len(pairs) and pairs[position][0] < end:
            latencies.append(pairs[position][1])
            position += 1
        seconds = max(1e-3, end - begin)
        rates = {name: (after[name] - before[name]) / seconds for name in before if name != "at"}
        workers = [number for at, number in counts if at <= end] or [counts[0][1]]
        samples.append(
            {
                "at": round(end, 2),
                "offered": round(offered(end, peak), 1),
                "answered": round(len(latencies) / seconds, 1),
                "p99_ms": round(1000 * quantile(latencies, 0.99), 1) if latencies else None,
                "workers": workers[-1],
                "idle": round(max(0.0, SETUP.cores - sum(rates.values())), 3),
                "balancer": round(rates["pylb"], 3),
                "batch": round(rates["batch"], 3),
            }
        )
    step = [b["at"] - a["at"] for a, b in zip(uses, uses[1:], strict=False)]
    workers_seconds = sum(sample["workers"] * width for sample, width in zip(samples, step, strict=True))
    awake = [sample["batch"] for sample in samples if WAKES + 1 < sample["at"] < SLEEPS]
    return {
        "samples": samples,
        "answered": len(outcome.latencies),
        "failed": outcome.failed,
        **{f"p{p}_ms": round(1000 * quantile(outcome.latencies, p / 100), 1) for p in (50, 90, 99)},
        "late": round(sum(one > 0.1 for one in outcome.latencies) / len(outcome.latencies), 4),
        "core_seconds": round(uses[-1]["pylb"] - uses[0]["pylb"], 1),
        "worker_seconds": round(workers_seconds, 1),
        "neighbour": round(statistics.mean(awake), 2),
    }


def draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Everything over time, of the first repetition."""
    figure, axes = pyplot().subplots(4, 1, figsize=(10, 10), sharex=True, layout="constrained")
    for name, found in runs.items():
        kind, count = name.split()
        samples = found[0]["samples"]
        at = [sample["at"] for sample in samples]
        style: dict[str, Any] = {"color": COLOURS[count], "linestyle": "-" if kind == "pylb" else ":"}
        style["linewidth"] = 2 if count == "adaptive" else 1.2
        axes[0].plot(at, [sample["answered"] for sample in samples], label=name, **style)
        axes[1].plot(at, [sample["p99_ms"] for sample in samples], label=name, **style)
        axes[3].plot(at, [sample["batch"] for sample in samples], label=name, **style)
        if count == "adaptive":
            axes[0].plot(at, [sample["offered"] for sample in samples], color="#9a9a9a", label="offered")
            workers = [sample["workers"] for sample in samples]
            axes[2].step(at, workers, where="post", label="workers", **style)
            axes[2].plot(at, [sample["idle"] for sample in samples], color="#2e9e5b", label="idle cores")
    axes[0].set(ylabel="requests/s", ylim=(0, None), title="Rising and falling load, a waking neighbour")
    axes[1].set(ylabel="p99 (ms)", yscale="log")
    axes[2].set(ylabel="pylb adaptive", ylim=(0, 4.3))
    axes[3].set(ylabel="neighbour's cores", xlabel="seconds", ylim=(0, 2.3))
    for one in axes:
        one.axvspan(WAKES, SLEEPS, color="black", alpha=0.07)
        one.grid(alpha=0.25)
        one.legend(fontsize=8, loc="upper right")
    figure.savefig(path, dpi=110)


def report(runs: dict[str, list[dict[str, Any]]], peak: float, folder: Path) -> None:
    """JSON, Markdown and PNG."""
    balancers = {name: together(found, sums=()) for name, found in runs.items()}
    repetitions = len(next(iter(runs.values())))
    lines = [
        "# Load and neighbours that change",
        "",
        f"Written by `python -m bench.dynamic`. {in_words()}. {repetitions} repetition(s), medians.",
        f"{LOW:.0f} to {peak:.0f} requests/s offered, each on a new connection, for {SECONDS:.0f} s; from "
        f"{WAKES:.0f} to {SLEEPS:.0f} s a neighbour needs {SETUP.batch} of the host's {SETUP.cores} cores.",
        "",
        "| | answered | failed | p50 ms | p90 ms | p99 ms | later than 100 ms | core-seconds used "
        "| worker-seconds held | neighbour got |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in balancers.items():

        def mid(what: str, found: dict[str, Any] = found) -> float:
            return float(found[what]["median"])

        lines.append(
            f"| {name} | {mid('answered'):.0f} | {mid('failed'):.0f} | {mid('p50_ms'):.1f} | "
            f"{mid('p90_ms'):.1f} | {mid('p99_ms'):.0f} | {mid('late'):.1%} | {mid('core_seconds'):.0f} | "
            f"{mid('worker_seconds'):.0f} | {mid('neighbour'):.2f} of {SETUP.batch} cores |"
        )
    lines += ["", "![over time](dynamic.png)"]
    write("dynamic", {"peak": peak, "balancers": balancers}, lines, folder)
    draw(runs, folder / "dynamic.png")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repetitions", type=int, default=3, help="of everything [3]")
    options.add_argument("--peak", type=float, default=PEAK, help=f"requests per second [{PEAK:.0f}]")
    options.add_argument("--only", default="", help="balancers whose names begin so")
    chosen = options.parse_args()
    need(options, "nginx", "haproxy", "unshare", root=True)
    variants = {name_of(*one): one for one in VARIANTS if name_of(*one).startswith(chosen.only)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    with progress() as bar:
        task = bar.add_task("", total=chosen.repetitions * len(variants))
        for repetition, name in in_turns(list(variants), chosen.repetitions):
            bar.update(task, description=f"{repetition + 1}: {name}")
            with scene(SETUP) as here:
                result = measure(here, *variants[name], chosen.peak)
            runs[name].append(result)
            console.log(f"{name}: {({key: value for key, value in result.items() if key != 'samples'})}")
            bar.advance(task)
    report(runs, chosen.peak, chosen.out)


if __name__ == "__main__":
    main()
