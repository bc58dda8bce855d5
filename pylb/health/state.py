"""When the checks of a server take it out, and in again.

Theory of operation. A server is in one of five *phases*. While its checks have one outcome it is UP or DOWN.
Where another outcome comes, it is in transition, FALLING or RISING, and keeps the state that it had; that
many in a row (``fall``, ``rise``) change it, and a single outcome of the old kind ends the transition. Before
the first check it is UNKNOWN, and the first one decides. This is how HAProxy counts (configuration.txt,
``fall``, ``rise``, ``init-state up``). An agent on the server may also say by itself that it is up or down,
and is believed at once.

`TRANSITIONS` is the whole of it: everything that changes a phase is looked up there. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Phase(IntEnum):
    """What the checks say of a server."""

    UNKNOWN = 0  # not checked yet
    UP = 1
    FALLING = 2  # up, but the last checks have failed
    DOWN = 3
    RISING = 4  # down, but the last checks have passed


class Event(IntEnum):
    """What may come of a check."""

    PASSED = 0
    FAILED = 1
    SAID_UP = 2  # by the server itself
    SAID_DOWN = 3


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many checks in a row change the state."""

    rise: int = 2
    fall: int = 3


@dataclass(frozen=True, slots=True)
class Transition:
    """To ``then``, or where fewer than ``bound`` of these events came in a row, to ``meanwhile``."""

    then: Phase
    meanwhile: Phase | None = None
    bound: str = ""
    """A field of `Bounds`; empty: at once."""


_FALL = Transition(Phase.DOWN, Phase.FALLING, "fall")
_RISE = Transition(Phase.UP, Phase.RISING, "rise")
_UP, _DOWN = Transition(Phase.UP), Transition(Phase.DOWN)

TRANSITIONS: dict[tuple[Phase, Event], Transition] = {
    (Phase.UNKNOWN, Event.PASSED): _UP,
    (Phase.UNKNOWN, Event.FAILED): _DOWN,
    (Phase.UP, Event.PASSED): _UP,
    (Phase.UP, Event.FAILED): _FALL,
    (Phase.FALLING, Event.PASSED): _UP,
    (Phase.FALLING, Event.FAILED): _FALL,
    (Phase.DOWN, Event.PASSED): _RISE,
    (Phase.DOWN, Event.FAILED): _DOWN,
    (Phase.RISING, Event.PASSED): _RISE,
    (Phase.RISING, Event.FAILED): _DOWN,
    **{(phase, Event.SAID_UP): _UP for phase in Phase},
    **{(phase, Event.SAID_DOWN): _DOWN for phase in Phase},
}
"""For each phase and event, what comes next."""


@dataclass(slots=True)
class Tracker:
    """The phase of one server, and how many outcomes of the kind that began the transition came in a row."""

    bounds: Bounds
    phase: Phase = Phase.UNKNOWN
    row: int = 0

    @property
    def up(self) -> bool | None:
        """Whether it is up; None before the first check."""
        if self.phase is Phase.UNKNOWN:
            return None
        return self.phase in (Phase.UP, Phase.FALLING)

    @property
    def in_transition(self) -> bool:
        """Whether the next check matters more than usual."""
        return self.phase in (Phase.UNKNOWN, Phase.FALLING, Phase.RISING)

    def take(self, event: Event) -> bool:
        """Go on with what came of a check; whether it is up or down has changed."""
        before = self.up
        transition = TRANSITIONS[self.phase, event]
        if transition.meanwhile is None:
            self.phase, self.row = transition.then, 0
        else:
            self.row += 1
            enough = self.row >= getattr(self.bounds, transition.bound)
            self.phase = transition.then if enough else transition.meanwhile
            if enough:
                self.row = 0
        return self.up is not before

    def kept(self) -> list[int]:
        """What `restored` makes the same tracker of."""
        return [int(self.phase), self.row]


def restored(bounds: Bounds, kept: object) -> Tracker:
    """A tracker that goes on from what another one has kept; where that is unusable, a new one."""
    match kept:
        case [int(phase), int(row)] if phase in list(Phase) and 0 <= row <= 1000:
            return Tracker(bounds, Phase(phase), row)
    return Tracker(bounds)
