"""``python -m bench.contention``: what a request costs in a fraction of a core, where others use the rest.

A worker of pylb and an HAProxy thread take turns on CPU 0, each in a cgroup: with all of the CPU; with a
quarter of it, in slices of 25 ms and of 2.5 ms, as in the test bed of the paper's figures; and in such slices
while a neighbour on the same CPU walks through memory, so that caches are cold when a slice begins. wrk and
the servers have CPU 1. What is taken is the CPU time per request, the worker's and all of the balancer's, how
often it was scheduled, and for how long it was stopped. Needs root, haproxy, nginx and wrk.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.fractional_quota import inside
from bench.rig import origins, wrk
from bench.rig.command import console, in_turns, need, parser
from bench.rig.load import closed_loop
from bench.rig.peers import Site
from bench.rig.processes import cpu_seconds, more_descriptors
from bench.rig.report import in_words, quartiles, shown, together, write
from bench.table import commit
from bench.testbed import Group, tidy_when_terminated
from bench.turns import BALANCERS, CLIENTS, Side, ratios, sides

NAMES = ("pylb", "haproxy")
Seen = dict[str, float | None]
KEEP_ALIVE, CLOSED = "keep-alive", "new connection each, the balancer closes"
AS_PAPER = "new connection each, the client closes, 250 at a time"
LOADS = (KEEP_ALIVE, CLOSED, AS_PAPER)
"""The last one is the load of the paper's figures: nothing is said of closing, and the client closes."""
CONDITIONS = {
    "a whole core": (1.0, 100_000, False),
    "1/4, slices of 25 ms": (0.25, 100_000, False),
    "1/4, slices of 2.5 ms": (0.25, 10_000, False),
    "1/4, slices of 2.5 ms, a neighbour": (0.25, 10_000, True),
}
"""Cores, the quota's period in µs, and whether a neighbour has the rest of the CPU."""
_NEIGHBOUR = "memory = bytearray(32 << 20)\nwhile True: memory.count(1)"


@contextlib.contextmanager
def neighbour(there: bool) -> Iterator[None]:
    """A process on the balancers' CPU that goes through 32 MiB again and again."""
    if not there:
        yield
        return
    process = subprocess.Popen([*BALANCERS, sys.executable, "-c", _NEIGHBOUR])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _switches(pid: int) -> int:
    """How often a process was put on a CPU (Documentation/scheduler/sched-stats.rst)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[2])


def _stopped(group: Group) -> float:
    """Seconds for which a group had to wait because its quota was used up."""
    for folder in group.folders:
        with contextlib.suppress(OSError):
            for line in (folder / "cpu.stat").read_text().splitlines():
                name, _, value = line.partition(" ")
                if name in ("throttled_time", "throttled_usec"):
                    return int(value) / (1e9 if name == "throttled_time" else 1e6)
    return 0.0


def main_process(side: Side) -> int:
    """The process that serves: pylb's worker, or the only one."""
    return side.program.workers(1)[0].pid if len(side.program.tree()) > 1 else side.program.process.pid


def asked(side: Side, load: str, seconds: int) -> Seen:
    """What clients saw in so many seconds of a load, and ``us``."""
    port, cpu = side.sites[0].port, side.program.cpu
    if load != AS_PAPER:
        fields = ("Connection: close",) if load == CLOSED else ()
        return wrk.turn(f"http://127.0.0.1:{port}", wrk.Load(fields=fields), seconds, cpu, CLIENTS)
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(CLIENTS[-1])})
    try:
        before = cpu()
        outcome = closed_loop(port, 250, seconds=seconds, path="/small")
        used = cpu() - before
    finally:
        os.sched_setaffinity(0, cpus)
    answered = len(outcome.latencies)
    return {
        "us": 1e6 * used / answered if answered else None,
        "rps": answered / outcome.seconds,
        "failed": outcome.failed,
    }


def turn(side: Side, group: Group, load: str, seconds: int) -> dict[str, Any]:
    """One turn: what the client saw, and where the balancer's time went."""
    pid = main_process(side)
    before = cpu_seconds(pid), side.program.cpu(), _switches(pid), _stopped(group)
    seen = asked(side, load, seconds)
    after = cpu_seconds(pid), side.program.cpu(), _switches(pid), _stopped(group)
    own, used, switched, stopped = (late - early for late, early in zip(after, before, strict=True))
    return seen | {
        "own_us": seen["us"] * own / used if seen["us"] else None,
        "switches": switched / seconds,
        "stopped": stopped / seconds,
    }


def measure(turns: int, seconds: int, folder: Path) -> list[dict[str, Any]]:
    """All conditions and loads."""
    found = []
    with contextlib.ExitStack() as stack:
        groups = {name: Group(f"pylb-contention-{name}") for name in NAMES}
        for group in groups.values():
            stack.callback(group.remove)
        _, servers = stack.enter_context(origins.nginx(folder / "servers", CLIENTS))
        wraps = {name: [*BALANCERS, *inside(group)] for name, group in groups.items()}
        there = stack.enter_context(sides(NAMES, folder, lambda: [Site(servers)], 1, wraps))
        for condition, (cores, period, beside) in CONDITIONS.items():
            for group in groups.values():
                group.limit(cores, core=1.0, period_us=period)
            for load in LOADS:
                runs: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
                with neighbour(beside):
                    for _, name in in_turns(NAMES, turns):
                        one = turn(there[name], groups[name], load, seconds)
                        runs[name].append(one)
                        console.log(f"{condition}, {load}: {name} {one}", markup=False, highlight=False)
                over = quartiles(ratios(runs["pylb"], runs["haproxy"]))
                cells = {name: together(done) for name, done in runs.items()}
                found.append({"condition": condition, "load": load, "over": over} | cells)
    return found


def page(found: list[dict[str, Any]]) -> list[str]:
    """All of it in Markdown."""
    lines = [
        "# A fraction of a core",
        "",
        f"Written by `python -m bench.contention`. {in_words()}.",
        f"{found[0]['pylb']['turns']} turns each, interleaved; medians, in brackets the extremes.",
        "",
        "| load | condition | pylb, µs | its worker | HAProxy, µs | pylb / HAProxy "
        "| pylb, requests/s | HAProxy | pylb, put on the CPU per s | HAProxy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(found, key=lambda one: LOADS.index(one["load"])):
        ours, theirs, over = one["pylb"], one["haproxy"], one["over"]
        cells = [shown(ours["us"]["median"]), shown(ours["own_us"]["median"]), shown(theirs["us"]["median"])]
        cells.append(f"{over['median']:.2f} ({over['min']:.2f}–{over['max']:.2f})")
        cells += [shown(each[what]["median"]) for what in ("rps", "switches") for each in (ours, theirs)]
        lines.append(f"| {one['load']} | {one['condition']} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=5, help="of each [5]")
    options.add_argument("--seconds", type=int, default=1, help="of a turn [1]")
    chosen = options.parse_args()
    need(options, "haproxy", "nginx", "wrk", "taskset", root=True)
    tidy_when_terminated()
    more_descriptors()
    with tempfile.TemporaryDirectory(prefix="pylb-contention-") as folder:
        found = measure(chosen.turns, chosen.seconds, Path(folder))
    write("contention", {"commit": commit(), "cells": found}, page(found), chosen.out)


if __name__ == "__main__":
    main()
