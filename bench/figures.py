"""``python -m bench.figures``: the paper's experiments, with pylb in HAProxy's place and with HAProxy itself.

Experiment 1 (figures 2a, 2b, 2c, 4): 250 clients make 60,000 connections with a request each; the
distribution of response times. Experiment 2 (figure 3): requests answered in 5 seconds. Every set-up (see
`setups.py`) is measured with fixed numbers of pylb workers, with pylb's own scaling (*adaptive*), and with as
many HAProxy processes. All take turns within a repetition, in an order that is reversed each time. Before
each measurement the same clients load the balancer for a while, so that adaptive has chosen its count; what
a cold start costs is in the dynamic runs. Needs root, nginx and haproxy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.load import Outcome, closed_loop
from bench.machine import machine
from bench.setups import ADAPTIVE, SETUPS, Running, Scene, Setup, running, scene
from bench.testbed import CORE

CLIENTS = 250
CONNECTIONS = 60_000
WARM_UP = 1.0  # seconds
SETTLE = 4.0  # seconds of load in which adaptive finds its count
QUANTILES = 200

console = Console()


def variants(setup: Setup) -> list[tuple[str, int]]:
    """Kind and count of each balancer that takes a turn."""
    fixed = [(kind, count) for count in setup.counts for kind in ("pylb", "haproxy")]
    return [*fixed, ("pylb", ADAPTIVE)]


def name_of(kind: str, count: int) -> str:
    """As in the results: ``pylb 2``, ``pylb adaptive``, ``haproxy 4``."""
    return f"{kind} {'adaptive' if count == ADAPTIVE else count}"


def _load(pipe: Any, port: int, requests: int | None, seconds: float | None) -> None:
    pipe.send(closed_loop(port, CLIENTS, requests, seconds))


def load(port: int, requests: int | None = None, seconds: float | None = None) -> Outcome:
    """The clients, in a process of their own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_load, args=(theirs, port, requests, seconds), daemon=True)
    process.start()
    outcome: Outcome = ours.recv()
    process.join()
    return outcome


def summary(outcome: Outcome) -> dict[str, Any]:
    """Rates, and quantiles of the response times in milliseconds."""
    ordered = sorted(outcome.latencies)
    last = len(ordered) - 1
    cdf = [round(1000 * ordered[round(last * step / QUANTILES)], 2) for step in range(QUANTILES + 1)]
    return {
        "answered": len(ordered),
        "failed": outcome.failed,
        "seconds": round(outcome.seconds, 3),
        "rps": round(len(ordered) / outcome.seconds, 1),
        "mean_ms": round(1000 * sum(ordered) / len(ordered), 2),
        **{f"p{percent}_ms": cdf[percent * QUANTILES // 100] for percent in (10, 50, 90, 99)},
        "cdf_ms": cdf,
    }


def measure(here: Scene, kind: str, count: int, connections: int) -> dict[str, Any]:
    """One turn of one balancer."""
    setup = here.setup
    with running(here, kind, count) as one:
        load(one.port, seconds=SETTLE if count == ADAPTIVE else WARM_UP)
        del one.counts[:]
        used, began = here.balancer.group.use(), time.monotonic()
        if setup.seconds is None:
            result = summary(load(one.port, requests=connections))
        else:
            result = summary(load(one.port, seconds=setup.seconds))
        wall = time.monotonic() - began
        result["balancer_cores"] = round((here.balancer.group.use() - used) / wall, 3)
        result["workers"] = _mean(one) if kind == "pylb" else count
        if one.pylb is not None and count == ADAPTIVE:
            result["log"] = [
                line.partition("scaling ")[2].strip()
                for line in one.pylb.log.read_text().splitlines()
                if "] scaling from" in line
            ]
    return result


def _mean(one: Running) -> float:
    counts = [count for _, count in one.counts]
    return round(sum(counts) / len(counts), 2) if counts else 0.0


def run(setups: list[Setup], repetitions: int, connections: int, file: Path, more: bool) -> None:
    """All of it; written to ``file`` after each repetition, with ``more`` to what it has already.

    Raises:
        ValueError: what is there was measured with another number of connections.
    """
    document: dict[str, Any] = {
        "machine": machine() | {"load_before": f"{os.getloadavg()[0]:.2f}"},
        "core": CORE,
        "clients": CLIENTS,
        "connections": connections,
        "runs": {},
    }
    if more and file.exists():
        document = json.loads(file.read_text())
        if document["connections"] != connections:
            raise ValueError(f"{file} has runs of {document['connections']} connections")
    runs: dict[str, dict[str, list[dict[str, Any]]]] = document["runs"]
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        total = repetitions * sum(len(variants(setup)) for setup in setups)
        bar = progress.add_task("", total=total)
        for repetition in range(repetitions):
            for setup in setups:
                with scene(setup) as here:
                    for kind, count in variants(setup)[:: -1 if repetition % 2 else 1]:
                        name = name_of(kind, count)
                        progress.update(bar, description=f"{repetition + 1}: figure {setup.key}, {name}")
                        result = measure(here, kind, count, connections)
                        runs.setdefault(setup.key, {}).setdefault(name, []).append(result)
                        console.log(
                            f"{setup.key} {name}: {result['rps']:.0f}/s, median {result['p50_ms']:.0f} ms, "
                            f"p99 {result['p99_ms']:.0f} ms, {result['workers']} workers, "
                            f"{result['balancer_cores']:.2f} cores, {result['failed']} failed"
                        )
                        progress.advance(bar)
            file.write_text(json.dumps(document) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, help="of everything [5]")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="per run [60,000]")
    parser.add_argument("--only", default="", help="figures that begin so")
    parser.add_argument("--more", action="store_true", help="add repetitions to the JSON of an earlier run")
    parser.add_argument("--draw", action="store_true", help="only draw, from the JSON of an earlier run")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    options = parser.parse_args()
    for tool in ("nginx", "haproxy", "unshare"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed (apt-get install nginx-light haproxy util-linux)")
    if os.geteuid():
        parser.error("needs root, to make cgroups")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "figures.json"
    if not options.draw:
        setups = [setup for setup in SETUPS if setup.key.startswith(options.only)]
        run(setups, options.repetitions, options.connections, file, options.more)
    from bench.figure_drawing import write

    failed = write(json.loads(file.read_text()), options.out, console)
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
