"""``python -m bench.nothing_lost``: is every request answered while workers come, go and die (I1, I2)?

(a) 250 keep-alive clients send without pause while the workers go 1, 2, 4, 1, 2, are reloaded (SIGHUP), and
one of them is killed (SIGKILL). Nothing may fail but what the killed worker held, and after each growth the
busiest worker must hold at most 1.25 times the mean number of connections within a second of the order.
(b) 60,000 requests, each on a connection of its own, 250 at a time, while workers are scaled up and down.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import uvloop

from bench.rig.balancer import Balancer
from bench.rig.clients import Tally, connection_per_request, keep_alive_clients
from bench.rig.command import console, parser
from bench.rig.origins import origin
from bench.rig.processes import child, event
from bench.rig.report import in_words, write

LEVEL = 1.25  # the busiest worker's connections over the mean
LEVEL_SECONDS = 1.0  # from the order to grow
HOLD_SECONDS = 2.0  # between a change and the next
UNANSWERED_SECONDS = 10.0  # a request under way for so long after the end is lost


@dataclass
class Clients:
    """What the keep-alive clients saw; a failure is its time (monotonic seconds) and what went wrong."""

    clients: int
    answered: int = 0
    connections: int = 0
    unanswered: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)


def _keep_alive(port: int, clients: int, ends: Event, pipe: Connection[Any, Any]) -> None:
    """Clients that send without pause and connect again after a failure, until ``ends``."""

    async def main() -> None:
        seen = Clients(clients)
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                tally = await keep_alive_clients("127.0.0.1", port, 1, stop)
                seen.answered += tally.answered
                seen.connections += tally.connections
                seen.failures += [(time.monotonic(), text) for text in tally.failed]
                if not tally.connections:
                    await asyncio.sleep(0.1)

        tasks = [asyncio.create_task(client()) for _ in range(clients)]
        while not ends.is_set():
            await asyncio.sleep(0.05)
        stop.set()
        seen.unanswered = len((await asyncio.wait(tasks, timeout=UNANSWERED_SECONDS))[1])
        pipe.send(seen)

    uvloop.run(main())


def _connect_each(port: int, requests: int, clients: int, pipe: Connection[Any, Any]) -> None:
    pipe.send(uvloop.run(connection_per_request("127.0.0.1", port, requests, clients)))


@dataclass
class Step:
    """One change while the clients send: how it went, and what failed from its start to the next one's."""

    name: str
    began: float  # monotonic seconds
    level_after: float = 0.0  # seconds from the order to grow
    may_fail: int = 0  # connections that a killed worker held
    failed: int = 0
    requests: int = 0  # by the balancer's own count


def keep_alive(balancer: Balancer, clients: int, rounds: int) -> tuple[list[Step], Clients]:
    """Part (a)."""
    steps: list[Step] = []

    @contextmanager
    def step(name: str) -> Iterator[Step]:
        before = balancer.status()["totals"]["requests"]
        now = Step(name, time.monotonic())
        steps.append(now)
        yield now
        time.sleep(HOLD_SECONDS)
        now.requests = balancer.status()["totals"]["requests"] - before
        console.log(f"{name}: {now.requests} requests, level after {now.level_after:.2f} s")

    def level(workers: int, without: int = 0) -> None:
        """Wait until all clients are connected and spread; ``without`` is a pid that must be gone."""

        def so(status: dict[str, Any]) -> bool:
            held = {w["pid"]: w["connections"] for w in status["workers"] if w["state"] == "serving"}
            good = len(held) == workers and without not in held and sum(held.values()) == clients
            return good and max(held.values()) <= LEVEL * clients / workers

        balancer.wait("level", so)

    ends = event()
    with child(_keep_alive, balancer.port, clients, ends) as pipe:
        level(1)
        for number in range(1, rounds + 1):
            for was, count in ((1, 2), (2, 4), (4, 1), (1, 2)):
                with step(f"round {number}: {was} to {count} workers") as now:
                    balancer.scale(count)
                    level(count)
                    now.level_after = time.monotonic() - now.began if count > was else 0.0
            with step(f"round {number}: SIGHUP with 2 workers"):
                old = balancer.status()["generation"]
                balancer.signal(signal.SIGHUP)
                balancer.wait("reloaded", lambda s, old=old: s["generation"] > old)  # type: ignore[misc]
                balancer.wait_workers(2)
                level(2)
            with step(f"round {number}: SIGKILL of one of 2 workers") as now:
                victim = balancer.workers()[-1]
                now.may_fail = victim["connections"]
                os.kill(victim["pid"], signal.SIGKILL)
                level(2, without=victim["pid"])
            with step(f"round {number}: 2 to 1 workers"):
                balancer.scale(1)
                level(1)
        ends.set()
        seen: Clients = pipe.recv()
    for at, _ in seen.failures:
        [now for now in steps if now.began <= at][-1].failed += 1
    return steps, seen


def new_connections(balancer: Balancer, requests: int, clients: int) -> dict[str, Any]:
    """Part (b)."""
    began = time.monotonic()
    scalings = 0
    with child(_connect_each, balancer.port, requests, clients) as pipe, console.status("new connections"):
        while not pipe.poll(0.1):
            balancer.scale((3, 2, 4, 1)[scalings % 4])
            scalings += 1
        tally: Tally = pipe.recv()
    return asdict(tally) | dict(requests=requests, scalings=scalings, seconds=time.monotonic() - began)


def broken(steps: list[Step], seen: Clients, each: dict[str, Any]) -> list[str]:
    """The broken promises in words."""
    wrong = [f"{s.name}: {s.failed} failed, {s.may_fail} may" for s in steps if s.failed > s.may_fail]
    wrong += [f"{s.name}: level after {s.level_after:.2f} s" for s in steps if s.level_after > LEVEL_SECONDS]
    wrong += [f"{seen.unanswered} requests were never answered"] * bool(seen.unanswered)
    if each["failed"] or each["answered"] != each["requests"]:
        wrong.append(f"new connections: {each['answered']} of {each['requests']} answered")
    return wrong


def report(folder: Path, steps: list[Step], seen: Clients, each: dict[str, Any]) -> list[str]:
    """JSON and Markdown; gives the broken promises."""
    wrong = broken(steps, seen, each)
    causes = dict(Counter(text for _, text in seen.failures))
    rows = [{key: value for key, value in asdict(step).items() if key != "began"} for step in steps]
    record = dict(broken=wrong, steps=rows, keep_alive=asdict(seen) | {"failures": causes})
    record |= dict(new_connections=each | {"failed": dict(Counter(each["failed"]))})
    lines = [
        "# Nothing lost while workers come, go, reload and die", "",
        f"Written by `python -m bench.nothing_lost`. {in_words()}.", "",
        f"**{'Broken: ' + '; '.join(wrong) if wrong else 'All promises held.'}**", "",
        f"## {seen.clients} keep-alive clients that send without pause", "",
        f"{seen.answered} answered, {len(seen.failures)} failed, {seen.unanswered} unanswered at the end, "
        f"{seen.connections - seen.clients} reconnects. A killed worker's own connections may fail, nothing "
        f"else. Level: the busiest worker holds at most {LEVEL} times the mean of connections, at most "
        f"{LEVEL_SECONDS} s after the order to grow.", "",
        "| step | requests | level after | failed | may fail |", "|---|---|---|---|---|",
        *(f"| {s.name} | {s.requests} | {f'{s.level_after:.2f} s' if s.level_after else ''} | {s.failed} | "
          f"{s.may_fail} |" for s in steps), "",
        f"Failures as the clients saw them: {'; '.join(causes) or 'none'}.", "",
        "## A new connection for each request", "",
        f"{each['answered']} of {each['requests']} answered, {len(each['failed'])} failed, in "
        f"{each['seconds']:.1f} s; the number of workers was changed {each['scalings']} times meanwhile.",
    ]  # fmt: skip
    write("nothing_lost", record, lines, folder)
    return wrong


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clients", type=int, default=250)
    options.add_argument("--rounds", type=int, default=3, help="of the keep-alive part")
    options.add_argument("--requests", type=int, default=60_000, help="each on a new connection")
    chosen = options.parse_args()
    with origin() as server, Balancer("--workers", "1..4", servers=(server,)) as balancer:
        balancer.scale(1)
        steps, seen = keep_alive(balancer, chosen.clients, chosen.rounds)
        each = new_connections(balancer, chosen.requests, chosen.clients)
    sys.exit(1 if report(chosen.out, steps, seen, each) else 0)


if __name__ == "__main__":
    main()
