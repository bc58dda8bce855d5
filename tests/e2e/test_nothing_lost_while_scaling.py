"""I1 and I2: no request is lost and load moves, while workers come, go, are replaced and die."""

from __future__ import annotations

import asyncio
import os
import signal

from bench.rig.balancer import Balancer
from bench.rig.clients import Tally, connection_per_request, keep_alive_clients
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin

CLIENTS = 250


def level(status: dict[str, list[dict[str, int]]], workers: int) -> bool:
    """Whether the busiest worker holds at most 1.25 times the mean of all connections."""
    held = [worker["connections"] for worker in status["workers"]]
    return len(held) == workers and sum(held) == CLIENTS and max(held) <= 1.25 * CLIENTS / workers


async def test_keep_alive_clients_notice_nothing(balancer: StartBalancer, origin: Origin) -> None:
    running = balancer("--workers", "1..4", servers=(origin.address,))
    running.scale(1)
    stop = asyncio.Event()
    clients = asyncio.create_task(keep_alive_clients("127.0.0.1", running.port, CLIENTS, stop))

    def steps() -> None:
        running.wait("all connected", lambda status: status["totals"]["connections"] == CLIENTS)
        for count in (2, 4):
            running.scale(count)
            running.wait("level", lambda status, count=count: level(status, count))  # type: ignore[misc]
        running.scale(1)
        running.wait("level", lambda status: level(status, 1))
        running.signal(signal.SIGHUP)
        running.wait(
            "reloaded",
            lambda status: [w["generation"] for w in status["workers"]] == [2] and level(status, 1),
        )

    await _during(steps, stop)
    tally = await clients
    assert tally.failed == []
    assert tally.connections == CLIENTS
    assert tally.answered > CLIENTS
    running.wait("counted", lambda status: status["totals"]["status_2xx"] == tally.answered)


async def test_a_killed_worker_loses_only_what_it_held(balancer: StartBalancer, origin: Origin) -> None:
    running = balancer("--workers", "2", servers=(origin.address,))
    running.wait_workers(2)
    stop = asyncio.Event()
    clients = asyncio.create_task(keep_alive_clients("127.0.0.1", running.port, CLIENTS, stop))
    held: list[int] = []

    def steps() -> None:
        status = running.wait("level", lambda status: level(status, 2))
        victim = status["workers"][0]
        held.append(victim["connections"])
        os.kill(victim["pid"], signal.SIGKILL)
        running.wait(
            "replaced",
            lambda status: (
                len(status["workers"]) == 2
                and victim["pid"] not in [worker["pid"] for worker in status["workers"]]
            ),
        )

    await _during(steps, stop)
    tally = await clients
    # Levelling may move a few connections between the look and the kill.
    assert 0 < len(tally.failed) <= 1.25 * held[0]
    fresh = await connection_per_request("127.0.0.1", running.port, 200, 20)
    assert fresh.failed == []


async def test_a_connection_per_request_while_workers_come_and_go(
    balancer: StartBalancer, origin: Origin
) -> None:
    running = balancer("--workers", "1..4", servers=(origin.address,))
    done = asyncio.Event()

    async def load() -> Tally:
        try:
            return await connection_per_request("127.0.0.1", running.port, 6000, CLIENTS)
        finally:
            done.set()

    async def scaling() -> int:
        changes = 0
        while not done.is_set():
            for count in (2, 4, 1):
                await asyncio.to_thread(running.scale, count)
                changes += 1
        return changes

    tally, changes = await asyncio.gather(load(), scaling())
    assert tally.failed == [], running.log.read_text()
    assert tally.answered == 6000
    assert changes >= 3


async def _during(steps: object, stop: asyncio.Event) -> None:
    assert callable(steps)
    try:
        await asyncio.to_thread(steps)
    finally:
        stop.set()


async def test_a_refused_reload_changes_nothing(
    balancer: StartBalancer, origin: Origin, tmp_path: object
) -> None:
    from pathlib import Path

    from bench.rig.balancer import free_port

    port = free_port()
    file = Path(str(tmp_path)) / "pylb.toml"
    good = (
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
    )
    file.write_text(good)
    running: Balancer = balancer("-c", str(file))
    file.write_text(good + "wieght = 2\n")
    running.signal(signal.SIGHUP)
    status = running.wait("refused", lambda status: (status["reload"] or {}).get("ok") is False)
    assert "backend[0].server[0].wieght: unknown key" in str(status["reload"]["errors"])
    tally = await connection_per_request("127.0.0.1", port, 10, 2)
    assert tally.failed == []
