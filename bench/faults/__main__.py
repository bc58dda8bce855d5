"""``python -m bench.faults [WORD ...]``: play every kind of fault, or those with such words in their names.

Clients ask pylb and HAProxy at the same time, and the fault is the same for both, since the servers are. A
request that isn't answered with 200 within 3 s counts as failed. Needs root, haproxy, nftables and a C
compiler (without one the clock stays).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.faults import scene
from bench.faults.balancers import NAMES
from bench.faults.clients import GET, PAUSE, Tally, clients
from bench.faults.kinds import FAULTS, Fault
from bench.faults.report import Outcome, write
from bench.rig.command import console, need, parser, progress
from bench.rig.processes import wait_for

CLIENTS = 6
BEFORE = 0.4
"""Seconds of usual answers before a fault."""
BEHIND = 0.8
"""Seconds for which clients go on when it is over."""


async def _play(fault: Fault, stage: scene.Scene) -> list[Outcome]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = {
            name: group.create_task(clients(stage.ports[name][fault.site], CLIENTS, fault.request, stop))
            for name in NAMES
        }
        await asyncio.sleep(BEFORE)
        await fault.play(stage)
        stage.settle()
        await asyncio.sleep(BEHIND)
        stop.set()
    return [_outcome(fault, name, task.result()) for name, task in tasks.items()]


def _outcome(fault: Fault, name: str, tally: Tally) -> Outcome:
    return Outcome(fault.name, fault.covered, name, tally.requests, dict(tally.errors), tally.longest)


@dataclass
class _Stages:
    """Scenes, each kept for as many faults as leave its balancers as they were."""

    stack: ExitStack
    now: scene.Scene | None = None

    def give(self) -> scene.Scene:
        if self.now is None:
            folder = self.stack.enter_context(tempfile.TemporaryDirectory())
            self.now = self.stack.enter_context(scene.scene(Path(folder)))
        return self.now

    def spoilt(self) -> None:
        self.stack.close()
        self.now = None


def _all(faults: list[Fault]) -> Iterator[Outcome]:
    with ExitStack() as stack, progress() as bars:
        stages = _Stages(stack)
        bar = bars.add_task("faults", total=len(faults))
        for fault in faults:
            bars.update(bar, description=fault.name[:40])
            stage = stages.give()
            wait_for("all servers are used again", partial(_well, stage))
            yield from asyncio.run(_play(fault, stage))
            if fault.fresh:
                stages.spoilt()
            bars.advance(bar)


def _well(stage: scene.Scene) -> bool:
    """Whether each balancer answers, for as long as it takes to use a server again after a fault."""
    time.sleep(1.2)
    stop = asyncio.Event()

    async def ask() -> list[Tally]:
        asyncio.get_running_loop().call_later(20 * PAUSE, stop.set)
        ports = [port for own in stage.ports.values() for port in own.values()]
        return list(await asyncio.gather(*(clients(port, 2, GET, stop) for port in ports)))

    return all(tally.requests and not tally.errors for tally in asyncio.run(ask()))


def main() -> None:
    """Play them, and write the page."""
    options = parser(__doc__)
    options.add_argument("words", nargs="*", metavar="WORD", help="of the faults' names [all]")
    chosen = options.parse_args()
    need(options, "haproxy", "nft", "ip", "unshare", root=True)
    scene.inside()
    faults = [
        fault for fault in FAULTS if not chosen.words or any(word in fault.name for word in chosen.words)
    ]
    began = time.monotonic()
    outcomes = list(_all(faults))
    console.print(f"{time.monotonic() - began:.0f} s")
    write(outcomes, chosen.out)


if __name__ == "__main__":
    main()
