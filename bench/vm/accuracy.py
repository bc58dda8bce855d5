"""How true the source ``hypervisor`` is: what a neighbour needs by it, beside what that really needs.

A neighbour keeps its vCPUs busy for a known part of the time, once while the balancer's machine is idle and
once while that takes all it gets, so that the neighbour is starved. Beside it: what the neighbour needs by
what it *runs*, which is what a hypervisor's usual figures say. And: how long a look at 50 machines takes.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rig.report import in_words, machine, quantile, spread, write
from bench.vm.guest import ACCELERATOR, Guest
from bench.vm.image import image
from bench.vm.network import Network
from controller.sources.hypervisor import HypervisorSource

LIMIT = 0.1
"""Cores by which it may be wrong, in the mean of all cases."""
TICK_LIMIT = 0.002
"""Seconds of CPU that a look at `MACHINES` may take."""
MACHINES = 50
_DUTIES = ((0.0, 1), (0.25, 1), (0.5, 1), (0.25, 2), (0.75, 1), (0.5, 2), (0.75, 2))
_SETTLE = 4.0  # seconds; a measurement counts half after 0.7
_WATCH = 5.0
_LOOK = 0.25


@dataclass(frozen=True)
class Case:
    """Cores, in the mean of `_WATCH` seconds."""

    duty: float
    vcpus: int
    starved: bool
    ran: float
    needs: float
    may_use: float
    """The balancer's machine, by the source."""

    @property
    def truth(self) -> float:
        """What the neighbour really needs."""
        return self.duty * self.vcpus


async def _look(source: HypervisorSource, seconds: float) -> tuple[float, float, float]:
    """What the neighbour runs and needs, and what the balancer may use, in the mean."""
    found = []
    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        source.sample(now)
        if (known := source.needs().get("web")) is not None:  # not at the first look
            found.append((*known, source.bounds(["lb"])["lb"]))
        await asyncio.sleep(_LOOK)
    ran, needs, may_use = (statistics.mean(column) for column in zip(*found, strict=True))
    return ran, needs, may_use


async def _cases(source: HypervisorSource, balancer: Guest, neighbour: Guest, turns: int) -> list[Case]:
    found = []
    for turn in range(turns):
        for starved in (False, True) if turn % 2 == 0 else (True, False):
            busy = await balancer.start("python3 -m bench.vm.burn 1 2") if starved else 0
            for duty, vcpus in _DUTIES:
                burner = await neighbour.start(f"python3 -m bench.vm.burn {duty} {vcpus}") if duty else 0
                await _look(source, _SETTLE)
                case = Case(duty, vcpus, starved, *await _look(source, _WATCH))
                print(case, flush=True)
                found.append(case)
                if burner:
                    await neighbour.do(f"kill -9 -{burner}")
            if busy:
                await balancer.do(f"kill -9 -{busy}")
    return found


def ticks(folder: Path) -> dict[str, float]:
    """What a look at `MACHINES` machines of two vCPUs takes, with the bounds of one: milliseconds."""
    (folder / "none.toml").touch()
    command = [sys.executable, "-m", "bench.vm.dummies", str(MACHINES), "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dummies:
        assert dummies.stdout is not None
        dummies.stdout.readline()
        source = HypervisorSource(str(folder / "none.toml"))
        found = []
        for _ in range(400):
            began, used = time.perf_counter(), time.thread_time()
            source.sample(time.monotonic())
            name = next(iter(source.needs()), "none")
            source.bounds([name])
            source.capacity({name: 0.0})
            found.append((time.thread_time() - used, time.perf_counter() - began))
            time.sleep(0.01)
        assert len(source.needs()) >= MACHINES, len(source.needs())
        dummies.terminate()
    cpu, wall = ([1000 * seconds for seconds in column] for column in zip(*found[10:], strict=True))
    return {
        "cpu": quantile(cpu, 0.5), "cpu_p99": quantile(cpu, 0.99),
        "wall": quantile(wall, 0.5), "wall_p99": quantile(wall, 0.99),
    }  # fmt: skip


async def play(turns: int) -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="pylb-") as name:
        folder = Path(name)
        tick = ticks(folder)
        source = HypervisorSource(str(folder / "none.toml"))
        async with (
            Network() as network,
            Guest(image(), "lb", network) as balancer,
            Guest(image(), "web", network) as neighbour,
        ):
            cases = await _cases(source, balancer, neighbour, turns)
    return {
        "machine": machine(), "accelerator": ACCELERATOR, "turns": turns, "cores": os.cpu_count(),
        "load": os.getloadavg()[0], "tick": tick, "cases": summary(cases),
    }  # fmt: skip


def summary(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """For each case the medians of its turns, and the errors."""
    groups: dict[tuple[bool, float, int], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.starved, case.truth, case.vcpus), []).append(case)
    rows = []
    for (starved, truth, vcpus), turns in sorted(groups.items()):
        needs, ran, may_use = (
            spread(getattr(turn, key) for turn in turns) for key in ("needs", "ran", "may_use")
        )
        assert needs["median"] is not None and ran["median"] is not None
        rows.append(
            {"starved": starved, "truth": truth, "vcpus": vcpus, "needs": needs, "ran": ran,
             "may_use": may_use, "error": abs(needs["median"] - truth),
             "error_of_ran": abs(ran["median"] - truth)}
        )  # fmt: skip
    return rows


def page(found: dict[str, Any]) -> list[str]:
    """The page of what was found, in lines."""
    rows, tick = found["cases"], found["tick"]
    error, of_ran = (statistics.mean(row[key] for row in rows) for key in ("error", "error_of_ran"))
    lines = [
        "# What the hypervisor source knows of a neighbour", "",
        f"`python -m bench.vm accuracy`; QEMU with {found['accelerator']}; "
        f"{in_words(found['machine'])}; load of the host {found['load']:.1f}.", "",
        f"Two guests of two vCPUs on {found['cores']} cores; medians of {found['turns']} turns. Mean "
        f"error in {len(rows)} cases: **{error:.2f} cores** (limit {LIMIT:g}); by what the neighbour runs it "
        f"would be {of_ran:.2f}.", "",
        f"A look at {MACHINES} machines of two vCPUs: median {tick['cpu']:.2f} ms of CPU, 99 % "
        f"{tick['cpu_p99']:.2f} ms (limit {1000 * TICK_LIMIT:g} ms); by the clock "
        f"{tick['wall']:.2f} and {tick['wall_p99']:.2f} ms.", "",
        "| balancer's machine | neighbour's duty | it needs, by the source | error | it runs | error | "
        "the balancer may use |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        lines.append(
            f"| {'takes all it gets' if row['starved'] else 'idle'} | {row['truth']:.2f} on {row['vcpus']} | "
            f"{row['needs']['median']:.2f} | {row['error']:.2f} | {row['ran']['median']:.2f} | "
            f"{row['error_of_ran']:.2f} | {row['may_use']['median']:.2f} |"
        )
    return lines


def run(folder: Path, turns: int) -> bool:
    """Play, and write ``vm_accuracy.json`` and ``vm_accuracy.md``; whether the limits are kept."""
    found = asyncio.run(play(turns))
    write("vm_accuracy", found, page(found), folder)
    error, tick = statistics.mean(row["error"] for row in found["cases"]), found["tick"]["cpu"]
    return bool(error <= LIMIT and tick < 1000 * TICK_LIMIT)
