"""Who gets how many connections: new ones by steering, those that there are by levelling.

It is told who serves, and knows neither generations nor how workers start and end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from pylb.log import log
from pylb.net import levelling, steering
from pylb.net.listeners import Listeners
from pylb.scoreboard import Field, Scoreboard, SlotField
from pylb.supervisor.processes import Worker
from pylb.supervisor.watchdog import DOUBTFUL

LEVEL_PAUSE = 0.2


class Spreading:
    """The weights of the slots, and the moves between workers.

    Args:
        board: tells what each worker holds, and is told the weights.
        listeners: gives those of the newest generation.
    """

    def __init__(self, board: Scoreboard, listeners: Callable[[], Listeners]) -> None:
        self.weights: list[int] = []
        """Of each slot, as last put into the kernel."""
        self._board = board
        self._listeners = listeners
        self._arrivals = steering.Arrivals()
        self._steerable = True
        self._steer_after = 0.0
        self._level_after = 0.0
        self._recalled = -math.inf  # when clients that can't move were last to be asked to connect anew

    def attach(self, weights: list[int]) -> None:
        """Put the steering program on every TCP bind's group."""
        if not any(weights):
            return
        self.weights = weights
        for slot, weight in enumerate(weights):
            self._board.slot(slot)[SlotField.WEIGHT] = weight
        for group in self._listeners().groups():
            if not steering.attach(group[0], weights) and self._steerable:
                self._steerable = False
                log.warning("the kernel refuses the steering program; connections go by its own hash")

    def steer(self, serving: Sequence[Worker]) -> None:
        """Renew the weights if they changed noticeably."""
        fresh = [0] * self._board.slots
        held = {
            worker.slot: self._board.row(worker.row)[Field.CONNECTIONS]
            + self._board.slot(worker.slot)[SlotField.ACCEPT_QUEUE]
            for worker in serving
        }
        strong = time.monotonic() - self._recalled < 2 * LEVEL_PAUSE
        for slot, weight in steering.weights_for(held, self._arrivals.rate, strong).items():
            fresh[slot] = weight
        limit = steering.TOTAL // (20 * max(1, len(serving)))
        same = len(self.weights) == len(fresh) and all(
            (old == 0) == (new == 0) and abs(old - new) <= limit
            for old, new in zip(self.weights, fresh, strict=True)
        )
        if not same:
            self.attach(fresh)

    def look(self, now: float, serving: Callable[[], Sequence[Worker]]) -> None:
        """Steer, if the last look is long enough ago."""
        if now >= self._steer_after:
            self._steer_after = now + steering.LOOK
            self._arrivals.look(self._board.total(Field.ACCEPTED), now)
            self.steer(serving())

    def level(self, now: float, serving: Sequence[Worker]) -> None:
        """Have overfull workers hand connections over."""
        able = {worker.row: worker for worker in serving if worker.watch.silence < DOUBTFUL}
        if len(able) < 2 or now < self._level_after:
            return
        counts = {row: self._board.row(row)[Field.CONNECTIONS] for row in able}
        moves = levelling.plan(counts, max(levelling.PER_TICK, sum(counts.values()) // 4))
        # What can't move is asked to come back; that helps only as far as it is at work.
        lively = levelling.given(levelling.plan({row: self._board.row(row)[Field.LIVELY] for row in able}))
        excess = levelling.given(moves)
        if any(lively[row] for row in excess):
            self._recalled = now
        for move in moves:
            source = move.source
            order = {"op": "move", "to": move.target, "count": move.count}
            able[source].send(order | {"excess": excess[source], "lively": lively[source]})
        if moves:  # let them arrive before counting again, or they would be moved to and fro
            self._level_after = now + LEVEL_PAUSE
