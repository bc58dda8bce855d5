"""Balancers that take turns under the same loads, on the same two CPUs: the rig of `bench.table`,
`bench.peers` and `bench.pythons`.

Each balancer has one worker, all of them on CPU 0, while the client and the servers have CPU 1; who waits for
its turn does nothing. What is taken is the CPU time of all processes of a balancer over the requests that the
client counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rig import h2load, handshakes, wrk
from bench.rig.command import console, in_turns
from bench.rig.peers import CONNECTIONS, running
from bench.rig.processes import Program
from bench.rig.report import quartiles, together
from bench.rig.site import Site
from bench.workloads import Workload

BALANCERS, CLIENTS = ("taskset", "-c", "0"), ("taskset", "-c", "1")
BASE = "haproxy"
"""The balancer that the others' ratios are taken over."""
Turn = Callable[[Workload, int], dict[str, Any]]
"""Loads one balancer for some seconds."""


@dataclass(frozen=True)
class Side:
    """A balancer that runs, and where it serves."""

    program: Program
    sites: Sequence[Site]

    def turn(self, workload: Workload, seconds: int) -> dict[str, Any]:
        """Load it; what the client saw, and ``us``: microseconds of CPU time per request."""
        site = self.sites[workload.site]
        url = f"https://127.0.0.1:{site.tls_port}" if workload.tls else f"http://127.0.0.1:{site.port}"
        load, cpu = workload.load, self.program.cpu
        if isinstance(load, h2load.Load):
            return h2load.turn(url, load, seconds, cpu, CLIENTS)
        if isinstance(load, handshakes.Load):
            return handshakes.turn(url, load, seconds, cpu, CLIENTS)
        return wrk.turn(url, load, seconds, cpu, CLIENTS)


@contextlib.contextmanager
def sides(
    names: Sequence[str],
    folder: Path,
    made: Callable[[], Sequence[Site]],
    workers: int = 1,
    wraps: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[dict[str, Side]]:
    """All balancers by name, until the block ends.

    Args:
        made: gives the sites of one of them.
        wraps: by name, commands that run the one behind them; what isn't in it has `BALANCERS`.
    """
    with contextlib.ExitStack() as stack:
        found = {}
        for name in names:
            sites = made()
            more = {"connections": CONNECTIONS} if name.startswith("haproxy") else {}
            wrap = (wraps or {}).get(name, BALANCERS)
            program = running(name, folder / name, *sites, wrap=wrap, workers=workers, **more)
            found[name] = Side(stack.enter_context(program), sites)
        yield found


def ratios(turns: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> list[float]:
    """CPU per request, turn by turn, over the same turn of ``base``; without those in which nothing came."""
    pairs = [(one["us"], other["us"]) for one, other in zip(turns, base, strict=False)]
    return [one / other for one, other in pairs if one and other]


def measure(
    workload: Workload, turns: Mapping[str, Turn], count: int, seconds: int, base: str = BASE
) -> dict[str, Any]:
    """So many turns of each on one workload.

    Returns:
        By balancer its turns `together`, with ``over``: by other balancer, the `quartiles` of its CPU per
        request over that one's, turn by turn.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
    for number, name in in_turns(list(turns), count):
        one = turns[name](workload, seconds)
        runs[name].append(one)
        console.log(
            f"{workload.name}: turn {number + 1}/{count} {name}: {one['us']} µs, {one['rps']:.0f}/s, "
            f"p99 {one['p99_ms']} ms, {one['failed']} failed",
            highlight=False,
        )
    bases = {base, workload.over} & runs.keys()
    return {
        name: together(done) | {"over": {base: quartiles(ratios(done, runs[base])) for base in sorted(bases)}}
        for name, done in runs.items()
    }
