"""``python -m bench.fractional_quota``: how many workers should there be under a CPU quota of 1.5?

A worker is one thread, so of a quota of 1.5 CPUs one worker can use 1. Two use all of it, and are both
stopped for the rest of each period (100 ms, as containers have it) when it is used up. A balancer with 1
worker and one with 2 take turns under real cgroup quotas, in random order; wrk and the server are outside of
the cgroup. The load is that of `bench.real_cores`, which costs the balancer much and the others little, so
that the quota is the limit and not this machine. `ROUND_UP` (controller/sources/quota.py) is chosen by this.
Others on this machine wait meanwhile. Needs root and wrk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from bench.balancer import Balancer
from bench.machine import in_words, machine
from bench.nothing_lost import child
from bench.real_cores import serve
from bench.testbed import CORE, Group, tidy_when_terminated
from controller.sources.quota import ROUND_UP, whole_cores

console = Console()
QUOTAS = (1.1, 1.25, 1.5, 1.7)
WORKERS = (1, 2)
CONNECTIONS = (4, 16)
PERIOD_US = 100_000
SECONDS = 2
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Turn:
    """What wrk saw in some seconds, and CPUs that the balancer used."""

    quota: float
    workers: int
    connections: int
    rps: float
    p50_ms: float
    p99_ms: float
    cpus: float


def inside(group: Group) -> list[str]:
    """What to put before a command so that it runs there."""
    enter = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in group.folders)
    return ["sh", "-c", f'{enter}exec "$@"', "sh"]


def load(port: int, connections: int, seconds: int, where: Sequence[str]) -> tuple[float, float, float]:
    """Requests per second, and the median and the 99th percentile of response times in milliseconds."""
    command = [
        *where,
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        f"http://127.0.0.1:{port}/",
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s*([\d.]+)", text)
    assert rate is not None, text
    times = []
    for share in ("50%", "99%"):
        found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)", text)
        assert found is not None, text
        times.append(float(found[1]) * _UNITS[found[2]])
    return float(rate[1]), times[0], times[1]


def measure(turns: int, seconds: int) -> list[Turn]:
    """All quotas, numbers of workers and of connections, so many times."""
    found = []
    with ExitStack() as stack:
        balancers, groups = {}, {}
        for name in (0, *WORKERS):
            groups[name] = Group(f"pylb-fractional-{name or 'clients'}")
            groups[name].prefer()
            stack.callback(groups[name].remove)
        clients = inside(groups[0])
        pipe = stack.enter_context(child(serve))
        for process in multiprocessing.active_children():
            groups[0].add(process.pid or 0)
        server = f"127.0.0.1:{pipe.recv()}"
        for workers in WORKERS:
            wrap = inside(groups[workers])
            balancers[workers] = Balancer("--workers", str(workers), servers=(server,), wrap=wrap)
            stack.callback(balancers[workers].stop)
            balancers[workers].wait_workers(workers)
            load(balancers[workers].port, max(CONNECTIONS), 1, clients)
        cells = [(q, w, c) for q in QUOTAS for w in WORKERS for c in CONNECTIONS] * turns
        random.shuffle(cells)
        for quota, workers, connections in cells:
            group = groups[workers]
            group.limit(quota, core=1.0, period_us=PERIOD_US)
            before = group.use()
            seen = load(balancers[workers].port, connections, seconds, clients)
            cpus = (group.use() - before) * CORE / seconds
            found.append(Turn(quota, workers, connections, *seen, cpus))
            console.log(str(found[-1]))
    return found


def write(found: list[Turn], seconds: int, folder: Path) -> None:
    """JSON and Markdown."""
    document = {"machine": machine(), "round_up": ROUND_UP, "turns": [asdict(one) for one in found]}
    (folder / "fractional_quota.json").write_text(json.dumps(document, indent=1) + "\n")
    turns = len(found) // (len(QUOTAS) * len(WORKERS) * len(CONNECTIONS))

    def middle(quota: float, workers: int, connections: int, what: str) -> float:
        return statistics.median(
            float(getattr(one, what))
            for one in found
            if (one.quota, one.workers, one.connections) == (quota, workers, connections)
        )

    lines = [
        "# Workers under a fraction of a CPU",
        "",
        f"Written by `python -m bench.fractional_quota`. {in_words()}. A real cgroup quota with a period of "
        f"{PERIOD_US // 1000} ms; wrk and the server are outside of it. {turns} turns of {seconds} s each, "
        "in random order, medians.",
        "",
        f"pylb rounds a quota up from a fraction of {ROUND_UP:g} on: "
        + ", ".join(f"{quota:g} CPUs may have {whole_cores(quota)}" for quota in QUOTAS)
        + " (workers).",
        "",
        "| quota | connections | requests/s, 1 worker | 2 workers | | CPUs used, 1 worker | 2 "
        "| p50 ms, 1 | 2 | p99 ms, 1 | 2 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for quota in QUOTAS:
        for connections in CONNECTIONS:
            one, two = ([middle(quota, w, connections, what) for what in _WHAT] for w in WORKERS)
            lines.append(
                f"| {quota:g} | {connections} | {one[0]:.0f} | {two[0]:.0f} | {two[0] / one[0] - 1:+.0%} | "
                f"{one[3]:.2f} | {two[3]:.2f} | {one[1]:.1f} | {two[1]:.1f} | {one[2]:.0f} | {two[2]:.0f} |"
            )
    (folder / "fractional_quota.md").write_text("\n".join(lines) + "\n")
    console.print("\n".join(lines), markup=False)


_WHAT = ("rps", "p50_ms", "p99_ms", "cpus")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="of each [3]")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"of a turn [{SECONDS}]")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root, to make cgroups")
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed (apt-get install wrk)")
    options.out.mkdir(parents=True, exist_ok=True)
    tidy_when_terminated()
    write(measure(options.turns, options.seconds), options.seconds, options.out)


if __name__ == "__main__":
    main()
