"""The source ``hypervisor`` with ``reader = "libvirt"``, beside a real libvirtd and two machines of it.

What libvirt says of pins, caps, weights and needs is compared with what ``/proc`` and the cgroups say. Then
libvirtd stands still, or is killed: facts that are older than a second lend nothing new, and the controller
goes on answering. At last the controller acts by libvirt (``lever = "libvirt"``), and is killed while the
balancer's machine has preference. pylb's port is libvirt's channel with ``<source mode='connect'>``.

Needs libvirt's module for Python, which Debian has for its own Python only::

    PYTHONPATH=.venv/lib/python3.11/site-packages /usr/bin/python3 -m bench.vm libvirt
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.rig.report import in_words, machine, write
from bench.vm import domain
from bench.vm.domain import DomainGuest, Libvirtd
from bench.vm.ends import HostController, Pylb, until
from bench.vm.guest import ACCELERATOR
from bench.vm.image import image
from bench.vm.killed import LEFT, kill_and_start, preferred
from bench.vm.network import Network
from bench.vm.scene import wrk
from controller.sources.hypervisor import HypervisorSource, Reader
from controller.sources.libvirtreader import LibvirtReader
from controller.sources.machines import MachineFacts
from controller.sources.procreader import ProcReader

CPUTUNE = "<shares>2048</shares><period>100000</period><quota>80000</quota><vcpupin vcpu='1' cpuset='1'/>"
LIMITS = "CPUs [0, 1] and [1], cap 1.6, weight 200"
"""What `CPUTUNE` says, on two CPUs, where 1024 shares are a weight of 100."""
STILL = 8.0
"""Seconds for which libvirtd stands still: more than after which the reader gives a call up."""
FRESH_AGAIN = 3.0
_DUTY, _SETTLE, _WATCH = 0.5, 4.0, 6.0
missing = domain.missing


@dataclass(frozen=True)
class Row:
    """One thing that was looked at."""

    what: str
    seen: str
    good: bool


class _Watch:
    """Asks a controller again and again: the longest that an answer took, and what was said last."""

    def __init__(self, controller: HostController) -> None:
        self._controller = controller
        self.slowest = 0.0
        self.idle: list[float] = []

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            self.idle.append((await self._controller.status()).idle_cores)
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            if task.done():
                task.result()
            task.cancel()


def _limits(facts: MachineFacts) -> str:
    cpus = " and ".join(str(sorted(vcpu.cpus)) for vcpu in facts.vcpus.values())
    return f"CPUs {cpus}, cap {facts.cap:g}, weight {facts.weight:g}"


async def _first(reader: Reader) -> MachineFacts:
    """Of the neighbour."""
    found: list[MachineFacts] = []

    async def known() -> bool:
        found[:] = [reader.read(time.monotonic()).machines["web"]]
        return True

    await until("the reader knows the machine", known, 10)
    return found[0]


async def _needs(sources: list[HypervisorSource]) -> list[float]:
    """What the neighbour needs by each of them, in the mean."""
    found: list[list[float]] = [[] for _ in sources]
    began = time.monotonic()
    while (now := time.monotonic()) < began + _SETTLE + _WATCH:
        for source, values in zip(sources, found, strict=True):
            source.sample(now)
            if now > began + _SETTLE:
                values.append(source.needs()["web"][1])
        await asyncio.sleep(0.25)
    return [statistics.mean(values) for values in found]


async def _facts(empty: Path, neighbour: DomainGuest) -> list[Row]:
    libvirt, proc = LibvirtReader(), ProcReader()
    try:
        told, read = _limits(await _first(libvirt)), _limits(await _first(proc))
        rows = [
            Row("pins, cap and weight of the neighbour by libvirt", told, told == LIMITS),
            Row("the same by /proc and cgroups", read, read == told),
        ]
        burner = await neighbour.start(f"python3 -m bench.vm.burn {_DUTY} 1")
        by_libvirt, by_proc = await _needs(
            [HypervisorSource(str(empty), libvirt), HypervisorSource(str(empty), proc)]
        )
        await neighbour.do(f"kill -9 -{burner}")
        seen = f"{by_libvirt:.2f} by libvirt, {by_proc:.2f} by /proc; it is {_DUTY:.2f}"
        good = abs(by_libvirt - by_proc) < 0.1 and abs(by_libvirt - _DUTY) < 0.2
        return [*rows, Row("what the neighbour needs, cores", seen, good)]
    finally:
        libvirt.close()
        proc.close()


async def _trouble(daemon: Libvirtd, controller: HostController) -> list[Row]:
    async def lends() -> bool:
        return (await controller.status()).idle_cores > 0

    await until("idle cores are known", lends, 20)
    rows = []
    watch = _Watch(controller)
    daemon.signal(signal.SIGSTOP)
    await asyncio.sleep(1.6)  # facts are old after one second, and are looked at four times a second
    async with watch.watching():
        await asyncio.sleep(STILL)
    daemon.signal(signal.SIGCONT)
    again = await until("idle cores are known again", lends, 20)
    lent = max(watch.idle)
    seen = f"{lent:.2f} idle cores at most, answers within {1000 * watch.slowest:.0f} ms; then {again:.2f} s"
    good = lent == 0 and watch.slowest < 0.5 and again < FRESH_AGAIN
    rows.append(Row(f"libvirtd stands still for {STILL:g} s", seen, good))
    await daemon.kill()
    await asyncio.sleep(1.6)
    gone = (await controller.status()).idle_cores
    await daemon.start()
    again = await until("idle cores are known again", lends, 20)
    machines = {lease["machine"] for lease in await controller.leases()}
    seen = f"{gone:.2f} idle cores, {again:.2f} s after its start as before; "
    seen += f"the balancer is in {', '.join(machines)}"
    good = gone == 0 and again < FRESH_AGAIN and machines == {"lb"}
    return [*rows, Row("libvirtd is killed and started", seen, good)]


async def _killed(controller: HostController, balancer: DomainGuest, act: Path) -> Row:
    """Preference that libvirt gives outlives a controller that is killed, and not the next one's start."""
    act.write_text(f'lever = "libvirt"\nstate = "{act}.state"\n')

    def shares() -> int:
        connection = importlib.import_module("libvirt").open(domain.URI)  # libvirtd was killed since
        try:
            live = connection.lookupByName(balancer.name)
            return int(live.schedulerParametersFlags(1)["cpu_shares"])  # 1: of the machine as it runs
        finally:
            connection.close()

    async def weight() -> int:
        return await asyncio.to_thread(shares)

    usual = await weight()
    await controller.stop()
    await controller.start("--act", str(act))
    load = asyncio.create_task(wrk(balancer.url(), 10_000, 64))

    async def end_load() -> None:
        load.cancel()

    try:
        given = await preferred(weight, usual)
        logged = [f"weight {usual} again: {LEFT}"]
        found = await kill_and_start(controller, act, weight, usual, logged, end_load)
    finally:
        load.cancel()
    seen = f"cpu_shares {usual}, with preference {given}, after the kill {found['killed']}, "
    seen += f"{found['seconds']:.2f} s after the next start's command {usual}"
    return Row("a controller that acts by libvirt is killed (-9)", seen, found["killed"] == given > usual)


async def play() -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="pylb-") as name:
        folder = Path(name)
        (folder / "empty.toml").touch()
        (folder / "libvirt.toml").write_text('reader = "libvirt"\n')
        async with (
            Libvirtd(folder / "log") as daemon,
            Network() as network,
            HostController(source=f"hypervisor:{folder / 'libvirt.toml'}") as controller,
            DomainGuest(image(), "lb", network, controller=controller.socket) as balancer,
            DomainGuest(image(), "web", network, cputune=CPUTUNE) as neighbour,
        ):
            rows = await _facts(folder / "empty.toml", neighbour)
            await Pylb(balancer).start()
            await until("the controller has the balancer's lease", controller.leases)
            (lease,) = await controller.leases()
            seen = f"{lease['machine']} ({lease['peer']}, QEMU's is {balancer.pid})"
            rows.append(Row("the balancer's machine", seen, lease["machine"] == "lb"))
            rows += await _trouble(daemon, controller)
            said = controller.log.read_text()
            lines = len(said.splitlines())
            rows.append(Row("lines in the controller's log", str(lines), lines < 10))
            rows.append(await _killed(controller, balancer, folder / "act.toml"))
    return {"machine": machine(), "accelerator": ACCELERATOR, "rows": [asdict(row) for row in rows]}


def page(found: dict[str, Any]) -> list[str]:
    """The page of what was found, in lines."""
    lines = [
        "# libvirt as the reader of machines, and as a lever", "",
        f"`python -m bench.vm libvirt`; QEMU with {found['accelerator']}, libvirt 9; "
        f"{in_words(found['machine'])}.", "",
        "| what | seen | as it should be |", "|---|---|---|",
    ]  # fmt: skip
    for row in found["rows"]:
        lines.append(f"| {row['what']} | {row['seen']} | {'yes' if row['good'] else 'no'} |")
    return lines


def run(folder: Path, turns: int) -> bool:
    """Play, and write ``vm_libvirt.json`` and ``vm_libvirt.md``; whether all was as it should be."""
    domain.isolate()
    found = asyncio.run(play())
    write("vm_libvirt", found, page(found), folder)
    return all(row["good"] for row in found["rows"])
