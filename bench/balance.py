"""``python -m bench.balance``: what a pick costs with many servers and rows, and how even ``leastconn`` is.

*Cost*: two workers on CPU 0, nginx and wrk on CPU 1. The servers are addresses of 127.0.0.0/8, all of one
nginx. Each case takes turns with the smallest one; the figure is the CPU time that the workers used, over the
requests that wrk counted, and its ratio turn by turn. An HAProxy thread (``leastconn``) is measured so, too.

*Spread*: four workers, 250 connections, ten equal servers. While wrk runs, the scoreboard is read out of the
supervisor's memory, and the least server's active requests are taken from the most loaded one's.

Needs nginx, haproxy, wrk, and root or the right to read another process's memory (ptrace).
"""

from __future__ import annotations

import asyncio
import csv
import random
import re
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.rig import origins, peers, wrk
from bench.rig.balancer import Balancer, backend, free_port, frontend
from bench.rig.command import console, in_turns, need, parser
from bench.rig.peers import Site
from bench.rig.processes import cpu_seconds, start
from bench.rig.report import in_words, machine, pyplot, spread, together, write
from bench.rig.wrk import Load
from pylb.config.load import from_document
from pylb.scoreboard import Scoreboard
from pylb.supervisor.indices import room_for
from pylb.supervisor.slots import rows_for

BALANCERS, CLIENTS = ("taskset", "-c", "0"), ("taskset", "-c", "1")
ALGORITHMS = ("leastconn", "roundrobin")
BOUND = 2
"""The difference of active requests that equal servers may have."""


@dataclass(frozen=True)
class Case:
    """So many servers, and ``workers.max``; ``bar`` is the ratio to the smallest case that is good enough."""

    servers: int
    most: int
    bar: float

    @property
    def name(self) -> str:
        return f"{self.servers} servers, max = {self.most}"


SMALLEST = Case(2, 2, 1.0)
CASES = (
    Case(20, 2, 1.1),
    Case(500, 2, 1.1),
    Case(2000, 2, 1.2),
    Case(20, 64, 1.1),
    Case(20, 256, 1.1),
)


def _pylb(algorithm: str, stack: ExitStack, case: Case, servers: Sequence[str]) -> tuple[int, list[int]]:
    """Its port, and the processes that relay."""
    port = free_port()
    text = f"workers = {{min = 2, max = {case.most}}}\n{frontend('f', port)}"
    text += backend("b", servers, f'balance = "{algorithm}"\n')
    pylb = stack.enter_context(Balancer(text=text, wrap=BALANCERS))
    pylb.scale(2)
    return port, [worker["pid"] for worker in pylb.workers()]


def _haproxy(stack: ExitStack, case: Case, servers: Sequence[str]) -> tuple[int, list[int]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pylb-bench-")))
    site = Site(servers)
    running = peers.running("haproxy", folder, site, wrap=BALANCERS, balance="leastconn")
    return site.port, [stack.enter_context(running).process.pid]


def measure(algorithm: str, case: Case, servers: Sequence[str], turns: int, seconds: int) -> dict[str, Any]:
    """Turns of a case and of the smallest."""
    runs: dict[Case, list[dict[str, Any]]] = {SMALLEST: [], case: []}
    with ExitStack() as stack:
        started: dict[Case, tuple[int, list[int]]] = {}
        for one in runs:
            start_one = _haproxy if algorithm == "haproxy" else partial(_pylb, algorithm)
            port, pids = started[one] = start_one(stack, one, servers[: one.servers])
            # So that it has its connections to the servers.
            wrk.run(f"http://127.0.0.1:{port}", Load(), 3, CLIENTS)
        for number, one in in_turns(list(runs), turns):
            port, workers = started[one]

            def cpu(pids: Sequence[int] = workers) -> float:
                return sum(map(cpu_seconds, pids))

            done = wrk.turn(f"http://127.0.0.1:{port}", Load(), seconds, cpu, CLIENTS)
            runs[one].append(done)
            console.log(f"{algorithm}, {one.name}: turn {number + 1}/{turns}: {done['us']} µs")
    ratio = spread(
        this["us"] / that["us"] for this, that in zip(runs[case], runs[SMALLEST], strict=True)
    )  # fmt: skip
    return {
        "algorithm": algorithm,
        "case": case.name,
        "servers": case.servers,
        "max": case.most,
        "bar": case.bar,
        "ratio": ratio,
        "this": together(runs[case]),
        "smallest": together(runs[SMALLEST]),
    }


async def _alike(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers after 100 ms."""
    while await reader.readuntil(b"\r\n\r\n"):
        await asyncio.sleep(0.1)
        writer.write(origins.SMALL)


async def _by_chance(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers after a time that nobody can foresee, 300 ms on average."""
    while await reader.readuntil(b"\r\n\r\n"):
        await asyncio.sleep(random.expovariate(1 / 0.3))
        writer.write(origins.SMALL)


class Memory:
    """The active requests in the scoreboard of a running balancer.

    Args:
        text: its configuration.
    """

    def __init__(self, pid: int, text: str, servers: int) -> None:
        import tomllib

        config = from_document(tomllib.loads(text))
        slots = config.workers.max or 0
        board = Scoreboard(slots, room_for(config), rows_for(slots, config.drain.generations, 0))
        maps = Path(f"/proc/{pid}/maps").read_text()
        sizes = {
            int(begin, 16): int(end, 16) - int(begin, 16)
            for begin, end in re.findall(r"^(\w+)-(\w+) rw-s .*/dev/zero", maps, re.MULTILINE)
        }
        (self._at,) = (begin + board.active_at for begin, size in sizes.items() if size > board.active_at)
        self._board = board
        self._servers = servers
        self._file = Path(f"/proc/{pid}/mem").open("rb", buffering=0)  # noqa: SIM115  # closed with the process

    def counts(self) -> list[int]:
        """Of each server, over all workers."""
        rows = 16  # more than are in use
        self._file.seek(self._at)
        row = len(self._board.active(0))
        apart = -(-row // 128) * 128
        cells = memoryview(self._file.read(rows * apart)).cast("I")
        return [sum(cells[server :: apart // 4]) for server in range(self._servers)]


@contextmanager
def _pylb_counts(server: str) -> Iterator[tuple[int, Callable[[], list[int]]]]:
    """Its port, and what tells the active requests of each of ten servers."""
    port = free_port()
    text = f"workers = {{min = 4, max = 4}}\n{frontend('f', port)}{backend('b', [server] * 10)}"
    with Balancer(text=text) as pylb:
        pylb.wait_workers(4)
        yield port, Memory(pylb.process.pid, text, 10).counts


@contextmanager
def _haproxy_counts(server: str) -> Iterator[tuple[int, Callable[[], list[int]]]]:
    """The same of HAProxy with four threads, which tells them itself, between two of its turns."""
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text:
        folder = Path(text)
        site = Site([server] * 10)
        settings = f"  stats socket {folder}/stats.sock\n"
        with peers.running("haproxy", folder, site, workers=4, balance="leastconn", settings=settings):

            def counts() -> list[int]:
                with socket.socket(socket.AF_UNIX) as asked:
                    asked.connect(f"{folder}/stats.sock")
                    asked.sendall(b"show stat b0 4 -1\n")  # 4: servers
                    with asked.makefile() as answer:
                        rows = csv.DictReader(line.removeprefix("# ") for line in answer if line.strip())
                        return [int(row["scur"]) for row in rows]

            yield site.port, counts


SAMPLED = {"pylb": _pylb_counts, "haproxy": _haproxy_counts}


def sample(balancer: str, name: str, server: str, seconds: int) -> dict[str, Any]:
    """The differences between the servers while wrk runs, by how often they were seen."""
    seen = Counter[int]()
    active = Counter[int]()
    with SAMPLED[balancer](server) as (port, counts):
        command = wrk.command(f"http://127.0.0.1:{port}", Load(connections=250), seconds + 2)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
            time.sleep(1.5)  # until all connections are there
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                found = counts()
                seen[max(found) - min(found)] += 1
                active[sum(found)] += 1
                time.sleep(0.003)
            out = load.communicate()[0]
    total = sum(seen.values())
    within = sum(count for difference, count in seen.items() if difference <= BOUND) / total
    console.log(f"{balancer}, {name}: at most {BOUND} in {within:.2%} of {total} samples")
    return {
        "balancer": balancer,
        "case": name,
        "samples": total,
        "within": within,
        "differences": {str(difference): count / total for difference, count in sorted(seen.items())},
        "active": sum(number * count for number, count in active.items()) / total,
        "rps": wrk.parse(out).rps,
    }


def _verdict(one: dict[str, Any]) -> str:
    if one["algorithm"] == "haproxy":
        return ""
    return "holds" if one["ratio"]["median"] <= one["bar"] else "missed"


def page(costs: list[dict[str, Any]], spreads: list[dict[str, Any]]) -> list[str]:
    """The results in Markdown."""
    lines = ["# What a pick costs, and how even leastconn is", ""]
    lines += [f"Written by `python -m bench.balance`. {in_words()}.", ""]
    if costs:
        lines += [
            f"CPU time of two workers per request, beside {SMALLEST.name}, in turns; median of "
            f"{costs[0]['this']['turns']} turns each, in brackets the extremes.",
            "",
            "| algorithm | case | µs | µs, smallest | ratio | bar | | failed |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for one in costs:
        ratio = one["ratio"]
        lines.append(
            f"| {one['algorithm']} | {one['case']} | {one['this']['us']['median']:.1f} | "
            f"{one['smallest']['us']['median']:.1f} | **{ratio['median']:.2f}** "
            f"({ratio['min']:.2f} to {ratio['max']:.2f}) | {one['bar']} | "
            f"{_verdict(one)} | {one['this']['failed']} |"
        )
    if spreads:
        lines += [
            "",
            "`leastconn`, 4 workers (HAProxy: threads), 250 connections, 10 equal servers: the active "
            "requests of the most loaded server, less those of the least loaded one. Bar: at most "
            f"{BOUND} in 99 % of samples. pylb's are looked at from outside at any moment, also while a "
            "worker has answered some requests and not begun those that follow; HAProxy tells its own "
            "between two turns of its loop.",
            "",
            f"| | servers | requests/s | active on average | samples | at most {BOUND} | all differences |",
            "|---|---|---|---|---|---|---|",
        ]
    for one in spreads:
        each = ", ".join(f"{difference}: {share:.1%}" for difference, share in one["differences"].items())
        lines.append(
            f"| {one['balancer']} | {one['case']} | {one['rps']:.0f} | {one['active']:.0f} | "
            f"{one['samples']} | **{one['within']:.2%}** | {each} |"
        )
    return lines


def draw(costs: list[dict[str, Any]], path: Path) -> None:
    """Ratios over servers and over ``workers.max``."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.5), layout="constrained", sharey=True)
    for algorithm in (*ALGORITHMS, "haproxy"):
        mine = [one for one in costs if one["algorithm"] == algorithm]
        for axes, key, chosen in (
            (left, "servers", [one for one in mine if one["max"] == SMALLEST.most]),
            (right, "max", [one for one in mine if one["servers"] == 20]),
        ):
            places = ([SMALLEST.servers] if key == "servers" else []) + [one[key] for one in chosen]
            ratios = ([1.0] if key == "servers" else []) + [one["ratio"]["median"] for one in chosen]
            axes.plot(places, ratios, "o-", label=algorithm)
            axes.set_xscale("log")
    for axes, name in ((left, "servers (max = 2)"), (right, "workers.max (20 servers, 2 workers)")):
        axes.axhline(1.1, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel(name)
        axes.set_ylim(0.5, 1.5)
    left.set_ylabel("CPU per request / that of 2 servers")
    left.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=5, help="per case [5]")
    options.add_argument("--seconds", type=int, default=3, help="per turn [3]")
    options.add_argument("--samples", type=int, default=15, help="seconds of sampling; 0: none [15]")
    options.add_argument("--only", default="", help="part of a case's name, with the algorithm before it")
    chosen = options.parse_args()
    need(options, "nginx", "haproxy", "wrk", "taskset")
    costs: list[dict[str, Any]] = []
    spreads: list[dict[str, Any]] = []
    hosts = [f"127.{10 + number // 250}.0.{1 + number % 250}" for number in range(2000)]
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text, ExitStack() as stack:
        folder = Path(text, "servers")
        folder.mkdir()
        port = free_port()
        command = [*CLIENTS, *origins.nginx_with_files(folder, [port], ["127.0.0.1", *hosts])]
        stack.callback(start(command, folder / "out", port).stop)
        for algorithm in (*ALGORITHMS, "haproxy"):
            for case in CASES:
                if algorithm == "haproxy" and case.most != SMALLEST.most:
                    continue
                if chosen.only in f"{algorithm}, {case.name}":
                    servers = [f"{host}:{port}" for host in hosts]
                    costs.append(measure(algorithm, case, servers, chosen.turns, chosen.seconds))
        if chosen.samples:
            alike = stack.enter_context(origins.origin(_alike))
            by_chance = stack.enter_context(origins.origin(_by_chance))
            for name, server in (
                ("answer after 100 ms", alike),
                ("answer after 300 ms on average, by chance", by_chance),
                ("answer at once", f"127.0.0.1:{port}"),
            ):
                spreads += [sample(balancer, name, server, chosen.samples) for balancer in SAMPLED]
    write(
        "balance",
        {"machine": machine(), "costs": costs, "spreads": spreads},
        page(costs, spreads),
        chosen.out,
    )
    if costs:
        draw(costs, chosen.out / "balance.png")


if __name__ == "__main__":
    main()
