"""The scaling loop of the control plane: measure, report to the controller, decide, tell the supervisor.

Below `main`. How many workers there should be is decided in `pylb.scaling`, which is pure; this module
supplies the figures from scoreboard, controller and kernel.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil

from controller.address import parse
from controller.client import ControllerClient
from controller.embedded import EmbeddedController
from controller.protocol import Hello, Report
from controller.sources.measured import HALF_LIFE, MeasuredSource
from controller.sources.quota import usable_cores, whole_cores
from pylb import log as log_
from pylb.config.model import Config
from pylb.control import snapshot
from pylb.log import log
from pylb.scaling.policy import Decision, Inputs, Memory, Policy, demand
from pylb.scaling.steal import Steal
from pylb.scoreboard import ControlField, Field, Scoreboard

TICK = 0.25  # seconds between decisions
_REPORT = 0.5  # seconds between reports to the controller
YOUNG = 3.0
"""Seconds for which a control plane that has just begun, or whose controller was connected anew, takes no
grant as a reason to shrink: as long as a lease. The controller may have begun to measure just now, too."""


class Scaler:
    """Holds the connection to the controller, the policy, and the last decisions."""

    def __init__(
        self,
        config: Config,
        board: Scoreboard,
        order: Callable[[int, str], None],
        token: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``order`` takes a number of workers and the reason to the supervisor; ``token`` and ``tls`` are for
        the controller."""
        self._board = board
        self._order = order
        workers = config.workers
        high = min(workers.max, board.slots)  # a reload can't add slots
        self.limits = min(workers.min, high), high
        self._policy = Policy(*self.limits, memory=remembered(board))
        self._began = math.inf
        self.controller = make_controller(config, self.limits, token, tls)
        self.busy = snapshot.Busy(board)
        self.steal = Steal()
        self._percentiles = snapshot.Percentiles(board)
        self.target = workers.min
        self.pinned: int | None = None
        self.decision = Decision(workers.min, "starting")
        self.history: deque[dict[str, Any]] = deque(maxlen=20)
        self._next_report = 0.0
        self._used = board.control[ControlField.USED_MICROCORES] / 1e6  # cores, smoothed
        self._used_at = _seconds(board.control[ControlField.USED_NS])
        self._own = time.process_time(), -math.inf  # CPU seconds of this process, and when
        self._said = (True, "")  # what was logged last about the controller: connected, problem

    async def run(self) -> None:
        """Decide four times a second, for ever."""
        while True:
            self.step(time.monotonic())
            log_.tick()
            await asyncio.sleep(TICK)

    def step(self, now: float) -> None:
        """Measure once and decide; ``now`` in monotonic seconds."""
        self._say_how_the_controller_is()
        self.busy.sample()
        self.steal.look(*stolen_and_busy())
        self._began = min(self._began, now)
        inputs = self.inputs(now)
        self._smooth(now)
        if now >= self._next_report:
            self._report(now, inputs)
            granted, idle = self._granted(now)  # an embedded controller has answered already
            inputs = replace(inputs, granted=granted, idle=idle)
        if self.pinned is not None:
            self.decision = Decision(self.pinned, f"pinned to {self.pinned} by the operator")
            return
        decision = self._policy.decide(now, inputs)
        remember(self._board, self._policy.memory)
        self.decision = decision
        if decision.target != inputs.current:
            log.info(
                "scaling from %d to %d workers: %s "
                "(granted %s, idle %s, usable %d, busy %s, waiting for CPU %s, accept queue %d)",
                *(inputs.current, decision.target, decision.reason, inputs.granted, inputs.idle),
                *(inputs.usable, [round(share, 2) for share in inputs.busy]),
                *([round(share, 2) for share in inputs.waiting], inputs.accept_queue),
            )
            self.history.append(
                {"at": time.time(), "from": inputs.current, "to": decision.target, "reason": decision.reason}
            )
            self.target = decision.target
            self._order(decision.target, decision.reason)
            # At once: until it knows of a new worker the controller may give the core to somebody else.
            self._report(now, replace(inputs, current=decision.target))

    def _smooth(self, now: float) -> None:
        """Smooth the CPU of all workers, leaving ones included, and of this process, since it isn't idle.

        Nor is it somebody else's: on a slow machine the control plane alone uses a tenth of a core.
        """
        (cpu, at), self._own = self._own, (time.process_time(), now)
        if not self.busy.known:
            return
        own = (self._own[0] - cpu) / (now - at) if now > at else 0.0
        keep = 0.5 ** ((now - self._used_at) / HALF_LIFE)
        self._used = keep * self._used + (1 - keep) * (math.fsum(self.busy.fractions.values()) + own)
        self._used_at = now
        self._board.control[ControlField.USED_MICROCORES] = round(self._used * 1e6)
        self._board.control[ControlField.USED_NS] = _ns(now)

    def _say_how_the_controller_is(self) -> None:
        """Log when the controller comes or goes, and why."""
        connected, problem = self.controller.connected, self.controller.problem
        if (connected, problem) == self._said or not (connected or problem):
            return
        self._said = (connected, problem)
        if connected:
            log.info("controller %s: connected", self.controller.description)
        else:
            log.warning(
                "controller %s: not connected: %s; the worker count won't grow",
                *(self.controller.description, problem),
            )

    def _report(self, now: float, inputs: Inputs) -> None:
        self._next_report = now + _REPORT
        self.controller.report(
            Report(
                workers=inputs.current,
                busy=round(self._used, 4),
                pressure=round(demand(inputs), 4),
                in_flight=inputs.in_flight,
                accept_queue=inputs.accept_queue,
                p99_ms=self._percentiles.sample(0.99),
            )
        )

    def inputs(self, now: float) -> Inputs:
        """What the next decision rests on."""
        board = self._board
        serving = snapshot.serving(board)
        rows = serving if self.busy.known else []
        granted, idle = self._granted(now)
        busy = [self.busy.fractions.get(row, 0.0) for row in rows]
        waiting = [self.busy.waiting.get(row, 0.0) for row in rows]
        return Inputs(
            current=self.target,
            usable=whole_cores(usable_cores()),
            granted=granted,
            idle=idle,
            busy=busy,
            waiting=self.steal.waiting(busy, waiting),
            lag_us=max((board.row(row)[Field.LAG_US] for row in serving), default=0),
            accept_queue=snapshot.accept_queue(board),
            in_flight=board.total(Field.IN_FLIGHT),
            connections=board.total(Field.CONNECTIONS),
            young=now < max(self._began, self.controller.since) + YOUNG,
        )

    def _granted(self, now: float) -> tuple[int | None, int | None]:
        """Cores leased and cores idle beside them, by the grant in force."""
        grant = self.controller.current(now)
        return (None, None) if grant is None else (grant.cores, grant.idle_cores)

    def status(self) -> dict[str, Any]:
        """The scaling part of ``/status``."""
        now = time.monotonic()
        grant = self.controller.current(now)
        return {
            "target": self.target,
            "pinned": self.pinned,
            "min": self.limits[0],
            "max": self.limits[1],
            "reason": self.decision.reason,
            "usable_cores": usable_cores(),
            "idle_cores": None if grant is None else grant.idle_cores,
            "granted_cores": None if grant is None else grant.cores,
            "stolen": round(self.steal.share, 3),
            "machine_used_cores": None if grant is None else grant.used,
            "machine_waited_cores": None if grant is None else grant.waited,
            "grant_reason": "no valid grant" if grant is None else grant.reason,
            "controller": self.controller.description,
            "controller_connected": self.controller.connected,
            "controller_problem": self.controller.problem,
            "decisions": list(self.history),
        }


def stolen_and_busy() -> tuple[float, float]:
    """CPU seconds since boot that the hypervisor gave to others, and that this machine ran."""
    times = psutil.cpu_times()
    return times.steal, times.user + times.nice + times.system + times.irq + times.softirq


def _seconds(monotonic_ns: int) -> float:
    return monotonic_ns / 1e9 or -math.inf


def _ns(monotonic: float) -> int:
    return max(0, round(monotonic * 1e9)) if math.isfinite(monotonic) else 0


def remembered(board: Scoreboard) -> Memory:
    """The memory of the last control plane's policy; that of a new one where there was none."""
    cells = board.control
    return Memory(
        changed=_seconds(cells[ControlField.CHANGED_NS]),
        grew=_seconds(cells[ControlField.GREW_NS]),
        pays=cells[ControlField.PAYS_MS] / 1000,
        owed=_seconds(cells[ControlField.OWED_NS]),
    )


def remember(board: Scoreboard, memory: Memory) -> None:
    """Write it where the next control plane finds it (`remembered`)."""
    cells = board.control
    cells[ControlField.CHANGED_NS] = _ns(memory.changed)
    cells[ControlField.GREW_NS] = _ns(memory.grew)
    cells[ControlField.PAYS_MS] = round(memory.pays * 1000)
    cells[ControlField.OWED_NS] = _ns(memory.owed)


def make_controller(
    config: Config, limits: tuple[int, int], token: str, tls: ssl.SSLContext | None
) -> ControllerClient | EmbeddedController:
    """The controller that the configuration names, or the embedded one; it is told the ``limits``."""
    section = config.controller
    hello = Hello(section.name, *limits, section.weight, token)
    if section.address is None:
        return EmbeddedController(hello, MeasuredSource())
    return ControllerClient(parse(section.address), hello, tls)
