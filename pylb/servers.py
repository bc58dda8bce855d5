"""The table of servers: what is true of each for all workers, as health, administrative state and weight.

Floor: right above the scoreboard, in which its cells lie; known to all processes. It knows servers by their
index alone, neither names nor addresses: those go by messages (`pylb.net.serverlists`).

Each column has one writer, the control plane or the supervisor. A worker compares the table's *version* at
each pick; it is one integer of 64 bits, of which each of the two writers counts in its own half. Where it has
moved, it compares the records, as bytes, with what it has read last (10 µs for 2,000 servers), so that
what is expensive is done for those alone that have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum

from pylb.health.panic import Member
from pylb.scoreboard import RECORD, Scoreboard


class Health(IntEnum):
    """What checks say of a server."""

    UNKNOWN = 0
    """Never checked; it takes requests."""
    UP = 1
    DOWN = 2


class Admin(IntEnum):
    """What the operator says of a server."""

    READY = 0
    DRAIN = 1
    """It gets no new clients, and keeps those that stick to it."""
    MAINTENANCE = 2
    """It gets nothing, and loses those that stick to it."""


class Forced(IntEnum):
    """The operator's word on a server's health, which goes before that of the checks."""

    NONE = 0
    UP = 1
    DOWN = 2


class Ejected(IntEnum):
    """What outlier detection says of a server."""

    IN = 0
    OUT = 1
    TRIED = 2
    """It gets a small share, since it may work again."""


class Column(IntEnum):
    """A cell of a server's record. To add one takes a line here, as long as there are fewer than `RECORD`."""

    HEALTH = 0  # see Health; written by the control plane
    EJECTED = 1  # see Ejected; written by the control plane
    ADMIN = 2  # see Admin; written by the supervisor, as those below
    FORCED = 3  # see Forced
    WEIGHT = 4  # the operator's, 0..256; -1 for the configuration's
    MAXCONN = 5  # the operator's: most requests at a time, 0 for any number; -1 for the configuration's
    SHARE = 6  # percent of its weight that it asks for by itself; -1: none; written by the control plane


OF_THE_CONTROL_PLANE = frozenset({Column.HEALTH, Column.EJECTED, Column.SHARE})
"""Columns that the control plane writes; the supervisor writes all others."""

_SHIFT = {Column.WEIGHT: 1, Column.MAXCONN: 1, Column.SHARE: 1}
"""The memory is 0 at first, which is to mean -1 there."""

TRIED = 0.05
"""Part of its weight that a server has while it is tried."""

_BYTES = 4 * RECORD
_HALF = 0x7FFFFFFF
_CONTROL, _SUPERVISOR = 0, 1


class Table:
    """The cells of a scoreboard's table, by their meaning."""

    def __init__(self, board: Scoreboard) -> None:
        self._bytes = board.table
        self._cells = board.table.cast("i")
        self._halves = board.table_version.cast("i")
        self.versions = board.table_version.cast("q")
        """One cell: the version. (A pick reads it there, as a property would cost it as much again.)"""

    @property
    def version(self) -> int:
        """Another one after each change."""
        return self.versions[0]

    def _bump(self, half: int) -> None:
        self._halves[half] = (self._halves[half] + 1) & _HALF

    def get(self, column: Column, index: int) -> int:
        """A cell."""
        return self._cells[RECORD * index + column] - _SHIFT.get(column, 0)

    def control_set(self, column: Column, index: int, value: int) -> None:
        """Write a cell; the control plane only."""
        assert column in OF_THE_CONTROL_PLANE
        self._cells[RECORD * index + column] = value + _SHIFT.get(column, 0)
        self._bump(_CONTROL)

    def supervisor_set(self, column: Column, index: int, value: int) -> None:
        """Write a cell; the supervisor only."""
        assert column not in OF_THE_CONTROL_PLANE
        self._cells[RECORD * index + column] = value + _SHIFT.get(column, 0)
        self._bump(_SUPERVISOR)

    def records(self, begin: int, end: int) -> bytes:
        """The records of servers from one index to before another, for `differing`."""
        return bytes(self._bytes[_BYTES * begin : _BYTES * end])

    def healthy(self, index: int) -> bool:
        """Whether checks and responses, or the operator in their place, say that it works."""
        at = RECORD * index
        forced = self._cells[at + Column.FORCED]
        if forced:
            return forced == Forced.UP
        ejected = self._cells[at + Column.EJECTED] == Ejected.OUT
        return self._cells[at + Column.HEALTH] != Health.DOWN and not ejected

    def checked(self, index: int) -> bool:
        """The same by checks and the operator alone, whatever its responses say."""
        at = RECORD * index
        forced = self._cells[at + Column.FORCED]
        return forced == Forced.UP or (not forced and self._cells[at + Column.HEALTH] != Health.DOWN)

    def ready(self, index: int) -> bool:
        """Whether the operator lets it take new clients."""
        return self._cells[RECORD * index + Column.ADMIN] == Admin.READY

    def part(self, index: int) -> float:
        """How much of its weight it has."""
        return TRIED if self._cells[RECORD * index + Column.EJECTED] == Ejected.TRIED else 1.0

    def usable(self, index: int) -> bool:
        """Whether it takes new clients."""
        return self._cells[RECORD * index + Column.ADMIN] == Admin.READY and self.healthy(index)

    def down(self, index: int) -> bool:
        """Whether it also loses the clients that it has: those that stick to it go to another one."""
        return self._cells[RECORD * index + Column.ADMIN] == Admin.MAINTENANCE or not self.healthy(index)

    def state(self, index: int) -> str:
        """One word for people: up, down, ejected, draining, maintenance or unchecked."""
        at = RECORD * index
        admin, forced = self._cells[at + Column.ADMIN], self._cells[at + Column.FORCED]
        if admin == Admin.MAINTENANCE:
            return "maintenance"
        health = self._cells[at + Column.HEALTH]
        if not self.healthy(index):
            return "down" if forced or health == Health.DOWN else "ejected"
        if admin == Admin.DRAIN:
            return "draining"
        return "up" if forced or health == Health.UP else "unchecked"

    def weight(self, index: int, configured: int) -> int:
        """Its share of the requests."""
        at = RECORD * index
        said, share = self._cells[at + Column.WEIGHT], self._cells[at + Column.SHARE]
        weight = said - 1 if said else configured
        if not share or not weight:
            return weight
        return min(256, max(weight * (share - 1) // 100, 1 if share > 1 else 0))

    def maxconn(self, index: int, configured: int) -> int:
        """How many requests it takes at a time; 0 for any number."""
        said = self._cells[RECORD * index + Column.MAXCONN]
        return said - 1 if said else configured


def differing(before: bytes, after: bytes, first: int = 0) -> Iterator[int]:
    """The indices whose records differ, of two that `records` gave from index ``first`` on."""
    if before == after:
        return
    count = len(after) // _BYTES
    if count <= 1 or len(before) != len(after):
        yield from range(first, first + count)
        return
    half = count // 2
    at = _BYTES * half
    yield from differing(before[:at], after[:at], first)
    yield from differing(before[at:], after[at:], first + half)


def members(table: Table, servers: Iterable[tuple[int, int, bool]]) -> list[Member]:
    """What the table says of these servers: their index, configured weight, and whether they are backups."""
    return [
        Member(table.ready(index) and table.weight(index, weight) > 0, table.healthy(index), backup)
        for index, weight, backup in servers
    ]
