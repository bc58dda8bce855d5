"""The scaling policy: how many workers, and the reason in words (DESIGN: grow on pressure and idle cores).

The rules, in the order in which they are tried:

1. Never outside ``min..max``, never more than the cores that may be used (but ``min`` always).
2. A grant that is smaller than the count: someone else needs the cores. One worker fewer at each decision.
3. Pressure for `GROW_AFTER` seconds, *and* a core that the grant says is idle: one step up, by as many
   workers as the load asks for, never beyond ``current + idle``. More processes than cores are slower, not
   faster (paper, figure 2a). Workers that are busy all the time don't show how much load there is: then
   up to `STEP` times as many.
4. So little load that one worker fewer would stay below `LOW` for `SHRINK_AFTER` seconds: one fewer.

Between `LOW` and `HIGH` nothing happens; since a shrink must leave the rest below `LOW`, a load at either
threshold can't make the count flap. A core that others claim as soon as it is taken is tried again at once:
waiting for 2 to 32 s, longer each time, starves a balancer among others (simulated, 8 on 16 cores: p99 of 7 s
instead of 0.1 s). Without a valid grant the count doesn't grow.
The constants were chosen on traces of load (`bench/model/tuning.py`, bench/results/model.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HIGH = 0.70  # mean busy fraction from which the workers are under pressure
LOW = 0.50  # mean busy fraction that must hold with one worker fewer before one goes
GROW_AFTER = 0.25  # seconds of pressure
SHRINK_AFTER = 10.0  # seconds without
SETTLE = 0.5  # seconds after a change before the next one upwards: the load has to spread first
SATURATED = 0.95  # mean load from which it says no more how much there is to do
STEP = 3.0  # times as many workers then, if so many cores are idle
QUEUE = 64  # connections waiting to be accepted, per worker, that count as pressure
LAG_US = 50_000  # event-loop lag that counts as pressure


@dataclass(frozen=True, slots=True)
class Tuning:
    """The constants above, for those who try others (`bench/model`)."""

    high: float = HIGH
    low: float = LOW
    grow_after: float = GROW_AFTER
    shrink_after: float = SHRINK_AFTER
    settle: float = SETTLE
    step: float = STEP


_TUNING = Tuning()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a decision rests on.

    ``granted`` is the number of cores leased and ``idle`` how many more are idle (both None without a valid
    grant); ``usable`` what mask and quota allow. ``busy`` has each worker's CPU time over wall time,
    0..1, ``waiting`` its share of time in which it could have run and got no CPU (other processes had it,
    or a quota was used up): a worker without CPU of its own is loaded, not idle. ``lag_us`` is the largest
    event-loop lag; ``accept_queue`` and ``in_flight`` are sums.
    """

    current: int
    usable: float
    granted: int | None = None
    idle: int | None = None
    busy: Sequence[float] = ()
    waiting: Sequence[float] = ()
    lag_us: int = 0
    accept_queue: int = 0
    in_flight: int = 0

    @property
    def load(self) -> float:
        """CPU that the workers use or wait for, all together, in cores."""
        return sum(self.busy) + sum(self.waiting)

    @property
    def mean_load(self) -> float:
        """The same per worker, 0..1."""
        return self.load / len(self.busy) if self.busy else 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """How many workers should run, and why."""

    target: int
    reason: str


def pressed(inputs: Inputs, tuning: Tuning = _TUNING) -> str:
    """Why the workers are under pressure, in words; empty when they are not."""
    workers = max(1, inputs.current)
    mean = inputs.mean_load
    if mean >= tuning.high:
        busy = sum(inputs.busy) / len(inputs.busy)
        held_back = f", and for {mean - busy:.0%} of the time wait for a CPU" if mean - busy >= 0.05 else ""
        return f"workers are {busy:.0%} busy{held_back}"
    if inputs.accept_queue > QUEUE * workers:
        return f"{inputs.accept_queue} connections wait to be accepted"
    if inputs.lag_us > LAG_US and mean >= tuning.low:
        return f"event loops lag {inputs.lag_us / 1000:.0f} ms"
    return ""


def demand(inputs: Inputs, tuning: Tuning = _TUNING) -> float:
    """Cores that the workers could use now, for the report to the controller."""
    return max(inputs.load, inputs.current + 1.0) if pressed(inputs, tuning) else inputs.load


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class Policy:
    """Keeps how long pressure or idleness has lasted; everything else is in the inputs."""

    def __init__(self, min: int, max: int, tuning: Tuning = _TUNING) -> None:
        self.min = min
        self.max = max
        self._tuning = tuning
        self._pressed_since: float | None = None
        self._calm_since: float | None = None
        self._changed = -math.inf

    def limit(self, usable: float) -> int:
        """The most workers that may run, whatever is granted."""
        return max(self.min, min(self.max, max(1, math.floor(usable + 0.25))))

    def decide(self, now: float, inputs: Inputs) -> Decision:
        """The number of workers from now on; ``now`` in monotonic seconds."""
        current = inputs.current
        limit = self.limit(inputs.usable)
        tuning = self._tuning
        why = pressed(inputs, tuning)
        self._pressed_since = (self._pressed_since or now) if why else None
        fewer_is_enough = not why and current > 1 and inputs.load <= tuning.low * (current - 1)
        self._calm_since = (self._calm_since or now) if fewer_is_enough else None

        if current < self.min:
            return self._change(now, self.min, f"workers.min is {self.min}")
        if current > limit:
            return self._change(now, current - 1, f"at most {_count(limit, 'worker')} may run here")
        # What is idle beside the lease is ours to stay on: only a real claim of others takes it.
        available = None if inputs.granted is None else inputs.granted + (inputs.idle or 0)
        if available is not None and available < current and current > self.min:
            granted = _count(inputs.granted or 0, "core")
            return self._change(now, current - 1, f"only {granted} granted: others need theirs")
        if self._pressed_since is not None and now - self._pressed_since >= tuning.grow_after:
            return self._grow(now, inputs, limit, why)
        calm = self._calm_since is not None and now - self._calm_since >= tuning.shrink_after
        if calm and current > self.min:
            fewer = _count(current - 1, "worker")
            why = f"{fewer} will do: the {current} are {inputs.mean_load:.0%} busy"
            return self._change(now, current - 1, why)
        return Decision(current, why or "steady")

    def _grow(self, now: float, inputs: Inputs, limit: int, why: str) -> Decision:
        current = inputs.current
        if current >= limit:
            return Decision(current, f"{why}, but no more than {_count(limit, 'worker')} may run")
        if inputs.granted is None:
            return Decision(current, f"{why}, but there is no grant from the controller")
        if now - self._changed < self._tuning.settle:
            return Decision(current, f"{why}; the last change is still settling")
        idle = max(inputs.idle or 0, inputs.granted - current)
        room = min(limit, current + idle)
        if room <= current:
            return Decision(current, f"{why}, but no core is idle")
        wanted = max(current + 1, math.ceil(inputs.load / self._tuning.high))
        if inputs.mean_load >= SATURATED:
            wanted = max(wanted, math.floor(self._tuning.step * current))
        target = min(room, wanted)
        return self._change(now, target, f"{why}; idle: {_count(idle, 'core')}")

    def _change(self, now: float, target: int, reason: str) -> Decision:
        self._changed = now
        self._pressed_since = self._calm_since = None
        return Decision(target, reason)
