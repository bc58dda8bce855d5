"""``python -m bench.figures``: the paper's experiments, with pylb in HAProxy's place and with HAProxy itself.

Experiment 1 (figures 2a, 2b, 2c, 4): 250 clients make 60,000 connections with a request each; the
distribution of response times. Experiment 2 (figure 3): requests answered in 5 seconds. Every set-up (see
`setups.py`) is measured with fixed numbers of pylb workers, with pylb's own scaling (*adaptive*), and with as
many HAProxy processes. Within a repetition all of them run and take several turns in the balancer's machine,
in an order that is drawn anew each time, because the speed of a shared host drifts within seconds; `speed.py`
measures it. Before each turn the same clients load the balancer for a while, whichever it is: adaptive has
chosen its count then; what a cold start costs is in the dynamic runs. Needs root, nginx and haproxy.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figure_drawing import failures, page
from bench.figure_turns import Runs, condensed
from bench.rig.command import console, need, parser, progress
from bench.rig.load import Outcome, closed_loop
from bench.rig.report import machine, write
from bench.setups import ADAPTIVE, SETUPS, Running, Scene, Setup, running, scene
from bench.speed import Speed
from bench.testbed import CORE

CLIENTS = 250
CONNECTIONS = 60_000
TURNS = 3  # of each balancer within a repetition; the connections are divided among them
TURNS_IN_TIME = 2  # in experiment 2: few, since a turn loses what is under way at its end
WARM_UP = 2.5  # seconds of load before each turn; adaptive finds its count again meanwhile
QUANTILES = 100


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


@dataclass
class Tally:
    """One balancer's turns within a repetition."""

    count: int
    running: Running
    outcome: Outcome = field(default_factory=Outcome)
    wall: float = 0.0
    used: float = 0.0
    """Virtual core seconds of the balancer's machine."""
    workers: list[int] = field(default_factory=list)
    turns: list[tuple[float, float]] = field(default_factory=list)
    """Answered per second, and the machine's speed meanwhile."""

    def turn(self, here: Scene, requests: int | None, seconds: float | None, speed: Speed) -> None:
        """Warm up, then measure."""
        one = self.running
        one.enter()
        load(one.port, seconds=WARM_UP)
        del one.counts[:]
        speed.take()
        used, began = here.balancer.group.use(), time.monotonic()
        outcome = load(one.port, requests, seconds)
        self.wall += time.monotonic() - began
        self.used += here.balancer.group.use() - used
        self.workers += [count for _, count in one.counts]
        one.leave()
        rate = len(outcome.latencies) / outcome.seconds
        self.turns.append((round(rate, 1), round(speed.take(), 4)))
        self.outcome.latencies.extend(outcome.latencies)
        self.outcome.seconds += outcome.seconds
        self.outcome.failed += outcome.failed

    def result(self) -> dict[str, Any]:
        """All turns together."""
        found = summary(self.outcome) | {"warm_up": WARM_UP, "turns": self.turns}
        found["balancer_cores"] = round(self.used / self.wall, 3)
        follows = self.running.pylb and self.workers
        return found | {"workers": round(statistics.mean(self.workers), 2) if follows else self.count}


def repeat(here: Scene, connections: int, said: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """One repetition of a set-up: all balancers run, and take turns in the machine."""
    setup = here.setup
    with contextlib.ExitStack() as stack:
        speed = stack.enter_context(Speed())
        tallies: dict[str, Tally] = {}
        for kind, count in variants(setup):
            said(f"starting {name_of(kind, count)}")
            one = stack.enter_context(running(here, kind, count))
            one.leave()
            tallies[name_of(kind, count)] = Tally(count, one)
        turns = TURNS if setup.seconds is None else TURNS_IN_TIME
        requests = connections // turns if setup.seconds is None else None
        seconds = setup.seconds and setup.seconds / turns
        for _ in range(turns):
            for name, tally in random.sample(list(tallies.items()), len(tallies)):
                said(name)
                tally.turn(here, requests, seconds, speed)
        return {name: tally.result() for name, tally in tallies.items()}


def run(setups: list[Setup], repetitions: int, connections: int, folder: Path, keep: Path | None) -> None:
    """All of it; the results are written after each repetition.

    Args:
        keep: a file with the turns of earlier repetitions, or for those of these.

    Raises:
        ValueError: what is there was measured with another number of connections.
    """
    facts = {
        "machine": machine() | {"load_before": f"{os.getloadavg()[0]:.2f}"},
        "core": CORE,
        "clients": CLIENTS,
        "connections": connections,
    }
    runs: Runs = {}
    if keep is not None and keep.exists():
        facts, runs = json.loads(keep.read_text())
        if facts["connections"] != connections:
            raise ValueError(f"{keep} has runs of {facts['connections']} connections")
    with progress() as bar:
        task = bar.add_task("", total=repetitions * len(setups))
        for repetition in range(repetitions):
            for setup in setups:
                where = f"{repetition + 1}: figure {setup.key}"

                def say(text: str, where: str = where) -> None:
                    bar.update(task, description=f"{where}, {text}")

                with scene(setup) as here:
                    found = repeat(here, connections, say)
                for name, result in found.items():
                    runs.setdefault(setup.key, {}).setdefault(name, []).append(result)
                    console.log(
                        f"{setup.key} {name}: {result['rps']:.0f}/s, "
                        f"median {result['p50_ms']:.0f} ms, p99 {result['p99_ms']:.0f} ms, "
                        f"{result['workers']} workers, {result['balancer_cores']:.2f} cores, "
                        f"{result['failed']} failed"
                    )
                bar.advance(task)
            if keep is not None:
                keep.write_text(json.dumps([facts, runs]))
            document = facts | condensed(runs)
            write("figures", document, page(document, folder), folder)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repetitions", type=int, default=5, help="of everything [5]")
    options.add_argument("--connections", type=int, default=CONNECTIONS, help="per run [60,000]")
    options.add_argument("--only", default="", help="figures that begin so")
    options.add_argument("--more", type=Path, metavar="FILE", help="add to the repetitions that FILE keeps")
    options.add_argument("--draw", action="store_true", help="only draw, from the JSON of an earlier run")
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if not chosen.draw:
        need(options, "nginx", "haproxy", "unshare", root=True)
        setups = [setup for setup in SETUPS if setup.key.startswith(chosen.only)]
        run(setups, chosen.repetitions, chosen.connections, chosen.out, chosen.more)
    document = json.loads((chosen.out / "figures.json").read_text())
    if chosen.draw:
        write("figures", document, page(document, chosen.out), chosen.out)
    sys.exit(failures(document["cells"]) != 0)


if __name__ == "__main__":
    main()
