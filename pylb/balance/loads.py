"""How many requests each server of a backend is at, over all workers: read live, at a bounded cost.

Pure: it reads buffers that it is given. Each worker has a *row* with a cell of 32 bits per server, which it
alone writes. 32 neighbouring cells are a *block*. A block's bytes in a row, read as one integer, have a
server's count in each 32 bits; and the sum of the rows' integers has the sum over the workers there, of all
servers of the block at once. That costs Python 0.2 µs for each row, where summing cell by cell costs 0.03 µs
for each row *and server*. Nothing is kept that could come to differ from the rows: the counts of a worker
that has crashed are gone with its row.

What else was measured: a heap of servers by load, with the others' changes folded in from rings that they
publish, costs 1 µs for every change that any worker makes, which is more than reading with two workers, and
grows with them; a total per server that all workers add to loses additions, since Python has no atomic one.

An algorithm looks at one or two blocks for each pick, never at all servers. Of more than `NEAR` other workers
a look reads so many rows anew, in turn, and knows the rest from earlier looks at the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from struct import Struct

LANES = 32
"""Servers of a block. More make a look dearer (3 ns each), fewer make it worse with many servers."""

CLOSED = 1 << 31
"""More than any count: a server with so many isn't to be picked."""

NEAR = 7
"""Rows of other workers that a look reads."""

Row = memoryview | bytearray
"""A worker's cells as bytes, by index of the server, in the order of this machine (little-endian)."""

_BYTES = 4
_BITS = 8 * _BYTES
_SMALL = 8  # servers that are added up one by one: large integers have their own costs
_ALL = (1 << _BITS) - 1


class Block:
    """Some neighbouring cells of each row, with those servers of the backend that they belong to."""

    __slots__ = ("begin", "end", "size", "positions", "unpack", "unpack_from", "small", "members")

    def __init__(self, cells: dict[int, int]) -> None:
        first, last = min(cells), max(cells)
        self.begin, self.end = _BYTES * first, _BYTES * (last + 1)
        self.size = self.end - self.begin
        self.positions = [cells.get(index, -1) for index in range(first, last + 1)]
        """By lane: the position of the server in its backend; -1 for cells of other backends."""
        struct = Struct(f"<{len(self.positions)}I")
        self.unpack, self.unpack_from = struct.unpack, struct.unpack_from
        """A tuple of the counts by lane, of `size` bytes."""
        self.small = len(self.positions) <= _SMALL
        self.members = sum(
            _ALL << _BITS * lane for lane, position in enumerate(self.positions) if position >= 0
        )
        """The bits of the lanes that belong to this backend."""


class Loads:
    """The counts of a backend's servers.

    Args:
        indices: of the servers' cells in a row, by position in the backend.
        own: this worker's row.
    """

    def __init__(self, indices: Sequence[int], own: Row) -> None:
        blocks: dict[int, dict[int, int]] = {}
        for position, index in enumerate(indices):
            blocks.setdefault(index // LANES, {})[index] = position
        self.blocks = [Block(cells) for cells in blocks.values()]
        """In the order of their first servers."""
        self.where = [(0, 0)] * len(indices)
        """By position: the number of its block, and how far its count is to be shifted."""
        for number, block in enumerate(self.blocks):
            for lane, position in enumerate(block.positions):
                if position >= 0:
                    self.where[position] = (number, _BITS * lane)
        self.indices = indices
        self._own = own
        self._cells = memoryview(own).cast("I")
        self._near_cells: list[memoryview] = []
        self._near: Sequence[Row] = ()
        self._far: list[_Far] = []
        self._several = self._few = False

    def look_at(self, others: Sequence[Row]) -> None:
        """Which rows other workers have now."""
        self._several, self._few = bool(others), len(others) <= 2
        self._near = others if len(others) <= NEAR else ()
        self._near_cells = [memoryview(row).cast("I") for row in self._near]
        self._far = [] if len(others) <= NEAR else [_Far(block, others) for block in self.blocks]

    def sums(self, number: int) -> int:
        """The counts of a block, each in 32 bits of the integer."""
        block = self.blocks[number]
        begin, end = block.begin, block.end
        total = int.from_bytes(self._own[begin:end], "little")
        for row in self._near:
            total += int.from_bytes(row[begin:end], "little")
        if self._far:
            total += self._far[number].look()
        return total

    def idle(self, index: int) -> bool:
        """Whether no worker is at a request of the server with this cell; False where that isn't known."""
        if self._cells[index]:
            return False
        for row in self._near_cells:
            if row[index]:
                return False
        return not self._far

    def lanes(self, number: int) -> tuple[int, ...]:
        """The counts of a block by lane."""
        block = self.blocks[number]
        if not self._several or self._few and block.small:
            begin, unpack_from = block.begin, block.unpack_from
            counts: tuple[int, ...] = unpack_from(self._own, begin)
            for row in self._near:
                counts = tuple(map(add, counts, unpack_from(row, begin)))
            return counts
        return block.unpack(self.sums(number).to_bytes(block.size, "little"))

    def of(self, position: int) -> int:
        """The count of one server."""
        number, shift = self.where[position]
        return self.sums(number) >> shift & _ALL

    def total(self, number: int) -> int:
        """The sum of a block's counts."""
        # 2^32 is 1 modulo 2^32 - 1, so that the lanes add up.
        return (self.sums(number) & self.blocks[number].members) % _ALL


class _Far:
    """A block in the rows of many other workers, as it was when each was read last."""

    __slots__ = ("_block", "_rows", "_known", "_sum", "_next")

    def __init__(self, block: Block, rows: Sequence[Row]) -> None:
        self._block = block
        self._rows = rows
        self._known = [int.from_bytes(row[block.begin : block.end], "little") for row in rows]
        self._sum = sum(self._known)
        self._next = 0

    def look(self) -> int:
        """The sum, with the next `NEAR` rows as they are now."""
        known, begin, end = self._known, self._block.begin, self._block.end
        at = self._next
        for _ in range(NEAR):
            new = int.from_bytes(self._rows[at][begin:end], "little")
            self._sum += new - known[at]
            known[at] = new
            at = (at + 1) % len(known)
        self._next = at
        return self._sum
