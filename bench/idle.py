"""Idle connections: what of ``python -m bench.many_connections --idle`` measures them.

What memory a connection takes that waits for its next request, what it costs a worker that there are many,
and how long the garbage collector stops it, with idle connections and a load on others. Each has had a
request, but for those that are there for the CPU, which come from several addresses and have had none.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.rig import origins, pauses, wrk
from bench.rig.balancer import Balancer, backend, free_port, frontend
from bench.rig.processes import cpu_seconds
from bench.rig.report import in_words, quantile
from bench.rig.wrk import Load

_AT_A_TIME = 50
_SECONDS = 8.0
_TIMEOUTS = "timeouts = {keep_alive = 600, server = 0.5}\n"  # a short one is no reason to look at idle ones
BARS = {"HTTP/1.1": 18 * 1024 / 10_000, "TLS": 40.0, "CPU": 2.0}
"""KiB per connection, and percent of a core."""
_GET = b"GET /small HTTP/1.1\r\nHost: example.org\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"


@dataclass(frozen=True)
class Site:
    """A balancer with one worker, and its addresses without and with TLS."""

    balancer: Balancer
    port: int
    tls_port: int
    pauses: Path

    @property
    def worker(self) -> int:
        """Its process."""
        pid: int = self.balancer.workers()[0]["pid"]
        return pid


def site(stack: ExitStack, folder: Path, certificate: Path) -> Site:
    """Started, with two servers of nginx."""
    _, servers = stack.enter_context(origins.nginx(folder / "servers", ()))
    port, tls_port = free_port(), free_port()
    text = "workers = {min = 1, max = 1}\n" + _TIMEOUTS + frontend("f", port)
    text += frontend("t", tls_port, f'tls = {{certificates = "{certificate}"}}\n') + backend("b", servers)
    file = folder / "pauses"
    balancer = stack.enter_context(Balancer(text=text, module=("bench.rig.pauses", str(file))))
    return Site(balancer, port, tls_port, file)


async def _memory(site: Site, port: int, context: ssl.SSLContext | None, count: int) -> float:
    """KiB of resident memory that each of so many connections adds to the worker."""
    worker = psutil.Process(site.worker)
    writers: list[asyncio.StreamWriter] = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(_GET)
        await reader.readuntil(b"\r\n\r\n")
        writers.append(writer)

    async def some() -> None:
        await asyncio.gather(*(one() for _ in range(_AT_A_TIME)))

    for _ in range(10):
        await some()
    before, there = worker.memory_info().rss, len(writers)
    for _ in range((count - there) // _AT_A_TIME):
        await some()
    await asyncio.sleep(1.5)
    used = (worker.memory_info().rss - before) / 1024 / (len(writers) - there)
    for writer in writers:
        writer.transport.abort()
    return round(used, 2)


def _load(site: Site) -> dict[str, Any]:
    """wrk's 64 connections beside what is there, and the pauses meanwhile."""
    site.pauses.write_text("")
    seen = wrk.run(f"http://127.0.0.1:{site.port}", Load(), int(_SECONDS))
    found = pauses.read(site.pauses, site.worker)
    return {
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "pauses": {
            generation: {
                "count": len(some),
                "p99_us": quantile(some, 0.99) if some else 0,
                "most_us": max(some, default=0),
            }
            for generation, some in found.items()
        },
    }


def measure(site: Site, count: int, tls_count: int, many: int, context: ssl.SSLContext) -> dict[str, Any]:
    """All of it."""
    results: dict[str, Any] = {"many": many}
    results["HTTP/1.1"] = asyncio.run(_memory(site, site.port, None, count))
    results["TLS"] = asyncio.run(_memory(site, site.tls_port, context, tls_count))
    site.balancer.wait("empty", lambda status: not status["totals"]["connections"])

    def used() -> float:
        before = cpu_seconds(site.worker)
        time.sleep(_SECONDS)
        return round(100 * (cpu_seconds(site.worker) - before) / _SECONDS, 2)

    results["cpu_alone"], results["load_alone"] = used(), _load(site)
    idle = [socket.socket() for _ in range(many)]
    site.pauses.write_text("")
    for number, sock in enumerate(idle):
        sock.bind((f"127.0.0.{2 + number % 8}", 0))
        sock.connect(("127.0.0.1", site.port))
    arrived = partial(lambda status: status["totals"]["connections"] >= many)
    site.balancer.wait("there", arrived)
    grown = pauses.read(site.pauses, site.worker)
    results["growing"] = {generation: [len(some), max(some, default=0)] for generation, some in grown.items()}
    results["cpu"], results["load"] = used(), _load(site)
    for sock in idle:
        sock.close()
    return results


def good(results: dict[str, Any]) -> bool:
    """Whether all bars hold."""
    cpu = results["cpu"] - results["cpu_alone"]
    return all(results[kind] <= BARS[kind] for kind in ("HTTP/1.1", "TLS")) and cpu <= BARS["CPU"]


def page(results: dict[str, Any]) -> list[str]:
    """In Markdown."""
    many = results["many"]
    lines = [
        "# Idle connections",
        "",
        f"Written by `python -m bench.many_connections --idle`. {in_words()}.",
        "",
        "| | measured | bar |",
        "|---|---|---|",
        f"| resident memory of an idle HTTP/1.1 connection | {results['HTTP/1.1']} KiB | "
        f"{BARS['HTTP/1.1']:.2f} KiB |",
        f"| of one with TLS | {results['TLS']} KiB | {BARS['TLS']:.0f} KiB |",
        f"| CPU of a worker without connections | {results['cpu_alone']} % of a core | |",
        f"| with {many:,} idle ones, and `timeouts.server = 0.5` | {results['cpu']} % | "
        f"{BARS['CPU']:.0f} % more |",
        "",
        "Pauses of the garbage collector and response times (ms), with a load of 64 further connections:",
        "",
        "| idle ones | p50 | p99 | generation | collections | p99 µs | longest µs |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, load in ((0, results["load_alone"]), (many, results["load"])):
        for generation, one in load["pauses"].items():
            lines.append(
                f"| {number:,} | {load['p50_ms']} | {load['p99_ms']} | {generation} | {one['count']} | "
                f"{one['p99_us']} | {one['most_us']} |"
            )
    told = "; ".join(
        f"generation {generation}: {count}, longest {most / 1000:.1f} ms"
        for generation, (count, most) in results["growing"].items()
    )
    return [*lines, "", f"While the {many:,} came: {told}."]
