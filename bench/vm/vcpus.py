"""A vCPU that comes online while pylb serves, and goes offline again: how soon the number of workers follows.

The guest starts with one vCPU of two and with pylb as it is without ``workers.max``, under load from this
host. The second vCPU is plugged in (QMP's device_add), and its agent brings it online and takes it offline
in turns; it is never unplugged. A controller on this host has a table that says the machine may use two
cores; then the same with pylb's embedded controller, which has to find the new vCPU idle first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.rig.report import in_words, machine
from bench.vm.calls import GuestError
from bench.vm.ends import HostController, Pylb, until
from bench.vm.guest import ACCELERATOR, CONTROLLER_PORT, Guest
from bench.vm.scene import SOURCE, Scene, answering, load_in_words, wrk

HOST = "on this host"
KINDS = {HOST: f"serial:{CONTROLLER_PORT}", "embedded": ""}
LOOK = {HOST: 0.05, "embedded": 0.5}
"""Seconds between two looks at pylb's status: in an emulated guest each costs a part of the idle vCPU."""
LIMIT = 2.0
LONGEST = 20.0
"""Seconds that are waited for the second worker: where the load is no pressure, there is none."""
CLIENTS = 64
ACTING = 2
"""Turns with a controller that acts; each takes more than half a minute."""
STAY = 8.0
"""Seconds for which a vCPU stays or is away; taken back within 6 s, it makes pylb wait the next time."""


async def _set(guest: Guest, online: bool) -> float:
    """Have the agent do it; gives the seconds that this took.

    Right after a vCPU was plugged in the agent may not know of it yet.
    """
    began = time.monotonic()
    while True:
        with contextlib.suppress(GuestError, OSError, TimeoutError):
            wanted = {"logical-id": 1, "online": online}
            if int(await guest.agent("guest-set-vcpus", vcpus=[wanted])) == 1:
                return time.monotonic() - began
        await asyncio.sleep(0.1)


def _serving(balancer: Pylb, count: int) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        workers = (await balancer.status())["workers"]
        return [worker["state"] for worker in workers] == ["serving"] * count

    return so


async def _turn(guest: Guest, balancer: Pylb, look: float) -> dict[str, float]:
    taken = {"online_call": await _set(guest, True)}
    try:
        taken["up"] = await until("two workers serve", _serving(balancer, 2), LONGEST, look)
    except TimeoutError:
        taken["up"] = LONGEST
        print(f"still one worker: {(await balancer.status())['scaling']['reason']}", flush=True)
    await asyncio.sleep(STAY)
    taken["offline_call"] = await _set(guest, False)
    taken["down"] = await until("one worker is left", _serving(balancer, 1), look=look)
    await asyncio.sleep(STAY)
    return {name: round(seconds, 3) for name, seconds in taken.items()}


async def _acting(controller: HostController, balancer: Pylb) -> dict[str, float | None]:
    """The controller brings the vCPU online while there is load; None where this host had no core for it."""
    known = len((await controller.status()).actions)

    def did(what: str) -> Callable[[], Awaitable[bool]]:
        async def so() -> bool:
            return any(what in did["action"] for did in (await controller.status()).actions[known:])

        return so

    taken: dict[str, float | None] = {"online": None, "serving": None, "offline": None}
    load = asyncio.create_task(wrk(balancer.guest.url(), 10_000, CLIENTS))
    with contextlib.suppress(TimeoutError):
        try:
            taken["online"] = seconds = await until("a vCPU is brought online", did("brought online"), 60)
            taken["serving"] = seconds + await until("two workers serve", _serving(balancer, 2), 30)
            await asyncio.sleep(STAY)
        finally:
            load.cancel()
        taken["offline"] = await until("the vCPU is taken offline", did("taken offline"))
    return taken


async def play(turns: int) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {"machine": machine(), "accelerator": ACCELERATOR, "turns": {}, "reasons": {}}
    found["load"] = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="pylb-") as folder:
        table = Path(folder) / "table.toml"
        table.write_text(f"cores = 2\n[vms]\nlb-{os.getpid()} = 2\n")
        async with (
            HostController(source=f"table:{table}") as controller,
            Scene(controller.socket) as scene,
            answering(scene.host) as server,
        ):
            guest = await scene.boot("lb", 1, 2)
            for kind, address in KINDS.items():
                balancer = Pylb(guest, workers=None, servers=[server], controller=address)
                await balancer.start()
                load = asyncio.create_task(wrk(guest.url(), 10_000, CLIENTS))
                try:
                    await asyncio.sleep(STAY)
                    if not found["turns"]:
                        await guest.plug()
                    status = await balancer.status()
                    found["before"] = len(status["workers"])
                    found["limits"] = [status["scaling"][key] for key in ("min", "max")]
                    taken = found["turns"][kind] = []
                    for number in range(turns):
                        taken.append(await _turn(guest, balancer, LOOK[kind]))
                        words = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in taken[-1].items())
                        print(f"{kind}, turn {number + 1} of {turns}: {words}", flush=True)
                    decisions = (await balancer.status())["scaling"]["decisions"]
                    found["reasons"][kind] = [decision["reason"] for decision in decisions[-2:]]
                finally:
                    load.cancel()
                await balancer.stop()
            balancer = Pylb(guest, workers=None, servers=[server])
            await balancer.start()
            source, act = Path(folder) / "host.toml", Path(folder) / "act.toml"
            source.write_text(SOURCE)
            act.write_text(f'state = "{folder}/acts"\n[agents]\n{guest.name} = "{guest.lend_agent()}"\n')
            await controller.stop()
            await controller.start("--source", f"hypervisor:{source}", "--act", str(act))
            await until("the balancer holds a lease", controller.leases)
            found["acting"] = [await _acting(controller, balancer) for _ in range(ACTING)]
            found["actions"] = (await controller.status()).actions
    return found


def page(found: dict[str, Any]) -> str:
    """The page of what was found."""
    lines = [
        "# A vCPU that comes and goes", "",
        f"`python -m bench.vm vcpus`; QEMU with {found['accelerator']}; {in_words(found['machine'])}"
        f"{load_in_words(found)}.", "",
        f"The guest begins with 1 vCPU of 2, and pylb with {found['before']} worker under load; without "
        f"`workers.max` it may have {found['limits'][0]} to {found['limits'][1]}. {CLIENTS} clients.", "",
        f"| controller | | median | at most | limit {LIMIT:g} s | the agent's call before |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kind, turns in found["turns"].items():
        for key, call, words in (
            ("up", "online_call", "vCPU online → two workers serve"),
            ("down", "offline_call", "vCPU offline → one worker serves, the other has left"),
        ):
            times = [turn[key] for turn in turns]
            calls = statistics.median(turn[call] for turn in turns)
            within = f"{sum(seconds < LIMIT for seconds in times)} of {len(times)}"
            lines.append(
                f"| {kind} | {words} | {statistics.median(times):.2f} s | {max(times):.2f} s | {within} | "
                f"{calls:.2f} s |"
            )
    if found["reasons"]:
        lines += ["", "pylb's reasons:", ""]
    lines += [f"- {kind}: {reason}" for kind, reasons in found["reasons"].items() for reason in reasons]
    if found["acting"]:
        lines += [
            "",
            "With `--act` and the source `hypervisor` the controller has the agent do it, on the balancer's "
            "pressure, and takes the vCPU offline 30 s after that:",
            "",
            "| load began → vCPU online | → two workers serve | load ended → vCPU offline |",
            "|---|---|---|",
        ]
    for turn in found["acting"]:
        cells = [f"{seconds:.2f} s" if seconds is not None else "not lent" for seconds in turn.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def run(folder: Path, turns: int) -> bool:
    """Play, and write ``vm_vcpus.json`` and ``vm_vcpus.md``; whether the workers followed in time."""
    found = asyncio.run(play(turns))
    (folder / "vm_vcpus.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "vm_vcpus.md").write_text(page(found))
    taken = [turn for kind in found["turns"].values() for turn in kind]
    return all(turn[key] < LIMIT for turn in taken for key in ("up", "down"))
