"""First: the first server of the list that has room, so that those behind it can be switched off (HAProxy's
``first``). Pure.

How many requests a server has room for is its ``fill``; without one it takes all, and those behind it stand
by. A pick looks at the first block of 32 servers (`loads`) in which there was room at the last pick, and at
one of those before it, in turn: with more than 64 servers, one that has room again may be passed over for a
moment.
"""

from __future__ import annotations

from pylb.balance.leastconn import LeastConn
from pylb.balance.loads import CLOSED
from pylb.balance.members import NONE, Members

_NO_FILL = CLOSED - 1


class First:
    """The first with room. Where none has, the one with the fewest requests for its weight."""

    def __init__(self, members: Members) -> None:
        self._loads = members.loads
        self._weights = list(members.weights)
        self._fills = [fill or _NO_FILL for fill in members.fills] or [_NO_FILL] * len(self._weights)
        self._full = LeastConn(members)
        blocks = self._loads.blocks
        self._marks = [sum(CLOSED << 32 * lane for lane in range(len(block.positions))) for block in blocks]
        self._room = [0] * len(blocks)
        for number in range(len(blocks)):
            self._weigh(number)
        self._in_order = {number for number, block in enumerate(blocks) if _ascending(block.positions)}
        self._at = 0  # all blocks before this one were full when looked at last
        self._again = 0  # the one of those that was looked at last

    def _weigh(self, number: int) -> None:
        """Work out what a block's counts are taken from in `_first`."""
        room = 0
        for lane, position in enumerate(self._loads.blocks[number].positions):
            usable = position >= 0 and self._weights[position]
            room |= (CLOSED - 1 + (self._fills[position] if usable else 0)) << 32 * lane
        self._room[number] = room

    def set_weight(self, server: int, weight: float) -> None:
        self._weights[server] = weight
        self._full.set_weight(server, weight)
        self._weigh(self._loads.where[server][0])

    def pick(self, excluded: frozenset[int] = NONE, key: bytes | None = None) -> int | None:
        last = len(self._room) - 1
        if self._at:
            self._again = (self._again + 1) % self._at
            found = self._first(self._again, excluded)
            if found >= 0:
                self._at = self._again
                return found
        for at in range(self._at, min(self._at + 2, last + 1)):
            found = self._first(at, excluded)
            if found >= 0:
                self._at = at
                return found
        self._at = min(self._at + 1, last)
        return self._full.pick(excluded)

    def _first(self, number: int, excluded: frozenset[int]) -> int:
        """The first server of a block with room; -1 where none has."""
        positions = self._loads.blocks[number].positions
        # In each lane CLOSED - 1 + fill - count: its highest bit is set while count is below fill.
        free = self._room[number] - self._loads.sums(number) & self._marks[number]
        for server in excluded:
            at, shift = self._loads.where[server]
            if at == number:
                free &= ~(CLOSED << shift)
        found = -1
        while free:
            lowest = free & -free
            position = positions[lowest.bit_length() // 32 - 1]
            if number in self._in_order:
                return position
            if found < 0 or position < found:
                found = position
            free ^= lowest
        return found


def _ascending(positions: list[int]) -> bool:
    """Whether the lanes of a backend's servers are in the order of the list, as they are at the start."""
    there = [position for position in positions if position >= 0]
    return there == sorted(there)
