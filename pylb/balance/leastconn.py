"""Least connections: the server with the fewest active requests for its weight, over all workers.

Pure. A pick looks at one block of 32 servers (`loads`), or of two where there are more: the next one in turn,
and the one that was best at the last pick. With up to 64 servers that is all of them; of more, it is a choice
among 64, with which loads differ hardly more than with a choice among all (Mitzenmacher, *The Power of Two
Choices in Randomized Load Balancing*; two are enough). Equal servers take turns; else an idle balancer would
send everything to the first one. While the one in turn is idle, a pick reads its cells and no block.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import gcd, inf
from operator import mul

from pylb.balance.loads import CLOSED
from pylb.balance.members import NONE, Members


class _Choice:
    """A block, and what its servers' weights make of their counts."""

    __slots__ = (
        *("number", "size", "unpack", "positions", "start"),
        *("weight", "inverse", "equal", "ones", "closed"),
    )

    def __init__(self, number: int, members: Members) -> None:
        block = members.loads.blocks[number]
        self.number = number
        self.size = block.size
        self.unpack = block.unpack
        self.positions = block.positions
        self.ones = sum(1 << 32 * lane for lane in range(len(self.positions)))
        self.closed = 0
        """The bit `CLOSED` in each lane that isn't to be picked."""
        self.weight = 0.0
        """Of each server, where they are equal, or else of one."""
        self.inverse: tuple[float, ...] | None = None
        """1 / weight by lane, unless they are equal."""
        self.equal = False
        """Whether all lanes are servers of the same weight, so that their counts alone say which is best."""
        self.start = random.randrange(len(self.positions))
        """The lane that is first among equals."""

    def weigh(self, weights: Sequence[float]) -> None:
        """The weights have changed."""
        lanes = [weights[position] if position >= 0 else 0 for position in self.positions]
        self.closed = sum(CLOSED << 32 * lane for lane, weight in enumerate(lanes) if not weight)
        self.weight = max(lanes)
        self.inverse = None
        if any(weight not in (0, self.weight) for weight in lanes):
            self.inverse = tuple(1 / weight if weight else inf for weight in lanes)
        self.equal = self.inverse is None and not self.closed


class LeastConn:
    """The server for which ``(active + 1) / weight`` is smallest (as HAProxy counts it)."""

    def __init__(self, members: Members) -> None:
        self._loads = members.loads
        self._weights = list(members.weights)
        self._all = [_Choice(number, members) for number in range(len(members.loads.blocks))]
        for choice in self._all:
            choice.weigh(self._weights)
        self._open: list[_Choice] = []
        """The blocks with usable servers."""
        self._turns: list[tuple[int, int]] = []
        """Of each usable server its place in that list, and its lane."""
        self._step = 1
        self._calm = True
        """Whether the last pick found an idle server than which none is better."""
        self._first: list[tuple[int, int]] = []
        """The servers of the greatest weight, than which none is better if idle, and their cells."""
        self._stride = 1
        self._at = random.randrange(1 << 16)
        self._turn = random.randrange(1 << 16)
        self._best = 0
        self._start()

    def _start(self) -> None:
        self._open = [choice for choice in self._all if choice.weight]
        self._turns = [
            (place, lane)
            for place, choice in enumerate(self._open)
            for lane, position in enumerate(choice.positions)
            if position >= 0 and self._weights[position]
        ]
        greatest = max(self._weights)
        self._idle = 1 / (greatest or 1)
        self._first = [
            (server, self._loads.indices[server])
            for server, weight in enumerate(self._weights)
            if weight == greatest
        ]
        self._stride = 1
        # Far from one turn to the next, so that the blocks alternate, and still each server has a turn.
        self._step = _coprime(len(self._turns))

    def set_weight(self, server: int, weight: float) -> None:
        self._weights[server] = weight
        self._all[self._loads.where[server][0]].weigh(self._weights)
        self._start()

    def pick(self, excluded: frozenset[int] = NONE, key: bytes | None = None) -> int | None:
        choices = self._open
        count = len(choices)
        if self._calm and count and not excluded:
            # Without looking at a block: is the next one idle?
            self._at = at = (self._at + self._stride) % len(self._first)
            server, index = self._first[at]
            if self._loads.idle(index):
                return server
        if count == 1:
            choice = choices[0]
            if excluded or not choice.equal:
                value, keys, least = self._look(choice, excluded)
                if least >= CLOSED:
                    return None
                self._calm = value <= self._idle
            else:
                keys = self._loads.lanes(choice.number)
                least = min(keys)
                self._calm = not least
        elif count:
            self._turn = (self._turn + self._step) % len(self._turns)
            turn, start = self._turns[self._turn]
            best = self._best % count
            if best == turn:
                best = (turn + 1) % count
            choice, other = choices[turn], choices[best]
            choice.start = start
            value, keys, least = self._look(choice, excluded)
            other_value, other_keys, other_least = self._look(other, excluded)
            if other_value < value:
                value, choice, keys, least, turn = other_value, other, other_keys, other_least, best
            self._best = turn
            self._calm = value <= self._idle
            if least >= CLOSED:
                for choice in choices:
                    _, keys, least = self._look(choice, excluded)
                    if least < CLOSED:
                        break
                else:
                    return None
        else:
            return None
        lane = (keys + keys).index(least, choice.start) % len(keys)
        choice.start = lane + 1
        return choice.positions[lane]

    def _look(self, choice: _Choice, excluded: frozenset[int]) -> tuple[float, tuple[float, ...], float]:
        """The least load for a weight of 1, what the block's lanes are compared by, and the least of that.

        The last is `CLOSED` or more where all servers of the block are excluded.
        """
        keys: tuple[float, ...]
        if choice.equal and not excluded:
            keys = self._loads.lanes(choice.number)
            least: float = min(keys)
            return (least + 1) / choice.weight, keys, least
        total = self._loads.sums(choice.number) + choice.ones | choice.closed
        keys = choice.unpack(total.to_bytes(choice.size, "little"))
        if choice.inverse is not None:
            keys = tuple(map(mul, keys, choice.inverse))
        if excluded:
            places = zip(keys, choice.positions, strict=True)
            keys = tuple(inf if position in excluded else key for key, position in places)
        least = min(keys)
        if least >= CLOSED:
            return inf, keys, inf
        return (least if choice.inverse is not None else least / choice.weight), keys, least


def _coprime(count: int) -> int:
    """About 0.6 of the count, and without a common divisor."""
    step = max(1, round(0.618 * count))
    while gcd(step, count) > 1:
        step += 1
    return step
