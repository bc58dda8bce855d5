"""One of two workers is stopped (SIGSTOP): what do the clients of the other one notice, and new ones?

Clients send a request every 20 ms on connections that they keep. Whose a connection is at the moment of the
stop, the kernel tells. nginx shares its listening socket between its workers, as it does by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.failures.report import Row
from bench.rig import peers
from bench.rig.clients import exchange
from bench.rig.origins import origin
from bench.rig.peers import Site

CLIENTS = 100
PAUSE = 3.0  # seconds
HANGS = 1.0  # seconds of waiting from which a request hangs
PATIENCE = 5.0  # seconds that a new client waits
OPTIONS: dict[str, dict[str, Any]] = {"pylb": {}, "nginx": {"reuseport": False}}


@contextlib.contextmanager
def _running(name: str, server: str) -> Iterator[tuple[int, list[psutil.Process]]]:
    """A balancer's port and its two workers."""
    site = Site([server])
    with (
        tempfile.TemporaryDirectory() as folder,
        peers.running(name, Path(folder), site, workers=2, **OPTIONS[name]) as program,
    ):
        try:
            yield site.port, program.workers(2)
        finally:
            for process in program.tree():
                process.send_signal(signal.SIGCONT)


@dataclass
class _Client:
    port: int = 0
    """Its own."""
    since: float = 0.0
    """When it asked what isn't answered yet."""
    longest: float = 0.0
    answered: bool = False

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.since = time.monotonic()
        await exchange(reader, writer)
        self.longest = max(self.longest, time.monotonic() - self.since)
        self.since = 0.0
        self.answered = True

    async def run(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.port = writer.get_extra_info("sockname")[1]
        while True:
            await self.ask(reader, writer)
            await asyncio.sleep(0.02)


async def _start(port: int) -> tuple[list[_Client], list[asyncio.Task[None]]]:
    clients = [_Client() for _ in range(CLIENTS)]
    return clients, [asyncio.create_task(client.run(port)) for client in clients]


async def _paused(port: int, victim: psutil.Process) -> tuple[list[float], list[float]]:
    """The longest waits of the stopped worker's own clients, and of all others."""
    clients, tasks = await _start(port)
    while not all(client.answered for client in clients):
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    for client in clients:
        client.longest = 0.0
    victim.send_signal(signal.SIGSTOP)
    held = {sock.raddr.port for sock in victim.net_connections("tcp") if sock.raddr}
    await asyncio.sleep(PAUSE)
    victim.send_signal(signal.SIGCONT)
    await asyncio.sleep(1)
    now = time.monotonic()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    waits = [(max(one.longest, now - one.since if one.since else 0.0), one.port in held) for one in clients]
    return [wait for wait, own in waits if own], [wait for wait, own in waits if not own]


async def _for_ever(port: int, victim: psutil.Process) -> tuple[int, float]:
    """Of clients that come when a worker has stopped: how many are not answered, and the longest wait."""
    victim.send_signal(signal.SIGSTOP)
    clients, tasks = await _start(port)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not all(client.answered for client in clients):
        await asyncio.sleep(0.02)
    await asyncio.sleep(1.5)  # for levelling to move some of them
    now = time.monotonic()
    hang = [one for one in clients if not one.answered or one.since and now - one.since > HANGS]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return len(hang), max((one.longest for one in clients if one not in hang), default=0.0)


async def _both(name: str, server: str) -> list[Row]:
    with _running(name, server) as (port, workers):
        own, others = await _paused(port, workers[0])
        hang = sum(wait > HANGS for wait in others)
        rows = [
            Row(
                f"one of two workers stops for {PAUSE:g} s, {CLIENTS} keep-alive clients",
                name,
                f"its own {len(own)} clients wait {max(own, default=0):.2f} s; of the {len(others)} others "
                f"{hang} hang, the longest waits {max(others, default=0):.2f} s",
                {"own": len(own), "own_longest": max(own, default=0), "others": len(others)}
                | {"others_hang": hang, "others_longest": max(others, default=0)},
            )
        ]
    with _running(name, server) as (port, workers):
        left, longest = await _for_ever(port, workers[0])
        rows.append(
            Row(
                f"one of two workers stops for ever, then {CLIENTS} clients come",
                name,
                f"{left} hang for more than {PATIENCE:g} s; the others wait {longest:.2f} s at most",
                {"hang": left, "longest": longest},
            )
        )
    return rows


def run() -> list[Row]:
    """pylb beside nginx."""
    with origin() as server:
        return [row for name in OPTIONS for row in asyncio.run(_both(name, server))]
