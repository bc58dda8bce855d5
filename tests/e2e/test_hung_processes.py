"""A process that hangs costs its own clients some time, and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.rig.balancer import Balancer, free_port, frontend
from bench.rig.processes import titles
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
NEVER = "1h"  # the watchdog's time where a test wants nobody killed


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes to be continued at the end, lest they wait for ever."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def start(
    balancer: StartBalancer, origin: Origin, folder: Path, workers: str, watchdog: str = NEVER
) -> Balancer:
    low, _, high = workers.partition("..")
    port = free_port()
    (folder / "pylb.toml").write_text(
        f'[workers]\nmin = {low}\nmax = {high or low}\nwatchdog = "{watchdog}"\n{frontend("f", port)}'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
    )
    running = balancer("-c", str(folder / "pylb.toml"))
    running.port = port
    running.wait_workers(int(low))
    return running


def hang(pid: int, stopped: list[int]) -> None:
    stopped.append(pid)
    os.kill(pid, signal.SIGSTOP)


def states(running: Balancer) -> dict[int, str]:
    return {worker["pid"]: worker["state"] for worker in running.status()["workers"]}


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(GET)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1)
    return head.startswith(b"HTTP/1.1 200 ")


async def test_new_clients_are_answered_by_the_others(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, stopped: list[int]
) -> None:
    """They connect at once: some wait in the stopped one's accept queue, some were levelled into it."""
    running = start(balancer, origin, tmp_path, "2")
    victim = running.workers()[1]["pid"]
    hang(victim, stopped)
    clients = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(100)]
    for _ in range(3):
        async with asyncio.timeout(30):
            assert all(await asyncio.gather(*[answered(*client) for client in clients]))
    running.wait("stuck", lambda status: [w["state"] for w in status["workers"]] == ["serving", "stuck"])
    os.kill(victim, signal.SIGCONT)
    running.wait(  # it is taken back, and gets its share
        "level",
        lambda status: (
            [w["state"] for w in status["workers"]] == ["serving"] * 2
            and all(40 <= w["connections"] <= 60 for w in status["workers"])
        ),
    )
    assert victim in states(running)
    async with asyncio.timeout(30):
        assert all(await asyncio.gather(*[answered(*client) for client in clients]))
    for _, writer in clients:
        writer.close()


def test_the_only_worker_gets_a_stand_in_and_leaves_when_it_wakes(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, stopped: list[int]
) -> None:
    running = start(balancer, origin, tmp_path, "1")
    victim = running.workers()[0]["pid"]
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as held:
        held.sendall(GET)
        assert held.recv(65536).startswith(b"HTTP/1.1 200 ")
        hang(victim, stopped)
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as fresh:
            fresh.sendall(GET)
            assert fresh.recv(65536).startswith(b"HTTP/1.1 200 ")
        held.sendall(GET)
        running.wait(
            "replaced", lambda status: sorted(w["state"] for w in status["workers"]) == ["serving", "stuck"]
        )
        os.kill(victim, signal.SIGCONT)
        assert held.recv(65536).startswith(b"HTTP/1.1 200 ")
        running.wait_workers(1)
        assert victim not in states(running)
        held.sendall(GET)  # it was moved
        assert held.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_who_stays_silent_is_killed_and_replaced(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, stopped: list[int]
) -> None:
    running = start(balancer, origin, tmp_path, "2", watchdog="2s")
    victim = running.workers()[0]["pid"]
    hang(victim, stopped)
    running.wait(
        "replaced",
        lambda status: (
            [w["state"] for w in status["workers"]] == ["serving"] * 2
            and victim not in [w["pid"] for w in status["workers"]]
        ),
    )
    assert "no sign of life" in running.log.read_text()


def test_a_hung_control_plane_is_replaced(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, stopped: list[int]
) -> None:
    running = start(balancer, origin, tmp_path, "1", watchdog="2s")
    control = psutil.Process(titles(running.process.pid)["pylb: control"])
    hang(control.pid, stopped)
    control.wait(30)
    running.wait("asked again", lambda status: True)
    assert "control plane" in running.log.read_text()


def test_a_leaving_worker_that_hangs_is_killed(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, stopped: list[int]
) -> None:
    running = start(balancer, origin, tmp_path, "1", watchdog="2s")
    victim = running.workers()[0]["pid"]
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as held:
        held.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        running.wait("under way", lambda status: status["servers"][0]["active"] == 1)
        running.signal(signal.SIGHUP)
        running.wait("leaving", lambda status: status["workers"][0]["state"] == "retiring")
        hang(victim, stopped)
        running.wait_workers(1)
        assert victim not in states(running)


# In the balancer's own session, since each session gets its share of a CPU (man 7 sched, "autogroup"). They
# wait for a signal before they are busy, or the balancer would hardly come to start.
BUSY = """
import os, signal, sys
parent = os.getpid()
for _ in range(3):
    if os.fork() == 0:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.setpriority(os.PRIO_PROCESS, 0, -20 if os.geteuid() == 0 else 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        while os.getppid() == parent and not signal.sigtimedwait({signal.SIGUSR1}, 1): pass
        while os.getppid() == parent: pass
        os._exit(0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.alone  # so that nobody else's process is on that CPU
def test_a_worker_that_gets_no_cpu_is_not_judged(origin: Origin) -> None:
    """The scheduler prefers all others on its CPU for seconds, so that its heartbeat stays away."""
    running = Balancer("--workers", "1", servers=(origin.address,), wrap=(sys.executable, "-c", BUSY))
    children = psutil.Process(running.process.pid).children()
    others = [child for child in children if child.cmdline()[1:2] == ["-c"]]
    try:
        worker = running.workers()[0]["pid"]
        assert len(others) == 3

        def used() -> float:
            return sum(other.cpu_times().user + other.cpu_times().system for other in others)

        os.sched_setscheduler(worker, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setaffinity(worker, {max(os.sched_getaffinity(0))})
        for other in others:
            other.send_signal(signal.SIGUSR1)
        before = used()
        running.wait("late", lambda status: used() > before + 5, seconds=120)
        assert states(running) == {worker: "serving"}
    finally:
        for other in others:
            other.kill()  # or the worker has no CPU to end with
        running.signal(signal.SIGQUIT)
        running.process.wait(25)
    assert "sign of life" not in running.log.read_text()
