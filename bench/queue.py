"""``python -m bench.queue``: requests that wait for a place at a server, and that are tried again.

Four parts. *Places*: 8 servers with ``maxconn = 2`` behind two workers, and behind HAProxy: how many requests
a server ever had, and how much of the time its places were taken while requests waited. *Restart*: a
single server that is away for a second. *Overload*: load that comes whether it is served or not, up to three
times what the servers can do: how much is served, and how long that takes. *Cost*: a worker's CPU per
request, with retries and queue switched on and off, in turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.rig import origins, peers, wrk
from bench.rig.balancer import Balancer, free_port, frontend
from bench.rig.command import in_turns, need, parser
from bench.rig.processes import cpu_seconds, start
from bench.rig.report import in_words, machine, pyplot, quantile, spread, write

SERVERS, PLACES = 8, 2
SERVICE = (0.02, 0.06)
"""Seconds that a request of the overload takes, from and to."""
LONG = (0.02, 1.0)
"""Likewise of the places: a tenth of what a language model's answer takes."""
RATES = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
"""Load, as a part of the servers' capacity."""
GET = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
OK = origins.response(b"ok")
RETRIES = '[backend.retry]\non = "all-retryable-errors"\nbudget = 0.2\n'


class Servers:
    """Servers that take their time, in this process, and count what they are at."""

    def __init__(self, count: int, seconds: tuple[float, float]) -> None:
        self.count = count
        self.seconds = seconds
        self.active = [0] * count
        self.most = [0] * count
        self.ports: list[int] = []
        self._servers: list[asyncio.Server] = []
        # While requests wait: seconds that have passed, and those for which places were free.
        self.waited = self.idle = 0.0
        self.outstanding = 0
        self._since = 0.0

    def note(self) -> None:
        """Whatever is counted is about to change."""
        now, since = time.monotonic(), self._since
        self._since = now
        taken = sum(self.active)
        if since and self.outstanding > PLACES * self.count:
            self.waited += (now - since) * PLACES * self.count
            self.idle += (now - since) * (PLACES * self.count - taken)

    async def start(self) -> None:
        for number in range(self.count):
            server = await asyncio.start_server(partial(self._serve, number), "127.0.0.1", 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        await asyncio.sleep(0.1)  # for the connections, which the balancer has closed

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.note()
                self.active[number] += 1
                self.most[number] = max(self.most[number], self.active[number])
                await asyncio.sleep(random.uniform(*self.seconds))
                self.note()
                self.active[number] -= 1
                writer.write(OK)
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """The status of a response to a request; 0 where there is none."""
    with contextlib.suppress(OSError, EOFError):
        writer.write(GET)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r")[0]))
        return int(head[9:12])
    return 0


async def once(port: int) -> tuple[int, float]:
    """The status of one request on a connection of its own, and how many seconds it took."""
    began = time.monotonic()
    status = 0
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status = await ask(reader, writer)
        writer.close()
    return status, time.monotonic() - began


@contextmanager
def pylb(ports: list[int], queue: str, maxconn: int = PLACES) -> Iterator[int]:
    """Two workers; gives their port."""
    port = free_port()
    text = "[workers]\nmin = 2\nmax = 2\n" + frontend("f", port) + f'[[backend]]\nname = "b"\n{queue}'
    for one in ports:
        text += f'[[backend.server]]\naddress = "127.0.0.1:{one}"\nmaxconn = {maxconn}\n'
    with Balancer(text=text):
        yield port


@contextmanager
def haproxy(ports: list[int], queue: str, maxconn: int = PLACES) -> Iterator[int]:
    """Two threads."""
    port = free_port()
    servers = "".join(f"  server s{one} 127.0.0.1:{one} maxconn {maxconn}\n" for one in ports)
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text:
        folder = Path(text)
        (folder / "haproxy.cfg").write_text(
            "global\n  nbthread 2\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n"
            f"  timeout server 60s\n  retries 3\n{queue}frontend f\n  bind 127.0.0.1:{port}\n"
            f"  default_backend b\nbackend b\n  balance leastconn\n{servers}"
        )
        program = start(["haproxy", "-db", "-q", "-f", f"{folder}/haproxy.cfg"], folder / "out", port)
        try:
            yield port
        finally:
            program.stop()


async def places(balancer: Any, queue: str, each: int) -> dict[str, Any]:
    """48 clients, one request after the other."""
    servers = Servers(SERVERS, LONG)
    await servers.start()
    statuses: Counter[int] = Counter()

    async def client(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(each):
            servers.note()
            servers.outstanding += 1
            statuses[await ask(reader, writer)] += 1
            servers.note()
            servers.outstanding -= 1
        writer.close()

    with balancer(servers.ports, queue) as port:
        await asyncio.gather(*(client(port) for _ in range(3 * PLACES * SERVERS)))
    await servers.close()
    idle = servers.idle / servers.waited
    return {"most": max(servers.most), "idle": idle, "answered": statuses[200], "failed": _failed(statuses)}


def _failed(statuses: Counter[int]) -> int:
    return sum(count for status, count in statuses.items() if status != 200)


async def restart(balancer: Any) -> dict[str, Any]:
    """60 requests, while the one server is away for a second."""
    port = free_port()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(OK)
        writer.close()

    with balancer([port], "", 1000) as front:

        async def one(number: int) -> tuple[int, float]:
            await asyncio.sleep(number / 60)
            return await once(front)

        asking = asyncio.gather(*(one(number) for number in range(60)))
        await asyncio.sleep(1.0)
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        found = await asking
        server.close()
    statuses = Counter(status for status, _ in found)
    return {"failed": _failed(statuses), "slowest": max(seconds for _, seconds in found)}


async def overload(seconds: float) -> list[dict[str, Any]]:
    """Requests at random moments, at each of the rates."""
    capacity = SERVERS * PLACES / (sum(SERVICE) / 2)
    results = []
    servers = Servers(SERVERS, SERVICE)
    await servers.start()
    with pylb(servers.ports, '[backend.queue]\nsize = 16\ntimeout = "1s"\n') as port:
        for rate in RATES:
            asked: list[asyncio.Task[tuple[int, float]]] = []
            began = due = time.monotonic()
            while due < began + seconds:
                asked.append(asyncio.create_task(once(port)))
                due += random.expovariate(rate * capacity)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            ended = time.monotonic()
            found = await asyncio.gather(*asked)
            good = [took for status, took in found if status == 200]
            results.append(
                {
                    "load": rate,
                    "offered": len(found) / (ended - began),
                    "goodput": len(good) / (ended - began),
                    "p50_ms": 1000 * quantile(good, 0.5),
                    "p99_ms": 1000 * quantile(good, 0.99),
                    "refused": sum(status == 503 for status, _ in found),
                    "failed": sum(status not in (200, 503) for status, _ in found),
                }
            )
    await servers.close()
    return results


def cost(turns: int, seconds: int) -> dict[str, Any]:
    """CPU per request of one worker, for the same server behind backends with and without."""
    ports = {name: free_port() for name in ("off", "retries", "retries and queue")}
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text, origins.nginx(Path(text, "o")) as (_, at):
        server = f'[[backend.server]]\naddress = "{at[0]}"\n'
        file = "[workers]\nmin = 1\nmax = 1\n" + "".join(
            frontend(f"f{number}", port, backend=f"b{number}") for number, port in enumerate(ports.values())
        )
        file += f'[[backend]]\nname = "b0"\n{server}[[backend]]\nname = "b1"\n{server}{RETRIES}'
        file += f'[[backend]]\nname = "b2"\n{server}maxconn = 1000\n{RETRIES}[backend.queue]\nsize = 100\n'
        runs: dict[str, list[float]] = {name: [] for name in ports}
        with Balancer(text=file) as balancer:
            cpu = partial(cpu_seconds, balancer.workers()[0]["pid"])
            for _, name in in_turns(list(ports), turns):
                load = wrk.Load(connections=16)
                done = wrk.turn(f"http://127.0.0.1:{ports[name]}", load, seconds, cpu)
                runs[name].append(done["us"] or float("nan"))
    ratios = {
        name: spread(one / off for one, off in zip(runs[name], runs["off"], strict=True)) for name in runs
    }
    return {"us": {name: spread(values) for name, values in runs.items()}, "ratio": ratios}


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """What is served, and how long that takes, by load."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    loads = [one["load"] for one in found]
    left.plot(loads, [one["offered"] for one in found], "--", color="grey", label="offered")
    left.plot(loads, [one["goodput"] for one in found], "o-", label="served")
    right.plot(loads, [one["p99_ms"] for one in found], "o-", label="p99")
    right.plot(loads, [one["p50_ms"] for one in found], "o-", label="median")
    left.set_ylabel("requests per second")
    right.set_ylabel("ms, of those served")
    for axes in (left, right):
        axes.set_xlabel("load, as a part of the capacity")
        axes.set_ylim(0)
        axes.legend()
    figure.savefig(path, dpi=120)


def page(result: dict[str, Any]) -> list[str]:
    """The results in Markdown."""
    facts = f"{in_words()}; haproxy: {result['haproxy']}"
    lines = ["# Waited for and tried again", "", f"Written by `python -m bench.queue`. {facts}.", ""]
    lines += [
        f"**Places**: {SERVERS} servers with `maxconn = {PLACES}`, {3 * PLACES * SERVERS} clients.",
        "**Restart**: 60 requests while the only server is away for a second.",
        "",
        "| | most at a server | places free while requests waited | failed | restart: failed | slowest |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("pylb", "haproxy"):
        one, other = result["places"][name], result["restart"][name]
        lines.append(
            f"| {name} | {one['most']} | {one['idle']:.2%} | {one['failed']} of {one['answered']} | "
            f"{other['failed']} of 60 | {other['slowest']:.2f} s |"
        )
    found = result["overload"]
    peak = max(one["goodput"] for one in found)
    at = next(one for one in found if one["load"] == 1.0)
    lines += ["", "**Overload**: requests at random moments, a queue of 16.", ""]
    lines.append("| load | offered /s | served /s | of the peak | p99 ms | of that at 1.0 |")
    lines.append("|---|---|---|---|---|---|")
    for one in found:
        lines.append(
            f"| {one['load']:.1f} | {one['offered']:.0f} | {one['goodput']:.0f} | "
            f"{one['goodput'] / peak:.0%} | {one['p99_ms']:.0f} | {one['p99_ms'] / at['p99_ms']:.2f} |"
        )
    about = (
        "**Cost**: a worker's CPU per request over sockets, in turns whose order is reversed each time. µs: "
        "the median of the turns. ratio: the median of what each turn has for a ratio to the one without, so "
        "that what else the machine does hits both; with the least and the most."
    )
    lines += ["", about, "", "| | µs | ratio | least | most |", "|---|---|---|---|---|"]
    for name, us in result["cost"]["us"].items():
        ratio = result["cost"]["ratio"][name]
        spans = " | ".join(f"{ratio[which]:.3f}" for which in ("median", "min", "max"))
        lines.append(f"| {name} | {us['median']:.1f} | {spans} |")
    return [*lines, "", "![Overload](queue.png)"]


def main() -> None:
    """Measure, and write it down."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=15, help="of the cost, per case [15]")
    options.add_argument("--seconds", type=int, default=1, help="per turn [1]")
    options.add_argument("--each", type=int, default=10, help="requests of a client of the places [10]")
    chosen = options.parse_args()
    need(options, "haproxy", "nginx", "wrk")
    pylbs, haproxys = '[backend.queue]\ntimeout = "60s"\n', "  timeout queue 60s\n"
    result: dict[str, Any] = {
        "places": {
            "pylb": asyncio.run(places(pylb, pylbs, chosen.each)),
            "haproxy": asyncio.run(places(haproxy, haproxys, chosen.each)),
        },
        "restart": {"pylb": asyncio.run(restart(pylb)), "haproxy": asyncio.run(restart(haproxy))},
        "overload": asyncio.run(overload(4.0)),
        "cost": cost(chosen.turns, chosen.seconds),
        "haproxy": peers.versions("haproxy")["haproxy"],
    }
    write("queue", {"machine": machine()} | result, page(result), chosen.out)
    draw(result["overload"], chosen.out / "queue.png")


if __name__ == "__main__":
    main()
