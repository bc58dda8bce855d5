"""The scaling policy: how many workers, and the reason in words. Pure: measurements and times are passed in.

The rules, in the order in which they are tried:

1. Never outside ``min..max``, never more than mask and quota allow (but ``min`` always): in one step.
2. A grant that is smaller than the count: someone else needs the cores. In one step down to what is granted
   and idle, unless grant or measurements are too `young` to know of these workers: after a restart of the
   control plane, and when the controller was connected anew.
3. Pressure for `GROW_AFTER` seconds, *and* a core that the grant says is idle: one step up, by as many
   workers as the load asks for, never beyond ``current + idle`` nor beyond what is granted and idle together.
   More processes than cores are slower, not faster (paper, figure 2a). Workers that are busy all the time
   don't show how much load there is: then up to `STEP` times as many.
4. So little load that fewer workers would stay below `LOW`, for `SHRINK_AFTER` seconds: half of those that
   the most loaded moment of this time had no need of go. Each step needs that time anew, since only the load
   at the new count shows that it was not too much; from 128 workers to one it is seven steps, 70 seconds.

Between `LOW` and `HIGH` nothing happens; since a shrink must leave the rest below `LOW`, a load at either
threshold can't make the count flap.

A neighbour can. A core that others claim as soon as it is taken is tried again at once, at first: waiting for
2 to 32 s, longer each time, starves a balancer among others (simulated, 8 on 16 cores: p99 of 7 s instead of
0.1 s). But a change costs CPU time, `FORK` and `MOVE` for each connection that is handed over
(`bench/changes.py`), and of a growth `LOST` seconds help nobody. So a growth has to last until all this is at
most `WORTH` of what it brought (`pays_after`: 5 to 6 s). Where it is claimed sooner, the rest of that time is
owed; owed time passes, and while more than `CREDIT` seconds of it are left, growth waits. So a few claims
delay nobody, with a neighbour that comes and goes all the time there is about one growth in `pays_after`
seconds, and no wait is longer than that.

Without a valid grant the count doesn't grow; from workers that were not measured yet nothing is concluded.
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
SATURATED = 0.95  # mean load from which on it no longer shows how much work there is
STEP = 3.0  # times as many workers at once from there on, if so many cores are idle
QUEUE = 64  # connections waiting to be accepted, per worker, that count as pressure
LAG_US = 50_000  # event-loop lag that counts as pressure
FORK = 0.017  # CPU seconds of a change by one worker (bench/results/changes.md)
MOVE = 40e-6  # CPU seconds of each connection that is handed over for it (same source)
LOST = 1.25  # seconds of a growth that bring nothing: until load has moved, and until a claim is noticed
WORTH = 0.25  # what growing and giving back may cost of the CPU time that growth brings
CREDIT = 10.0  # seconds of owed time up to which growth does not wait
MOST = 6.0  # seconds after which any growth has paid


@dataclass(frozen=True, slots=True)
class Tuning:
    """The constants above, for those who try others (`bench/model`)."""

    high: float = HIGH
    low: float = LOW
    grow_after: float = GROW_AFTER
    shrink_after: float = SHRINK_AFTER
    settle: float = SETTLE
    step: float = STEP
    pays_most: float = MOST
    credit: float = CREDIT


_TUNING = Tuning()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a decision rests on.

    ``granted`` is the number of cores leased and ``idle`` how many more are idle (both None without a valid
    grant); ``usable`` how many workers mask and quota allow. ``busy`` has each worker's CPU time over wall
    time, 0..1, ``waiting`` its share of time in which it could have run and got no CPU (other processes had
    it, or a quota was used up): a worker without CPU of its own is loaded, not idle. Both are empty before
    the workers were measured. ``lag_us`` is the largest event-loop lag; ``accept_queue``, ``in_flight`` and
    ``connections`` are sums. ``young``: whoever measures, here or at the controller, has not known these
    workers for long enough to judge that they are too many.
    """

    current: int
    usable: int
    granted: int | None = None
    idle: int | None = None
    busy: Sequence[float] = ()
    waiting: Sequence[float] = ()
    lag_us: int = 0
    accept_queue: int = 0
    in_flight: int = 0
    connections: int = 0
    young: bool = False

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


def pays_after(inputs: Inputs, more: int, tuning: Tuning = _TUNING) -> float:
    """Seconds that a growth by ``more`` workers must last to be worth what it and its end cost.

    Connections are levelled: each new worker gets its share of them, and hands it back.
    """
    moved = inputs.connections / (inputs.current + more)
    return min(tuning.pays_most, (LOST + 2 * (FORK + MOVE * moved)) / WORTH)


@dataclass(slots=True)
class Memory:
    """What decisions rest on beside the inputs, in monotonic seconds; it outlives the control plane."""

    changed: float = -math.inf
    """The last change."""
    grew: float = -math.inf
    """The last growth that nobody has claimed back."""
    pays: float = 0.0
    """Seconds that this growth must last."""
    owed: float = -math.inf
    """When the owed time of growths that were claimed too soon will have passed."""


class Policy:
    """Keeps how long pressure or idleness has lasted and its `Memory`; everything else is in the inputs."""

    def __init__(self, min: int, max: int, tuning: Tuning = _TUNING, memory: Memory | None = None) -> None:
        self.min = min
        self.max = max
        self.memory = memory or Memory()
        self._tuning = tuning
        self._pressed_since: float | None = None
        self._calm_since: float | None = None
        self._calm_load = 0.0  # the highest load since then

    def limit(self, usable: int) -> int:
        """The most workers that may run, whatever is granted."""
        return max(self.min, min(self.max, usable))

    def decide(self, now: float, inputs: Inputs) -> Decision:
        """The number of workers from now on; ``now`` in monotonic seconds."""
        current = inputs.current
        limit = self.limit(inputs.usable)
        tuning = self._tuning
        why = pressed(inputs, tuning)
        self._pressed_since = (self._pressed_since or now) if why else None
        self._look_whether_calm(now, inputs, bool(why))

        if current < self.min:
            return self._change(now, self.min, f"workers.min is {self.min}")
        # Workers may stay on cores that are idle beside the lease: only a real claim of others takes these.
        available = limit if inputs.granted is None else inputs.granted + (inputs.idle or 0)
        claimed = available < min(current, limit) and limit > self.min
        only = f"only {_count(available, 'core')} granted"
        if claimed and not inputs.young:
            return self._give_back(now, max(self.min, available), f"{only}: others need theirs")
        if current > limit:
            return self._give_back(now, limit, f"at most {_count(limit, 'worker')} may run here")
        if claimed and current > self.min:
            return Decision(current, f"{only} so far, which is too early to go by")
        if self._pressed_since is not None and now - self._pressed_since >= tuning.grow_after:
            return self._grow(now, inputs, limit, why)
        calm = self._calm_since is not None and now - self._calm_since >= tuning.shrink_after
        if calm and current > self.min:
            enough = max(self.min, math.ceil(self._calm_load / tuning.low - 1e-9), 1)
            target = enough + (current - enough) // 2
            why = f"{_count(target, 'worker')} will do: the {current} are {inputs.mean_load:.0%} busy"
            return self._change(now, target, why)
        return Decision(current, why or "steady")

    def _look_whether_calm(self, now: float, inputs: Inputs, pressure: bool) -> None:
        """Note since when, and at which load at most, fewer workers would have done."""
        fewer_will_do = inputs.load <= self._tuning.low * (inputs.current - 1)
        if pressure or not inputs.busy or inputs.current <= 1 or not fewer_will_do:
            self._calm_since, self._calm_load = None, 0.0
            return
        self._calm_since = self._calm_since or now
        self._calm_load = max(self._calm_load, inputs.load)

    def _grow(self, now: float, inputs: Inputs, limit: int, why: str) -> Decision:
        current, memory, tuning = inputs.current, self.memory, self._tuning
        if current >= limit:
            return Decision(current, f"{why}, but no more than {_count(limit, 'worker')} may run")
        if inputs.granted is None:
            return Decision(current, f"{why}, but there is no grant from the controller")
        if now - memory.changed < tuning.settle:
            return Decision(current, f"{why}; the last change is still settling")
        # ``idle`` counts cores beside the lease; leased ones that no worker uses yet can be grown into, too.
        idle = max(inputs.idle or 0, inputs.granted - current)
        room = min(limit, current + idle, inputs.granted + (inputs.idle or 0))
        if room <= current:
            return Decision(current, f"{why}, but no core is idle")
        wait = memory.owed - now - tuning.credit
        if wait > 0:
            return Decision(
                current, f"{why}; others soon claimed what it grew to, so it waits for another {wait:.0f} s"
            )
        wanted = max(current + 1, math.ceil(inputs.load / tuning.high))
        if inputs.mean_load >= SATURATED:
            wanted = max(wanted, math.floor(tuning.step * current))
        target = min(room, wanted)
        memory.grew, memory.pays = now, pays_after(inputs, target - current, tuning)
        return self._change(now, target, f"{why}; idle: {_count(room - current, 'core')}")

    def _give_back(self, now: float, target: int, reason: str) -> Decision:
        """Shrink since others need the cores; what the last growth lacks of its time is owed from now on."""
        memory, tuning = self.memory, self._tuning
        if (short := memory.grew + memory.pays - now) > 0:
            memory.owed = min(max(memory.owed, now) + short, now + tuning.credit + tuning.pays_most)
        memory.grew = -math.inf
        return self._change(now, target, reason)

    def _change(self, now: float, target: int, reason: str) -> Decision:
        self.memory.changed = now
        self._pressed_since = self._calm_since = None
        self._calm_load = 0.0
        return Decision(target, reason)
