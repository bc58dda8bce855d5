"""``python -m bench.fractional_quota``: how many workers should there be under a CPU quota of 1.5?

A worker is one thread, so of a quota of 1.5 CPUs one worker can use 1. Two use all of it, and are both
stopped for the rest of each period (100 ms, as containers have it) when it is used up. A balancer with 1
worker and one with 2 take turns under real cgroup quotas, in random order; wrk and the server are outside of
the cgroup. The load is that of `bench.real_cores`, which costs the balancer much and the others little, so
that the quota is the limit and not this machine. `ROUND_UP` (controller/sources/quota.py) is chosen by this.
Others on this machine wait meanwhile. Needs root and wrk.
"""

from __future__ import annotations

import multiprocessing
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.rig import wrk
from bench.rig.balancer import Balancer
from bench.rig.command import console, need, parser
from bench.rig.origins import TOKENS, origin
from bench.rig.report import in_words, together, write
from bench.testbed import CORE, Group, tidy_when_terminated
from controller.sources.quota import ROUND_UP, whole_cores

QUOTAS = (1.1, 1.25, 1.5, 1.7)
WORKERS = (1, 2)
CONNECTIONS = (4, 16)
PERIOD_US = 100_000
SECONDS = 2


def inside(group: Group) -> list[str]:
    """What to put before a command so that it runs there."""
    enter = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in group.folders)
    return ["sh", "-c", f'{enter}exec "$@"', "sh"]


def measure(turns: int, seconds: int) -> list[dict[str, Any]]:
    """The turns of all quotas, numbers of workers and of connections, `together`."""
    found: dict[tuple[float, int, int], list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        groups: dict[int, Group] = {}
        balancers: dict[int, Balancer] = {}
        for name in (0, *WORKERS):
            groups[name] = Group(f"pylb-fractional-{name or 'clients'}")
            groups[name].prefer()
            stack.callback(groups[name].remove)
        clients = inside(groups[0])
        server = stack.enter_context(origin(TOKENS))
        for process in multiprocessing.active_children():
            groups[0].add(process.pid or 0)

        def load(workers: int, connections: int, seconds: int) -> dict[str, Any]:
            url = f"http://127.0.0.1:{balancers[workers].port}"
            return vars(wrk.run(url, wrk.Load("/", connections), seconds, clients))

        for workers in WORKERS:
            wrap = inside(groups[workers])
            one = Balancer("--workers", str(workers), servers=(server,), wrap=wrap)
            balancers[workers] = stack.enter_context(one)
            one.wait_workers(workers)
            load(workers, max(CONNECTIONS), 1)
        cells = [(q, c, w) for q in QUOTAS for c in CONNECTIONS for w in WORKERS]
        for cell in random.sample(cells * turns, len(cells) * turns):
            quota, connections, workers = cell
            group = groups[workers]
            group.limit(quota, core=1.0, period_us=PERIOD_US)
            before = group.use()
            seen = load(workers, connections, seconds)
            seen["cpus"] = (group.use() - before) * CORE / seconds
            found.setdefault(cell, []).append(seen)
            console.log(f"{cell}: {seen}")
    names = ("quota", "connections", "workers")
    return [dict(zip(names, cell, strict=True)) | together(found[cell]) for cell in cells]


def report(found: list[dict[str, Any]], seconds: int, folder: Path) -> None:
    """JSON and Markdown."""
    lines = [
        "# Workers under a fraction of a CPU",
        "",
        f"Written by `python -m bench.fractional_quota`. {in_words()}. A real cgroup quota with a period of "
        f"{PERIOD_US // 1000} ms; wrk and the server are outside of it. {found[0]['turns']} turns of "
        f"{seconds} s each, in random order, medians.",
        "",
        f"pylb rounds a quota up from a fraction of {ROUND_UP:g} on: "
        + ", ".join(f"{quota:g} CPUs may have {whole_cores(quota)}" for quota in QUOTAS)
        + " (workers).",
        "",
        "| quota | connections | requests/s, 1 worker | 2 workers | | CPUs used, 1 worker | 2 "
        "| p50 ms, 1 | 2 | p99 ms, 1 | 2 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one, two in zip(found[::2], found[1::2], strict=True):  # with 1 worker and with 2

        def both(what: str, digits: int, one: dict[str, Any] = one, two: dict[str, Any] = two) -> str:
            return f"{one[what]['median']:.{digits}f} | {two[what]['median']:.{digits}f}"

        gain = two["rps"]["median"] / one["rps"]["median"] - 1
        lines.append(
            f"| {one['quota']:g} | {one['connections']} | {both('rps', 0)} | {gain:+.0%} | "
            f"{both('cpus', 2)} | {both('p50_ms', 1)} | {both('p99_ms', 0)} |"
        )
    write("fractional_quota", {"round_up": ROUND_UP, "cells": found}, lines, folder)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=3, help="of each [3]")
    options.add_argument("--seconds", type=int, default=SECONDS, help=f"of a turn [{SECONDS}]")
    chosen = options.parse_args()
    need(options, "wrk", root=True)
    tidy_when_terminated()
    report(measure(chosen.turns, chosen.seconds), chosen.seconds, chosen.out)


if __name__ == "__main__":
    main()
