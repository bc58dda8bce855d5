"""The worker count stays while the control plane, its controller or the configuration begins anew."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.rig.balancer import Balancer
from bench.rig.clients import Tally, keep_alive_clients
from bench.rig.processes import titles, wait_for
from controller.address import Address
from controller.server import ControllerServer
from tests.e2e.origin import Origin

CORES = 4


class UsedByUs:
    """A machine without an idle core: the balancer has those that it says that it uses."""

    name = "used"

    def sample(self, now: float) -> None:
        """Nothing to look at."""

    def idle(self) -> float:
        return 0.0

    def capacity(self, used: Mapping[str, float]) -> float:
        # A worker's use of a core of this machine says more about the machine than about the worker.
        return float(CORES) if sum(used.values()) > 0 else 0.0

    def usable(self) -> float:
        return float(CORES)

    def per_cpu(self) -> list[float]:
        return []


class Controller:
    """A real controller's server, in a thread."""

    def __init__(self, path: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._address = Address("unix", path, 0)
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._started = threading.Event()
        self._thread.start()
        assert self._started.wait(50)

    async def _serve(self) -> None:
        server = ControllerServer(UsedByUs())
        await server.start(self._address)
        self._started.set()
        await self._stop.wait()
        await server.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(50)


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[list[Controller]]:
    """One that serves; the last of the list is stopped in the end."""
    found = [Controller(str(tmp_path / "controller.sock"))]
    yield found
    found[-1].stop()


@pytest.fixture
def running(origin: Origin, controllers: list[Controller], tmp_path: Path) -> Iterator[Balancer]:
    """A balancer that sees `CORES` CPUs, whatever this machine has."""
    one = Balancer(
        *("--workers", f"1..{CORES}", "--controller", f"unix:{tmp_path}/controller.sock"),
        servers=(origin.address,),
        module=("bench.guest", str(CORES), "1.0"),
    )
    yield one
    one.stop()


def control_plane(balancer: Balancer) -> int:
    """The control plane's pid, once there is one."""
    return wait_for("a control plane", lambda: titles(balancer.process.pid).get("pylb: control"))  # type: ignore[return-value]


def granted(balancer: Balancer, pid: int) -> None:
    """Wait until a control plane that isn't ``pid`` may have all cores."""

    def all_of_them(scaling: dict[str, Any]) -> bool:
        connected, cores = scaling["controller_connected"], scaling["granted_cores"]
        return connected and cores is not None and cores + scaling["idle_cores"] == CORES

    balancer.wait("granted", lambda status: all_of_them(status["scaling"]) and control_plane(balancer) != pid)


async def test_busy_workers_stay(running: Balancer, controllers: list[Controller], tmp_path: Path) -> None:
    stop = asyncio.Event()
    clients: asyncio.Task[Tally] = asyncio.create_task(
        keep_alive_clients("127.0.0.1", running.port, 20, stop)
    )

    def steps() -> None:
        running.scale(CORES)
        granted(running, 0)
        running.scale("auto")
        for _ in range(3):
            pid = control_plane(running)
            os.kill(pid, signal.SIGKILL)
            granted(running, pid)
        for generation in (2, 3):
            pid = control_plane(running)
            running.signal(signal.SIGHUP)
            running.wait("reloaded", lambda status, wanted=generation: status["generation"] == wanted)  # type: ignore[misc]
            granted(running, pid)
        controllers.pop().stop()
        controllers.append(Controller(str(tmp_path / "controller.sock")))
        granted(running, 0)

    try:
        await asyncio.to_thread(steps)
    finally:
        stop.set()
    tally = await clients
    assert tally.failed == []
    log = running.log.read_text()
    changes = re.findall(r"scaling from.*", log.split("automatic again")[1])
    # That there is little to do is another matter: this machine may be slow.
    assert [change for change in changes if "will do" not in change] == []
