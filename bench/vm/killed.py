"""A controller that acts is killed (-9) while a machine has something from it: the next start takes it back.

A guest with one vCPU of two is put under load, so that its cgroup gets preference (``--act``) and its agent
brings the second vCPU online. Then the controller is killed. Until the next start the load ends, or goes on,
or somebody else sets another weight meanwhile. `kill_and_start` serves for libvirt's weights, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from bench.rig.report import in_words, machine, write
from bench.vm.ends import HostController, Pylb, until
from bench.vm.guest import ACCELERATOR
from bench.vm.scene import SOURCE, Scene, answering, load_in_words, wrk
from controller.act.weights import CGROUPS, PROC
from controller.sources.procreader import weight_file

CLIENTS = 64
ENDS, GOES_ON, OTHERS = "the load ends", "the load goes on", "somebody else sets the weight"
CASES = (ENDS, GOES_ON, OTHERS)
OTHER_WEIGHT = 3000
LEFT = "left by a controller that was killed"
LIMIT = 5.0
"""Seconds from the start's command in which all must be taken back: Python reads its modules meanwhile."""
_VCPU_SECONDS = 30.0
"""In which a vCPU is brought online; on a host that others use much no core is idle, and none is."""
Weight = Callable[[], Awaitable[int]]


async def preferred(weight: Weight, usual: int) -> int:
    """Wait until the weight is another one than usual, and give it."""

    async def raised() -> bool:
        return await weight() != usual

    await until("the machine has preference", raised, 60)
    return await weight()


async def kill_and_start(
    controller: HostController,
    act: Path,
    weight: Weight,
    expected: int,
    logged: Sequence[str],
    between: Callable[[], Awaitable[None]],
) -> dict[str, Any]:
    """Kill the controller, do what is to be done ``between``, and start it again.

    Gives the weight after the kill, the seconds from the start until the weight was as ``expected`` and the
    log had all words of ``logged``, and what it has logged of machines.

    Raises:
        TimeoutError: that was never so.
    """
    await controller.stop(signal.SIGKILL)
    known = len(controller.log.read_text())
    await asyncio.sleep(1)  # nobody takes it back
    found: dict[str, Any] = {"killed": await weight()}
    await between()

    def said() -> str:
        return controller.log.read_text()[known:]

    async def so() -> bool:
        return await weight() == expected and all(words in said() for words in logged)

    began = time.monotonic()
    looking = asyncio.create_task(until(f"the weight is {expected}, and logged: {logged}", so, 30, 0.005))
    await controller.start("--act", str(act))
    await looking
    found["seconds"] = round(time.monotonic() - began, 2)
    found["said"] = [line.partition("controller: ")[2] for line in said().splitlines() if "machine " in line]
    return found


class Play:
    """The guest, its balancer, and the controller that is killed."""

    def __init__(self, controller: HostController, balancer: Pylb, act: Path) -> None:
        self._controller = controller
        self._balancer = balancer
        self._act = act
        file = weight_file(CGROUPS, PROC / f"{balancer.guest.pid}/cgroup")
        assert file is not None
        self._file = file
        self._load: asyncio.Task[Any] | None = None

    async def _weight(self) -> int:
        return int(self._file.read_text())

    async def _cpus(self, count: int, seconds: float) -> float | None:
        """Wait for so many vCPUs in the guest, as pylb sees them; gives the seconds, or None."""

        async def so() -> bool:
            return bool((await self._balancer.status())["scaling"]["usable_cores"] == count)

        with contextlib.suppress(TimeoutError):
            return await until(f"{count} vCPUs are online", so, seconds, 0.2)
        return None

    def stop_load(self) -> None:
        if self._load is not None:
            self._load.cancel()

    async def turn(self, case: str) -> dict[str, Any]:
        """One case; what was seen, and whether it is as it should be."""
        usual = await self._weight()
        self._load = asyncio.create_task(wrk(self._balancer.guest.url(), 10_000, CLIENTS))
        await self._controller.start("--act", str(self._act))
        given = await preferred(self._weight, usual)
        lent = await self._cpus(2, _VCPU_SECONDS) is not None
        kept = json.loads(Path(f"{self._act}.state").read_text())["machines"]

        async def between() -> None:
            if case != GOES_ON:
                self.stop_load()
            if case == OTHERS:
                self._file.write_text(f"{OTHER_WEIGHT}\n")

        expected = {ENDS: usual, GOES_ON: given, OTHERS: OTHER_WEIGHT}[case]
        logged = [f"weight {usual} again: {LEFT}"]
        if case == GOES_ON:  # given back, and given anew
            logged.append(f"weight {given} instead of {usual}")
        elif case == OTHERS:
            logged = [f"weight {OTHER_WEIGHT} is left as it is: {LEFT}"]
        found = await kill_and_start(self._controller, self._act, self._weight, expected, logged, between)
        good = found["killed"] == given and found["seconds"] < LIMIT
        if case != GOES_ON and lent:
            found["offline"] = await self._cpus(1, LIMIT)
            good &= found["offline"] is not None
        self.stop_load()
        await self._controller.stop()
        found["ended"] = await self._weight()
        good &= found["ended"] == (OTHER_WEIGHT if case == OTHERS else usual)
        good &= not Path(f"{self._act}.state").exists()
        self._file.write_text(f"{usual}\n")
        about = {"case": case, "usual": usual, "given": given, "lent": lent, "kept": list(kept.values())}
        return {**about, **found, "good": bool(good)}


async def play(turns: int) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {"machine": machine(), "accelerator": ACCELERATOR, "turns": []}
    found["load"] = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="pylb-") as name:
        source, act = Path(name) / "host.toml", Path(name) / "act.toml"
        source.write_text(SOURCE)
        controller = HostController(source=f"hypervisor:{source}")
        try:
            async with Scene(controller.socket) as scene, answering(scene.host) as server:
                guest = await scene.boot("lb", 1, 2)
                balancer = Pylb(guest, None, [server])
                await balancer.start()
                await guest.plug()
                act.write_text(f'state = "{act}.state"\n[agents]\n{guest.name} = "{guest.lend_agent()}"\n')
                scenes = Play(controller, balancer, act)
                try:
                    for case in [case for _ in range(turns) for case in CASES]:
                        found["turns"].append(turn := await scenes.turn(case))
                        print({key: value for key, value in turn.items() if key != "kept"}, flush=True)
                finally:
                    scenes.stop_load()
        finally:
            await controller.__aexit__()
    return found


def page(found: dict[str, Any]) -> list[str]:
    """The page of what was found, in lines."""
    lines = [
        "# An acting controller is killed, and started again", "",
        f"`python -m bench.vm killed`; QEMU with {found['accelerator']}; {in_words(found['machine'])}"
        f"{load_in_words(found)}.", "",
        "A guest under load has preference by its cgroup's weight, and its agent has brought a second vCPU "
        "online, when the controller with `--act` is killed (-9). *Taken back*: seconds from the command "
        "that starts it again, in which Python reads its modules, too. *Not lent*: no core of the host was "
        "idle for a second vCPU.", "",
        "| until the next start | weight: usual | with preference | after kill -9 | after the next start | "
        "taken back | vCPU offline again | at its end | as it should be |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for turn in found["turns"]:
        after = {ENDS: turn["usual"], GOES_ON: f"{turn['usual']}, then {turn['given']}", OTHERS: OTHER_WEIGHT}
        offline = "—" if turn["case"] == GOES_ON else "not lent"
        if turn.get("offline") is not None:
            offline = f"{turn['offline']:.2f} s later"
        elif turn["lent"] and turn["case"] != GOES_ON:
            offline = "**not**"
        lines.append(
            f"| {turn['case']} | {turn['usual']} | {turn['given']} | {turn['killed']} | "
            f"{after[turn['case']]} | {turn['seconds']:.2f} s | {offline} | {turn['ended']} | "
            f"{'yes' if turn['good'] else '**no**'} |"
        )
    lines += ["", "What the next start logged, the first time:", ""]
    for case in CASES:
        turn = next(turn for turn in found["turns"] if turn["case"] == case)
        lines += [f"- {case}: {line}" for line in turn["said"]]
    return [*lines, "", "The same with libvirt's weights: [vm_libvirt](vm_libvirt.md)."]


def run(folder: Path, turns: int) -> bool:
    """Play, and write ``vm_killed.json`` and ``vm_killed.md``; whether all was taken back."""
    found = asyncio.run(play(turns))
    write("vm_killed", found, page(found), folder)
    return all(turn["good"] for turn in found["turns"])
