"""``python -m bench.nothing_lost``: is every request answered while workers come, go, reload and die (I1, I2)?

(a) 250 keep-alive clients send without pause while the workers go 1, 2, 4, 1, 2, are reloaded (SIGHUP), and
one of them is killed (SIGKILL). Nothing may fail but what the killed worker held, and after each growth the
busiest worker must hold at most 1.25 times the mean number of connections within a second of the order.
(b) 60,000 requests, each on a connection of its own, 250 at a time, while the workers are scaled up and down.
Clients, server and balancer are processes of their own on 127.0.0.1. Exit code 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import cycle
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import Progress

from bench.balancer import Balancer
from bench.clients import connection_per_request, keep_alive_clients
from bench.machine import in_words, machine

console = Console()
LEVEL = 1.25  # the busiest worker's connections over the mean
LEVEL_SECONDS = 1.0  # from the order to grow
UNANSWERED_SECONDS = 10.0  # a request under way for so long after the end is lost
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n" + b"x" * 128
_spawn = multiprocessing.get_context("spawn")


class _Answers(asyncio.Protocol):
    """The server: the same answer to every request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        self._transport.write(_ANSWER * len(heads))


def _serve(pipe: Connection[Any, Any]) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Answers, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


@contextmanager
def origin() -> Iterator[str]:
    """The address of a server in a process of its own."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


@dataclass
class Clients:
    """What the clients saw; a failure is its monotonic time in seconds and what went wrong."""

    answered: int = 0
    connections: int = 0
    unanswered: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)


def _keep_alive(port: int, clients: int, ends: Event, pipe: Connection[Any, Any]) -> None:
    """Clients that send without pause and connect again after a failure, until ``ends``."""

    async def main() -> None:
        seen = Clients()
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
        _, late = await asyncio.wait(tasks, timeout=UNANSWERED_SECONDS)
        seen.unanswered = len(late)
        for task in late:
            task.cancel()
        pipe.send(seen)

    uvloop.run(main())


def _connect_each(port: int, requests: int, clients: int, pipe: Connection[Any, Any]) -> None:
    pipe.send(uvloop.run(connection_per_request("127.0.0.1", port, requests, clients)))


@dataclass
class Step:
    """One change while the clients send: how it went, and what failed from its start to the next one's."""

    name: str
    began: float  # monotonic seconds
    level_after: float | None = None  # seconds, after growth
    may_fail: int = 0  # connections that a killed worker held
    failed: int = 0
    requests: int = 0  # by the balancer's own count


def _connections(status: dict[str, Any]) -> list[int]:
    return [worker["connections"] for worker in status["workers"] if worker["state"] == "serving"]


def _level(status: dict[str, Any], workers: int, clients: int) -> bool:
    held = _connections(status)
    return len(held) == workers and sum(held) == clients and max(held) <= LEVEL * clients / workers


def keep_alive(balancer: Balancer, clients: int, rounds: int, hold: float) -> tuple[list[Step], Clients]:
    """Part (a); ``hold`` is how many seconds are waited after each change."""
    ends = _spawn.Event()
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_keep_alive, args=(balancer.port, clients, ends, theirs), daemon=True)
    process.start()
    steps: list[Step] = []

    def step(name: str, change: Callable[[Step], None]) -> None:
        before = balancer.status()["totals"]["requests"]
        now = Step(name, time.monotonic())
        steps.append(now)
        change(now)
        time.sleep(hold)
        now.requests = balancer.status()["totals"]["requests"] - before
        level = "" if now.level_after is None else f", level after {now.level_after:.2f} s"
        console.log(f"{name}: {now.requests} requests{level}")

    def scale(count: int) -> Callable[[Step], None]:
        def change(now: Step) -> None:
            grows = count > len(balancer.workers())
            balancer.scale(count)
            balancer.wait("level", lambda status: _level(status, count, clients))
            now.level_after = time.monotonic() - now.began if grows else None

        return change

    def reload(now: Step) -> None:
        generation = balancer.status()["generation"]
        balancer.signal(signal.SIGHUP)
        balancer.wait(
            "reloaded", lambda s: {worker["generation"] for worker in s["workers"]} == {generation + 1}
        )

    def kill(now: Step) -> None:
        workers = balancer.workers()
        now.may_fail = workers[-1]["connections"]
        os.kill(workers[-1]["pid"], signal.SIGKILL)
        pids = {worker["pid"] for worker in workers[:-1]}
        balancer.wait("a successor", lambda s: len({w["pid"] for w in s["workers"]} - pids) == 1 and
                      workers[-1]["pid"] not in {w["pid"] for w in s["workers"]})  # fmt: skip
        balancer.wait("all connected again", lambda status: sum(_connections(status)) == clients)

    try:
        balancer.wait("all connected", lambda status: sum(_connections(status)) == clients)
        with Progress(console=console, transient=True) as progress:
            for number in progress.track(range(1, rounds + 1), description="keep-alive clients"):
                for was, count in ((1, 2), (2, 4), (4, 1), (1, 2)):
                    step(f"round {number}: {was} to {count} workers", scale(count))
                step(f"round {number}: SIGHUP with 2 workers", reload)
                step(f"round {number}: SIGKILL of one of 2 workers", kill)
                step(f"round {number}: 2 to 1 workers", scale(1))
        ends.set()
        seen: Clients = ours.recv()
    finally:
        process.terminate()
        process.join()
    for at, _ in seen.failures:
        [now for now in steps if now.began <= at][-1].failed += 1
    return steps, seen


def new_connections(balancer: Balancer, requests: int, clients: int) -> dict[str, Any]:
    """Part (b)."""
    ours, theirs = _spawn.Pipe()
    began = time.monotonic()
    before = balancer.status()["totals"]["accepted"]
    process = _spawn.Process(
        target=_connect_each, args=(balancer.port, requests, clients, theirs), daemon=True
    )
    process.start()
    scalings = 0
    try:
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("a connection per request", total=requests)
            for count in cycle((3, 2, 4, 1)):
                if ours.poll(0.3):
                    break
                balancer.scale(count)
                scalings += 1
                progress.update(bar, completed=balancer.status()["totals"]["accepted"] - before)
        tally = ours.recv()
    finally:
        process.terminate()
        process.join()
    return {
        "requests": requests, "answered": tally.answered, "connections": tally.connections,
        "failed": tally.failed, "scalings": scalings, "seconds": time.monotonic() - began,
    }  # fmt: skip


def broken(steps: list[Step], seen: Clients, each: dict[str, Any]) -> list[str]:
    """The promises that were not kept, in words."""
    wrong = [f"{s.name}: {s.failed} failed, {s.may_fail} may" for s in steps if s.failed > s.may_fail]
    for s in steps:
        if s.level_after is not None and s.level_after > LEVEL_SECONDS:
            wrong.append(f"{s.name}: level after {s.level_after:.2f} s, bar {LEVEL_SECONDS} s")
    if seen.unanswered:
        wrong.append(f"{seen.unanswered} requests were never answered")
    if each["failed"] or each["answered"] != each["requests"]:
        wrong.append(f"new connections: {each['answered']} of {each['requests']} answered")
    return wrong


def write(folder: Path, steps: list[Step], seen: Clients, each: dict[str, Any], wrong: list[str]) -> None:
    """JSON and Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "broken": wrong, "steps": [asdict(step) for step in steps],
              "keep_alive": asdict(seen), "new_connections": each}  # fmt: skip
    (folder / "nothing_lost.json").write_text(json.dumps(record, indent=1) + "\n")
    clients = seen.connections - len(seen.failures)
    lines = [
        "# Nothing lost while workers come, go, reload and die", "",
        f"Written by `python -m bench.nothing_lost`. {in_words()}.", "",
        f"**{'All promises held.' if not wrong else 'Broken: ' + '; '.join(wrong)}**", "",
        f"## {clients} keep-alive clients that send without pause", "",
        f"{seen.answered} answered, {len(seen.failures)} failed, {seen.unanswered} unanswered at the end, "
        f"{seen.connections - clients} reconnects. A killed worker's own connections may fail, nothing else; "
        f"level: the busiest worker holds at most {LEVEL} times the mean, at most {LEVEL_SECONDS} s after "
        "the order to grow.", "",
        "| step | requests | level after | failed | may fail |", "|---|---|---|---|---|",
        *(f"| {s.name} | {s.requests} | {'' if s.level_after is None else f'{s.level_after:.2f} s'} | "
          f"{s.failed} | {s.may_fail} |" for s in steps), "",
        "Failures as the clients saw them: "
        + (", ".join(sorted({text for _, text in seen.failures})) or "none") + ".", "",
        "## A new connection for each request", "",
        f"{each['answered']} of {each['requests']} answered, {len(each['failed'])} failed, in "
        f"{each['seconds']:.0f} s, in which the number of workers was changed {each['scalings']} times "
        "(1, 3, 2, 4, 1, …).",
    ]  # fmt: skip
    (folder / "nothing_lost.md").write_text("\n".join(lines) + "\n")
    console.print("\n".join(lines), markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3, help="of the keep-alive part")
    parser.add_argument("--hold", type=float, default=2.0, help="seconds after each change")
    parser.add_argument("--requests", type=int, default=60_000, help="each on a new connection")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    with origin() as server:
        balancer = Balancer("--workers", "1..4", servers=(server,))
        try:
            balancer.scale(1)
            steps, seen = keep_alive(balancer, options.clients, options.rounds, options.hold)
            each = new_connections(balancer, options.requests, options.clients)
        finally:
            balancer.stop()
    wrong = broken(steps, seen, each)
    write(options.out, steps, seen, each, wrong)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
