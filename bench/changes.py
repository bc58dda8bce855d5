"""``python -m bench.changes``: what a change of the worker count costs, in CPU time and in the clients' p99.

A balancer goes from 1 worker to 2 and back, again and again: a process is forked and its half of the clients'
connections is handed over to it, then it hands them back and leaves. So it goes with 0, 100, 1,000 and 5,000
idle keep-alive connections. Beside them a few clients send at a steady rate, and their response times are
taken while nothing changes and during changes. CPU time is that of all the balancer's processes, those that
have left included, without what the same processes use while nothing changes.

The policy's `FORK` and `MOVE` (pylb/scaling/policy.py) are these figures.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from bench.rig.balancer import Balancer, backend, free_port, frontend
from bench.rig.clients import GET, exchange
from bench.rig.command import console, parser
from bench.rig.origins import origin
from bench.rig.processes import Program, child, more_descriptors
from bench.rig.report import in_words, quantile, write

HELD = (0, 100, 1_000, 5_000)
ACTIVE, EVERY = 16, 0.05  # clients that send, and seconds between the requests of each
QUIET = 5.0  # seconds without a change, before the changes and after them
PAUSE = 1.5  # seconds between changes
LOOK = 0.1  # seconds between looks at the status, in both
CHANGES = 6


@dataclass(frozen=True)
class Cost:
    """With so many idle connections. CPU seconds of one change, up or down; the clients' milliseconds."""

    held: int
    moved: float
    """Connections handed over in a change, mean; the active clients' included."""
    cpu: float
    quiet_cpu: float
    """Cores that the balancer used while nothing changed."""
    quiet_p99_ms: float
    p99_ms: float
    worst_ms: float
    failed: int


def _send(port: int, pipe: Connection[Any, Any]) -> None:
    """The active clients; at the end gives (when due, seconds) of each request, and how many failed."""

    async def main() -> None:
        seen: list[tuple[float, float]] = []
        failed = 0
        stop = asyncio.Event()

        async def client(number: int) -> None:
            nonlocal failed
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            due = time.monotonic() + EVERY * number / ACTIVE
            while not stop.is_set():
                due += EVERY
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                try:
                    await exchange(reader, writer)
                except (OSError, EOFError):
                    failed += 1
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    continue
                seen.append((due, time.monotonic() - due))
            writer.close()

        tasks = [asyncio.create_task(client(number)) for number in range(ACTIVE)]
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        stop.set()
        await asyncio.gather(*tasks)
        pipe.send((seen, failed))

    uvloop.run(main())


def hold(port: int, count: int) -> list[socket.socket]:
    """Keep-alive connections that have had one request and its answer."""
    socks = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(GET)
        while not sock.recv(65536).endswith(b"x" * 128):
            pass
        socks.append(sock)
    return socks


def measure(balancer: Balancer, port: int, held: int, changes: int) -> Cost:
    """Changes with so many idle connections."""
    cpu = Program(balancer.process).cpu
    balancer.scale(1)

    def wait(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            balancer.status()
            time.sleep(LOOK)

    def quiet() -> tuple[float, float, float, float]:
        began, before = time.monotonic(), cpu()
        wait(QUIET)
        ended = time.monotonic()
        return began, ended, ended - began, cpu() - before

    socks = hold(port, held)
    with child(_send, port) as pipe:
        wait(1.0)
        first = quiet()
        began, before = time.monotonic(), cpu()
        handed = balancer.status()["totals"]["handed_over"]
        spans = []
        for change in range(changes):
            at = time.monotonic()
            balancer.scale(1 + (change + 1) % 2)
            wait(PAUSE)
            spans.append((at, time.monotonic()))
        seconds, used = time.monotonic() - began, cpu() - before
        handed = balancer.status()["totals"]["handed_over"] - handed
        last = quiet()
        pipe.send(None)
        seen, failed = pipe.recv()
    for sock in socks:
        sock.close()
    rate = (first[3] + last[3]) / (first[2] + last[2])

    def during(begin: float, end: float) -> list[float]:
        return [latency for due, latency in seen if begin <= due < end]

    calm = [one for begin, end, *_ in (first, last) for one in during(begin, end)]
    changing = [one for begin, end in spans for one in during(begin, end)]
    return Cost(
        *(held, handed / changes, (used - rate * seconds) / changes, rate),
        quiet_p99_ms=1000 * quantile(calm, 0.99),
        p99_ms=1000 * quantile(changing, 0.99),
        worst_ms=1000 * max(changing),
        failed=failed,
    )


def fit(costs: list[Cost]) -> tuple[float, float]:
    """CPU seconds of a change that moves nothing, and of each connection that it moves: least squares."""
    slope, start = statistics.linear_regression([one.moved for one in costs], [one.cpu for one in costs])
    return start, slope


def report(costs: list[Cost], changes: int, folder: Path) -> None:
    """JSON and Markdown."""
    start, slope = fit(costs)
    lines = [
        "# What a change of the number of workers costs",
        "",
        f"Written by `python -m bench.changes`. {in_words()}. {changes} changes each, from 1 worker to 2 and "
        f"back; {ACTIVE} clients send {ACTIVE / EVERY:.0f} requests/s meanwhile.",
        "",
        f"**{1000 * start:.0f} ms** of CPU time for a change, and **{1e6 * slope:.0f} µs** for each "
        "connection that moves (least squares).",
        "",
        "| idle connections | moved per change | CPU per change, ms | p99, nothing changes, ms "
        "| p99, changes, ms | slowest, ms | failed |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {one.held:,} | {one.moved:.0f} | {1000 * one.cpu:.0f} | {one.quiet_p99_ms:.1f} | "
            f"{one.p99_ms:.1f} | {one.worst_ms:.0f} | {one.failed} |"
            for one in costs
        ),
        "",
        f"*p99, changes* is of the {PAUSE:g} s after each order.",
    ]
    found = {"changes": changes, "fork": start, "move": slope, "costs": [asdict(one) for one in costs]}
    write("changes", found, lines, folder)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--changes", type=int, default=CHANGES, help=f"with each number, even [{CHANGES}]")
    options.add_argument("--held", type=int, nargs="*", default=HELD, help="idle connections")
    chosen = options.parse_args()
    more_descriptors()
    port = free_port()
    with origin() as server:
        text = "workers = {min = 1, max = 2}\n[timeouts]\nkeep_alive = 600\n"
        text += frontend("f", port) + backend("b", [server])
        costs = []
        with Balancer(text=text) as balancer:
            for held in chosen.held:
                costs.append(measure(balancer, port, held, chosen.changes))
                console.log(str(costs[-1]))
    report(costs, chosen.changes, chosen.out)


if __name__ == "__main__":
    main()
