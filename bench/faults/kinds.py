"""The kinds of faults: what happens, what ends it, and whether a retry may cover it.

A fault lasts for `Fault.seconds`; it begins while clients are asking, and they go on for a moment behind it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.faults.clients import GET, POST
from bench.faults.scene import PLAIN, Scene

Play = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One kind."""

    name: str
    play: Play
    """Does it, for as long as it lasts; what it leaves behind is put right by `Scene.settle`."""
    covered: bool = True
    """Whether a balancer may keep it from all clients."""
    site: str = "plain"
    request: bytes = GET
    fresh: bool = False
    """Whether the balancers are spoilt by it, and others are started for the next one."""


def _mode(mode: str, *numbers: int, seconds: float = 1.5) -> Play:
    async def play(scene: Scene) -> None:
        scene.servers.play(mode, *numbers)
        await asyncio.sleep(seconds)

    return play


def _rules(*rules: str, seconds: float = 1.5) -> Play:
    async def play(scene: Scene) -> None:
        ports = ", ".join(str(scene.port_of(number)) for number in range(PLAIN))
        scene.network.set(*(rule.format(one=scene.port_of(0), all="{" + ports + "}") for rule in rules))
        await asyncio.sleep(seconds)

    return play


def _signal(what: str, number: signal.Signals, then: signal.Signals | None = None) -> Play:
    async def play(scene: Scene) -> None:
        scene.send(what, number)
        await asyncio.sleep(1.5)
        if then is not None:
            scene.send(what, then)

    return play


async def _flap(scene: Scene) -> None:
    for _ in range(5):
        scene.servers.play("refuse", 0)
        await asyncio.sleep(0.2)
        scene.servers.play("ok", 0)
        await asyncio.sleep(0.2)


async def _rolling(scene: Scene) -> None:
    for number in range(PLAIN):
        scene.servers.play("refuse", number)
        await asyncio.sleep(0.3)
        scene.servers.play("ok", number)
        await asyncio.sleep(0.3)


async def _full(scene: Scene) -> None:
    scene.fill()
    await asyncio.sleep(1.5)


async def _clock(scene: Scene) -> None:
    scene.clock.jump(86_400)
    await asyncio.sleep(0.8)
    scene.clock.jump(-86_400)
    await asyncio.sleep(0.8)


async def _nothing(scene: Scene) -> None:
    await asyncio.sleep(1.5)


async def _reloads(scene: Scene) -> None:
    for _ in range(3):
        scene.programs["pylb"].process.send_signal(signal.SIGHUP)
        scene.programs["haproxy"].process.send_signal(signal.SIGUSR2)
        await asyncio.sleep(0.7)


ALL = tuple(range(PLAIN))
FAULTS = (
    Fault("none", _nothing),
    # A server that isn't there
    Fault("one of four refuses connections, its own are reset", _mode("refuse", 0)),
    Fault("one of four takes no packet any more", _rules("tcp dport {one} drop", seconds=2.5)),
    Fault(
        "one of four takes no new connection (SYNs are lost)", _rules("tcp dport {one} tcp flags syn drop")
    ),
    Fault("half of the servers refuse", _mode("refuse", 0, 1)),
    Fault("all but one refuse", _mode("refuse", 0, 1, 2)),
    Fault("all refuse for half a second", _mode("refuse", *ALL, seconds=0.5), covered=False),
    Fault("all refuse for two seconds", _mode("refuse", *ALL, seconds=2.0), covered=False),
    Fault("one flaps, five times down and up in two seconds", _flap),
    Fault("all restart, one after the other, for 0.3 s", _rolling),
    # A server that answers badly
    Fault("one accepts and says nothing, its checks too", _mode("silent", 0, seconds=2.5)),
    Fault("one resets after the request's head", _mode("reset", 0)),
    Fault("one closes without an answer", _mode("empty", 0)),
    Fault("one answers junk", _mode("junk", 0)),
    Fault("one resets in the middle of the body", _mode("cut", 0), covered=False),
    Fault("one stalls in the middle of the body", _mode("stall", 0, seconds=2.5), covered=False),
    Fault("one takes 0.3 s for each answer, its checks too", _mode("slow", 0)),
    Fault("all trickle: 20 bytes every 20 ms", _mode("trickle", *ALL)),
    Fault("one answers 503", _mode("busy", 0)),
    Fault("one answers 500, and its checks are good", _mode("lies", 0)),
    Fault("the checks of one are bad, and it serves", _mode("sick", 0)),
    Fault("the checks of all are bad, and they serve", _mode("sick", *ALL), covered=False),
    Fault("all close each connection 2 ms after an answer, GET", _mode("stale", *ALL)),
    Fault("the same, POST", _mode("stale", *ALL), request=POST),
    Fault("all end lines with LF alone", _mode("linefeeds", *ALL)),
    Fault("one of two servers has an expired certificate", _nothing, site="secure"),
    # The network
    Fault(
        "10 % of all packets to servers are lost", _rules("tcp dport {all} numgen random mod 100 < 10 drop")
    ),
    Fault("all packets to servers are lost for 0.5 s", _rules("tcp dport {all} drop", seconds=0.5)),
    # The machine
    Fault("the access log's disk is full", _full),
    Fault("the clock jumps a day ahead, then two back", _clock),
    # The balancer itself; a worker's are those of HAProxy's one process
    Fault("three reloads", _reloads),
    Fault("a worker is killed", _signal("worker", signal.SIGKILL), covered=False, fresh=True),
    Fault("a worker is stopped for 1.5 s", _signal("worker", signal.SIGSTOP, signal.SIGCONT), covered=False),
    Fault(
        "the control plane (HAProxy's master) is frozen", _signal("control", signal.SIGSTOP, signal.SIGCONT)
    ),
    Fault("the control plane (HAProxy's master) is killed", _signal("control", signal.SIGKILL), fresh=True),
)
