"""The controller's port of a guest: what a round trip takes, and how soon all is well again after trouble.

pylb runs in the guest and talks through virtio-serial with a controller on this host. One of them is killed,
or the machine is stopped for six seconds, or reset. *Well again* is when the controller lists the balancer's
lease and, asked after that, the balancer holds a grant. A process that is started anew in an emulated machine
needs seconds until Python has read its modules; what counts is the time from its first answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.rig.report import in_words, machine, quantile, spread, write
from bench.vm.ends import HostController, Pylb, until
from bench.vm.guest import ACCELERATOR, CONTROLLER_PORT, PLUG, Guest
from bench.vm.image import image
from bench.vm.network import Network

LIMIT = 2.0
"""Seconds in which all must be well again."""
STOPPED = 6.0
WITHOUT = 15.0
"""Seconds for which a machine without a balancer is watched."""
_ROUND_TRIPS = 2000


class Play:
    """A guest with pylb and its controller, and the troubles that are made for them."""

    def __init__(self, controller: HostController, guest: Guest) -> None:
        self.controller = controller
        self.guest = guest
        self.balancer = Pylb(guest)

    async def _well(self) -> float:
        """Wait until controller and balancer know each other; gives the seconds."""
        began = time.monotonic()
        await until("the controller has the balancer's lease", self.controller.leases)

        async def granted() -> bool:
            scaling = (await self.balancer.status())["scaling"]
            return bool(scaling["controller_connected"]) and scaling["granted_cores"] is not None

        await until("the balancer holds a grant", granted)
        return time.monotonic() - began

    async def silence(self) -> int:
        """Connections that QEMU makes anew to the controller while the machine has no balancer."""
        before = _sockets(self.guest.pid)
        await asyncio.sleep(WITHOUT)
        return len(_sockets(self.guest.pid) - before)

    async def begin(self) -> None:
        await self.balancer.start()
        await self._well()

    async def balancer_killed(self) -> tuple[float, float]:
        """All of pylb's processes; it is started anew at once."""
        began = time.monotonic()
        await self.balancer.kill()
        await self.balancer.start()
        serving = time.monotonic()
        return serving - began, await self._well()

    async def control_plane_killed(self) -> tuple[float, float]:
        """pylb's process that holds the port; the supervisor starts another one."""
        await self.guest.do("kill -9 $(pgrep -f '^pylb: control')")
        return 0.0, await self._well()

    async def controller_killed(self) -> tuple[float, float]:
        """It is started anew at once."""
        began = time.monotonic()
        await self.controller.stop(signal.SIGKILL)
        await self.controller.start()
        started = time.monotonic()
        return started - began, await self._well()

    async def stopped(self) -> tuple[float, float]:
        """The machine stands still."""
        await self.guest.qmp("stop")
        began = time.monotonic()
        await asyncio.sleep(STOPPED)
        if not await self._no_lease():
            raise AssertionError("the lease of a machine that stands still has not expired")
        await self.guest.qmp("cont")
        continued = time.monotonic()
        return continued - began, await self._well()

    async def unplugged(self) -> tuple[float, float]:
        """The port is unplugged and, when the lease has expired, plugged in again."""
        began = time.monotonic()
        await self.guest.qmp("device_del", id=PLUG)
        await until("the lease expires", self._no_lease)
        plug = {"driver": "virtserialport", "chardev": "controller", "name": CONTROLLER_PORT, "id": PLUG}
        await self.guest.qmp("device_add", **plug)
        plugged = time.monotonic()
        return plugged - began, await self._well()

    async def _no_lease(self) -> bool:
        return not await self.controller.leases()

    async def reset(self) -> tuple[float, float]:
        """The machine is reset; pylb starts with it."""
        began = time.monotonic()
        await self.guest.reset()
        await self.balancer.start()
        serving = time.monotonic()
        return serving - began, await self._well()


TROUBLES: dict[str, tuple[str, Callable[[Play], Awaitable[tuple[float, float]]]]] = {
    "balancer killed (-9), started anew": ("pylb's first answer", Play.balancer_killed),
    "its control plane killed (-9)": ("the kill", Play.control_plane_killed),
    "controller killed (-9), started anew": ("the controller's first answer", Play.controller_killed),
    f"machine stopped for {STOPPED:g} s": ("its continuation", Play.stopped),
    "port unplugged, plugged in again": ("its return", Play.unplugged),
    "machine reset": ("pylb's first answer", Play.reset),
}
"""By name, from when recovery counts, what makes the trouble; it gives the seconds until and from then."""


def _sockets(pid: int) -> set[str]:
    """Of a process, each with the number that is its own as long as it lives."""
    folder = Path(f"/proc/{pid}/fd")
    links = (os.readlink(folder / name) for name in os.listdir(folder))
    return {link for link in links if link.startswith("socket:")}


async def _serve_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def _round_trips(guest: Guest, kind: str, count: int) -> dict[str, float]:
    """Milliseconds: the median, and what 99 of 100 don't exceed."""
    answer = await guest.do(f"python3 -m bench.vm.echo {CONTROLLER_PORT} {kind} {count}", 120)
    found: list[float] = json.loads(answer)
    times = [1000 * seconds for seconds in found[len(found) // 10 :]]  # the first are being translated
    return {"median": quantile(times, 0.5), "p99": quantile(times, 0.99)}


async def play(turns: int) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {"machine": machine(), "accelerator": ACCELERATOR, "turns": turns}
    found["load"] = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="pylb-") as folder:
        path = Path(folder) / "echo"
        server = await asyncio.start_unix_server(_serve_echo, path)
        async with server, Network() as network, Guest(image(), "echo", network, controller=path) as guest:
            found["echo"] = await _round_trips(guest, "echo", _ROUND_TRIPS)
        source = Path(folder) / "source.toml"
        source.touch()
        async with (
            HostController(source=f"hypervisor:{source}") as controller,
            Network() as network,
            Guest(image(), "balancer", network, controller=controller.socket) as guest,
        ):
            found["hello"] = await _round_trips(guest, "hello", 100)
            scene = Play(controller, guest)
            found["connections_without_balancer"] = await scene.silence()
            await scene.begin()
            seen: dict[str, list[tuple[float, float]]] = {name: [] for name in TROUBLES}
            for _ in range(turns):
                for name, (_, make) in TROUBLES.items():
                    before, recovery = await make(scene)
                    print(f"{name}: {before:.2f} s, then {recovery:.2f} s", flush=True)
                    seen[name].append((before, recovery))
    found["troubles"] = {name: together(times) for name, times in seen.items()}
    return found


def together(times: list[tuple[float, float]]) -> dict[str, Any]:
    """The turns of one trouble as one."""
    before, recovery = zip(*times, strict=True)
    return {"before": spread(before), "recovery": spread(recovery)}


def page(found: dict[str, Any]) -> list[str]:
    """The page of what was found, in lines."""
    lines = [
        "# The controller's port of a real guest", "",
        f"`python -m bench.vm serial`; QEMU with {found['accelerator']}; "
        f"{in_words(found['machine'])}; load of the host {found['load']:.1f}.", "",
        "| round trip through virtio-serial | median | 99 % | |", "|---|---|---|---|",
    ]  # fmt: skip
    for key, words, more in (
        ("echo", "a line of 150 bytes and the same back", "guest's Python, QEMU, host's asyncio, and back"),
        ("hello", "hello and its grant", "cores are shared at most every 25 ms"),
    ):
        median, high = found[key]["median"], found[key]["p99"]
        lines.append(f"| {words} | {median:.2f} ms | {high:.2f} ms | {more} |")
    lines += [
        "", f"While the machine has no balancer, QEMU connects {found['connections_without_balancer']} times "
        f"anew to the controller in {WITHOUT:g} s.",
        "", f"Then all is well again; {found['turns']} times each, limit {LIMIT:g} s:", "",
        "| trouble | well again after | at most | counted from | which was after |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, times in found["troubles"].items():
        recovery = times["recovery"]
        lines.append(
            f"| {name} | {recovery['median']:.2f} s | {recovery['max']:.2f} s | {TROUBLES[name][0]} | "
            f"{times['before']['median']:.2f} s |"
        )
    return lines


def run(folder: Path, turns: int) -> bool:
    """Play, and write ``vm_serial.json`` and ``vm_serial.md``; whether all were well again in time."""
    found = asyncio.run(play(turns))
    write("vm_serial", found, page(found), folder)
    quiet = found["connections_without_balancer"] == 0
    return quiet and all(times["recovery"]["max"] < LIMIT for times in found["troubles"].values())
