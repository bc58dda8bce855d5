"""Places at servers and backends with ``maxconn``: taken and given back atomically, over all workers.

Known to all processes, beside the scoreboard, which holds one (`Scoreboard.places`). Checking a count and
then raising it would let more through than the limit, since workers do it at the same time. So each free
place is one of a POSIX semaphore's (man 7 sem_overview), which lies in memory that the processes share, and
is taken by ``sem_trywait``. That costs 0.3 µs by ctypes; an eventfd costs three times as much, and
``multiprocessing``'s semaphores are files, which can't be made for a server that comes while workers run.

This is the one exception to "each figure has one writer". What hangs on it has one: each worker notes in its
row how many places it holds, so that the supervisor can give back those of a worker that has died, and who of
its requests is next, so that workers serve each other's before their own where these came first.

The arithmetic is the supervisor's (`Places.audit`): free places, less those that are owed, those held, and
those on their way from one worker to another are together as many as ``maxconn``. A worker that dies between
two steps, a ``maxconn`` that changes: both are found by it and put right. A worker's *sequence* is odd while
it is between two steps, by which the supervisor knows when it has seen all of them at one moment.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum

_libc = ctypes.PyDLL(None)  # which keeps the interpreter: nothing here waits
_SEMAPHORE = 64  # bytes for one, more than a sem_t has; a cache line
_NOW = 1 << 20  # posts at once, at most; more than any sensible maxconn


def _function(name: str, *arguments: type) -> Callable[..., int]:
    found = getattr(_libc, name)
    found.argtypes, found.restype = arguments, ctypes.c_int
    return found  # type: ignore[no-any-return]


_init = _function("sem_init", ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
_take = _function("sem_trywait", ctypes.c_void_p)
_give = _function("sem_post", ctypes.c_void_p)
_value = _function("sem_getvalue", ctypes.c_void_p, ctypes.c_void_p)


class Tally(IntEnum):
    """What a worker counts of a backend's queue."""

    LENGTH = 0  # gauge: requests that wait
    QUEUED = 1  # requests that have waited
    WAITED_US = 2  # microseconds that those have waited which got a place
    LATE = 3  # requests that waited for too long
    FULL = 4  # requests for which there was no room
    END = 5


class Places:
    """The shared mapping.

    Args:
        rows: of the scoreboard.
        servers: its servers; a server's place has its index.
        backends: its backends; a backend's place comes behind the servers' (`of_backend`).
    """

    def __init__(self, rows: int, servers: int, backends: int) -> None:
        self.rows = rows
        self._servers = servers
        count = self.count = servers + backends
        sizes = [
            3 * _SEMAPHORE * count,  # free places, owed ones, and those on their way to another worker
            8 * count * rows,  # first ones that wait, by place
            8 * rows,  # sequences
            8 * count,  # capacities
            8 * count,  # whether any are owed
            8 * count,  # whether any request may wait
            8 * backends * int(Tally.END) * (rows + 1),
            4 * count * rows,  # held ones, by row
        ]
        starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
        self._map = mmap.mmap(-1, starts[-1])
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for at in range(0, sizes[0], _SEMAPHORE):
            _init(self._base + at, 1, 0)
        views = [memoryview(self._map)[start:end] for start, end in zip(starts, starts[1:], strict=False)]
        self.free = views[0].cast("I")[:: 3 * _SEMAPHORE // 4]
        """By place, not 0 while some are free."""
        self._first = views[1].cast("q")
        self._first_bytes = views[1]
        self.sequences = views[2].cast("q")
        self.capacities = views[3].cast("q")
        self.owed = views[4].cast("q")
        self.waited = views[5].cast("q")
        """By place of a backend, 1 while requests may wait, for it or for one of its servers. All workers
        write here: 1 after it has told of one that waits, and again with each tick; 0 before it looks for any
        and finds none. So a 0 that shouldn't be there is gone with the next tick."""
        self._tallies = views[6].cast("q")
        self._held = views[7].cast("I")
        self.wakes: list[int] = []
        """An eventfd for each row, by which its worker is told to look at its queues."""

    def open_wakes(self) -> None:
        """Make the eventfds; before the first fork."""
        self.wakes = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(self.rows)]

    def close_wakes(self) -> None:
        """Close them."""
        wakes, self.wakes = self.wakes, []
        for wake in wakes:
            os.close(wake)

    def wake(self, row: int) -> None:
        """Have a worker look at its queues."""
        if self.wakes:
            with suppress(BlockingIOError):
                os.eventfd_write(self.wakes[row], 1)

    def of_backend(self, backend: int) -> int:
        """The place of a backend, by its index in the scoreboard."""
        return self._servers + backend

    def semaphores(self, place: int) -> tuple[int, int, int]:
        """Addresses of the free places' semaphore, of the owed ones', and of that of those on their way."""
        at = self._base + 3 * _SEMAPHORE * place
        return at, at + _SEMAPHORE, at + 2 * _SEMAPHORE

    def moving(self, place: int) -> int:
        """How many are on their way from one worker to another (`Holder.part`)."""
        value = ctypes.c_int()
        _value(self.semaphores(place)[2], ctypes.addressof(value))
        return value.value

    def lost(self, place: int) -> None:
        """One that was on its way doesn't arrive."""
        _take(self.semaphores(place)[2])

    def held(self, row: int) -> memoryview:
        """How many a worker holds, by place."""
        return self._held[row * self.count : (row + 1) * self.count]

    def holders(self, place: int) -> memoryview:
        """By row, how many each worker holds of it."""
        return self._held[place :: self.count]

    def first(self, place: int) -> memoryview:
        """By row, the rank of the request that is to have a place next (`pylb.queue.order`); 0: none."""
        return self._first[place * self.rows : (place + 1) * self.rows]

    def waited_for(self, place: int, rows: int) -> bool:
        """Whether any worker of the first so many rows has a request that waits for it."""
        begin = 8 * place * self.rows
        return int.from_bytes(self._first_bytes[begin : begin + 8 * rows], "little") != 0

    def tally(self, backend: int, row: int) -> memoryview:
        """A worker's figures of a backend's queue, by `Tally`; ``rows`` is what gone workers have left."""
        begin = (backend * (self.rows + 1) + row) * int(Tally.END)
        return self._tallies[begin : begin + int(Tally.END)]

    def tallies(self, backend: int, field: Tally) -> memoryview:
        """A figure of all rows, and at the end what gone workers have left."""
        begin = backend * (self.rows + 1) * int(Tally.END) + field
        return self._tallies[begin : begin + (self.rows + 1) * int(Tally.END) - field : int(Tally.END)]

    # The supervisor's

    def retire(self, row: int) -> None:
        """A worker has gone; what it held is given back by the next `audit`."""
        held = self.held(row)
        held[:] = memoryview(bytes(4 * self.count)).cast("I")
        for place in range(self.count):
            if self._first[place * self.rows + row]:
                self._first[place * self.rows + row] = 0
        self.sequences[row] = 0
        for backend in range(self.count - self._servers):
            cells = self.tally(backend, row)
            if any(cells):
                kept = self.tally(backend, self.rows)
                for field in range(Tally.QUEUED, Tally.END):
                    kept[field] += cells[field]
                cells[:] = memoryview(bytes(8 * int(Tally.END))).cast("q")

    def audit(self, place: int, capacity: int, beside: int = 0) -> int | None:
        """Put the number of free places right; the one process that may do so is the supervisor.

        Args:
            beside: requests there that hold no place, since there was no limit when they came.

        Returns:
            By how many more are free now; None where workers were between two steps: try again.
        """
        self.capacities[place] = capacity
        free, owed, moving = self.semaphores(place)
        value = ctypes.c_int()
        before = self.sequences.tolist()
        if any(number & 1 for number in before):
            return None
        there = sum(self.holders(place)) + beside
        _value(free, ctypes.addressof(value))
        there += value.value
        _value(moving, ctypes.addressof(value))
        there += value.value
        _value(owed, ctypes.addressof(value))
        there -= value.value
        if self.sequences.tolist() != before:
            return None
        lacking = capacity - there
        paid = 0
        for _ in range(min(lacking, _NOW)):
            if _take(owed):
                _give(free)
                paid += 1
        surplus = -lacking
        while surplus > 0 and _take(free) == 0:
            surplus -= 1
        if surplus > 0:
            self.owed[place] = 1
            for _ in range(min(surplus, _NOW)):
                _give(owed)
        elif self.owed[place]:
            _value(owed, ctypes.addressof(value))
            self.owed[place] = int(value.value > 0)
        return paid


class Holder:
    """One worker's end, of which it has one: takes places and gives them back."""

    __slots__ = ("_places", "_held", "_sequences", "_row", "_sequence", "_owed", "_semaphores")

    def __init__(self, places: Places, row: int) -> None:
        self._places = places
        self._held = places.held(row)
        self._sequences = places.sequences
        self._row = row
        self._sequence = 0
        self._owed = places.owed
        self._semaphores = [places.semaphores(place) for place in range(places.count)]

    def take(self, place: int) -> bool:
        """Take a place, if one is free."""
        sequence = self._sequence
        sequences, row = self._sequences, self._row
        sequences[row] = sequence + 1
        if _take(self._semaphores[place][0]):
            sequences[row] = self._sequence = sequence + 2
            return False
        self._held[place] += 1
        sequences[row] = self._sequence = sequence + 2
        return True

    def give(self, place: int) -> None:
        """Give one back."""
        sequence = self._sequence
        sequences, row = self._sequences, self._row
        sequences[row] = sequence + 1
        self._held[place] -= 1
        free, owed, _ = self._semaphores[place]
        if not self._owed[place] or _take(owed):
            _give(free)
        sequences[row] = self._sequence = sequence + 2

    def part(self, place: int) -> None:
        """One goes to another worker, with the request that has it."""
        self._step(place, _give, -1)

    def arrive(self, place: int) -> None:
        """One has come from another worker."""
        self._step(place, _take, 1)

    def _step(self, place: int, move: Callable[[int], int], more: int) -> None:
        sequence = self._sequence
        sequences, row = self._sequences, self._row
        sequences[row] = sequence + 1
        move(self._semaphores[place][2])
        self._held[place] += more
        sequences[row] = self._sequence = sequence + 2


def row_before(first: Sequence[int], rank: int) -> int:
    """The row whose request is before one of this rank, and before all others; -1 where none is."""
    least, row = rank, -1
    for number, other in enumerate(first):
        if other and other < least:
            least, row = other, number
    return row
