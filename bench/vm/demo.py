"""The whole story with two real guests: a core is lent, taken back, given by preference, and returned.

A balancer's guest and a neighbour's, two vCPUs each, share two CPUs of this host. pylb asks the controller
through its virtio-serial port. While the neighbour sleeps the second core is idle, and pylb runs a second
worker on it; when the neighbour computes, it is taken back. Then the controller acts (``--act``): the
balancer's pressure gets its guest preference, and the core with it, until three seconds after the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.rig.report import in_words, machine
from bench.vm.ends import HostController, Pylb, until
from bench.vm.guest import ACCELERATOR
from bench.vm.scene import REST, SOURCE, Scene, answering, spin, used, wrk

CLIENTS = 96
EVERY = 0.25
TIMES = 100
"""How many times as large the preferred guest's weight is: on two CPUs ten would leave the neighbour too much
for a whole core to be lent."""
PHASES = {
    "calm": 5.0,
    "load, the neighbour sleeps": 15.0,
    "the neighbour computes": 15.0,
    "the host acts": 20.0,
    "the load has ended": 10.0,
}
"""Seconds of each."""
CALM, LENT, TAKEN, ACTS, ENDED = PHASES
Sample = dict[str, Any]


class Story:
    """Plays it, and looks four times a second."""

    def __init__(
        self, scene: Scene, controller: HostController, balancer: Pylb, folder: Path, answered: list[int]
    ) -> None:
        self.samples: list[Sample] = []
        self.actions: list[dict[str, Any]] = []
        self._scene, self._controller, self._balancer = scene, controller, balancer
        self._act = folder / "act.toml"
        self._answered = answered
        self._phase = CALM
        self._began = 0.0

    async def play(self) -> None:
        """All phases."""
        self._began = time.monotonic()
        looking = asyncio.create_task(self._look())
        guest = self._balancer.guest
        try:
            await asyncio.sleep(PHASES[CALM])
            there = self._scene.clients
            load = asyncio.create_task(wrk(guest.url(), 10_000, CLIENTS, keep_alive=False, place=there))
            try:
                await self._for(LENT)
                await spin(self._scene.guests["neighbour"])
                await self._for(TAKEN)
                self._act.write_text(f'times = {TIMES}\nstate = "{self._act}.state"\n')
                await self._controller.stop()
                await self._controller.start("--act", str(self._act))
                await self._for(ACTS)
            finally:
                load.cancel()
            await self._for(ENDED)
        finally:
            looking.cancel()

    async def _for(self, phase: str) -> None:
        self._phase = phase
        print(f"{time.monotonic() - self._began:5.1f} s: {phase}", flush=True)
        await asyncio.sleep(PHASES[phase])

    async def _look(self) -> None:
        before, answered = self._scene.cpu(), 0
        while True:
            await asyncio.sleep(EVERY)
            after, now = self._scene.cpu(), self._answered[0]
            sample: Sample = {
                "at": round(time.monotonic() - self._began, 2),
                "phase": self._phase,
                "rps": round((now - answered) / (after["at"] - before["at"]), 1),
                "cores": used(before, after),
            }
            before, answered = after, now
            with contextlib.suppress(OSError, TimeoutError):  # it is just started anew
                status = await self._controller.status()
                for lease in status.leases:
                    sample |= {"workers": lease["workers"], "leased": lease["cores"]}
                sample["preferred"] = any(shown["weight"] for shown in status.preferred)
                self.actions = status.actions or self.actions
            self.samples.append(sample)


async def play() -> dict[str, Any]:
    """All of it."""
    answered = [0]
    with tempfile.TemporaryDirectory(prefix="pylb-") as folder:
        source = Path(folder) / "source.toml"
        source.write_text(SOURCE)
        async with (
            HostController(source=f"hypervisor:{source}") as controller,
            Scene(controller.socket) as scene,
            answering(scene.host, answered=answered) as server,
        ):
            guest, _ = await asyncio.gather(scene.boot("lb", 2), scene.boot("neighbour", 2))
            balancer = Pylb(guest, (1, 2), [server])
            await balancer.start()
            await until("the balancer holds a lease", controller.leases)
            story = Story(scene, controller, balancer, Path(folder), answered)
            await story.play()
            decisions = (await balancer.status())["scaling"]["decisions"]
    return {
        "machine": machine(),
        "accelerator": ACCELERATOR,
        "samples": story.samples,
        "actions": story.actions,
        "decisions": decisions,
    }


def settled(found: Mapping[str, Any], phase: str) -> list[Sample]:
    """The last two thirds of a phase's samples."""
    samples = [sample for sample in found["samples"] if sample["phase"] == phase]
    return samples[len(samples) // 3 :]


def mean(samples: list[Sample], *keys: str) -> float:
    """Mean of what lies at these keys, where it was seen."""
    values = []
    for sample in samples:
        value: Any = sample
        for key in keys:
            value = None if value is None else value.get(key)
        if value is not None:
            values.append(float(value))
    return statistics.mean(values) if values else 0.0


def checks(found: Mapping[str, Any]) -> dict[str, bool]:
    """What the story is about, and whether it came about."""
    workers = {phase: mean(settled(found, phase), "workers") for phase in PHASES}
    rate = {phase: mean(settled(found, phase), "rps") for phase in PHASES}
    return {
        "the idle core is lent: two workers": workers[LENT] > 1.5,
        "it is taken back when the neighbour computes: one worker": workers[TAKEN] < 1.5,
        "preference brings it back": workers[ACTS] > 1.5 and rate[ACTS] > rate[TAKEN],
        "preference ends with the load": mean(settled(found, ENDED)[-4:], "preferred") == 0,
    }


def page(found: Mapping[str, Any]) -> str:
    """The page of what was found."""
    lines = [
        "# A core is lent, taken back, given by preference, and returned", "",
        f"`python -m bench.vm demo` (`make vm-demo`); QEMU with {found['accelerator']}; "
        f"{in_words(found['machine'])}.", "",
        "Two guests with two vCPUs each on two CPUs: pylb (1 to 2 workers), and a neighbour. The controller "
        f"on the host knows what both run and wait for. {CLIENTS} clients on the host.", "",
        "![cores over time](vm_demo.png)", "",
        "| | workers | cores: balancer | neighbour | rest of the host | answered/s |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for phase in PHASES:
        samples = settled(found, phase)
        cores = [mean(samples, "cores", name) for name in ("lb", "neighbour", REST)]
        cells = [f"{mean(samples, 'workers'):.1f}", *(f"{each:.2f}" for each in cores)]
        lines.append(f"| {phase} | {' | '.join(cells)} | {mean(samples, 'rps'):.0f} |")
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {what} | {'yes' if so else '**no**'} |" for what, so in checks(found).items()]
    lines += ["", "What the host did:", ""]
    lines += [f"- {did['machine']}: {did['action']}: {did['reason']}" for did in found["actions"]]
    lines += ["", "What pylb did:", ""]
    lines += [f"- {did['from']} → {did['to']} workers: {did['reason']}" for did in found["decisions"]]
    lines += [
        "", "A core is lent where three quarters of it are idle, so on two CPUs little else may run on the "
        f"host meanwhile. In `--act`'s file is `times = {TIMES}`: with ten the neighbour would keep a tenth "
        "of what the balancer gets, and no whole second core be left.",
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Cores and workers over time, and what the clients see."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    samples = found["samples"]
    at = [sample["at"] for sample in samples]
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(10, 5), layout="constrained", sharex=True, height_ratios=(3, 2)
    )
    lb, neighbour = (
        [_smooth([sample["cores"][name] for sample in samples], place) for place in range(len(samples))]
        for name in ("lb", "neighbour")
    )
    colours = ["#3b7dd8", "#c2552d"]
    above.stackplot(at, lb, neighbour, labels=["balancer's guest", "neighbour's guest"], colors=colours)
    known = [sample for sample in samples if "workers" in sample]
    times = [sample["at"] for sample in known]
    workers = [sample["workers"] for sample in known]
    above.step(times, workers, where="post", color="black", linewidth=1.6, label="pylb's workers")
    above.set(ylabel="cores; workers", ylim=(0, 2.6))
    rates = [_smooth([sample["rps"] for sample in samples], place) for place in range(len(samples))]
    below.plot(at, rates, color="#3b7dd8", linewidth=1.6)
    below.set(ylabel="requests answered/s", xlabel="seconds", ylim=(0, None), xlim=(0, at[-1]))
    preferred = [sample["at"] for sample in samples if sample.get("preferred")]
    for axes in (above, below):
        axes.grid(alpha=0.25)
        if preferred:
            label = "preference (--act)" if axes is above else None
            axes.axvspan(preferred[0], preferred[-1], color="#2e9e5b", alpha=0.18, label=label)
    for phase in PHASES:
        begins = next((sample["at"] for sample in samples if sample["phase"] == phase), None)
        if begins is not None:
            for axes in (above, below):
                axes.axvline(begins, color="black", linewidth=0.8, linestyle=":")
            above.text(begins + 0.3, 2.45, phase, fontsize=8, va="center")
    above.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.93), framealpha=0.9)
    figure.suptitle("Two guests on two cores: a core is lent, taken back, given by preference, and returned")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _smooth(values: list[float], place: int) -> float:
    """Mean over a second."""
    near = values[max(0, place - 1) : place + 3]
    return sum(near) / len(near)


def run(folder: Path, turns: int) -> bool:
    """Play it ``turns`` times at most, until it goes as told; write ``vm_demo`` as JSON, page and picture."""
    for _ in range(turns):
        found = asyncio.run(play())
        (folder / "vm_demo.json").write_text(json.dumps(found) + "\n")
        (folder / "vm_demo.md").write_text(page(found))
        draw(found, folder / "vm_demo.png")
        for what, so in checks(found).items():
            print(f"{'yes' if so else 'NO'}: {what}", flush=True)
        if all(checks(found).values()):
            return True
    return False
