"""Places at servers and backends with ``maxconn``: taken and given back atomically, over all workers.

Known to all processes, beside the scoreboard, which holds one (`Scoreboard.places`). Checking a count and
then raising it would let more through than the limit, since workers do it at the same time. So each free
place is one of a POSIX semaphore's (man 7 sem_overview), which lies in memory that the processes share, and
is taken by ``sem_trywait``. The interpreter has that as a method (``multiprocessing``'s semaphores, given the
address of one in place of a name), which costs a sixth of a call by ctypes and a tenth of an eventfd's.

This is the one exception to "each figure has one writer". What hangs on it has one: each worker notes in its
row how many places it holds, so that the supervisor can give back those of a worker that has died, and who of
its requests is next, so that workers serve each other's before their own where these came first.

The arithmetic is the supervisor's (`Places.audit`): free places, less those that are owed, those held, and
those on their way from one worker to another are together as many as ``maxconn``. A worker that dies between
two steps, a ``maxconn`` that changes: both are found by it and put right. A worker notes a place *before* it
takes it, and strikes it out *after* it has given it back; so whenever it is looked at, or dies, it is seen to
hold one too many at worst, which lets none through. Each note differs from the one before it, by which the
supervisor knows that it has seen all workers at one moment.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Any, Protocol

try:
    import _multiprocessing  # type: ignore[import-not-found, unused-ignore]

    _SemLock: Any = getattr(_multiprocessing, "SemLock", None)
except ImportError:  # an interpreter that was built without
    _SemLock = None

_libc = ctypes.PyDLL(None)  # which keeps the interpreter: nothing here waits
_SEMAPHORE = 64  # bytes for one, more than a sem_t has; a cache line
_MOST = (1 << 31) - 1  # of a semaphore
_NOW = 1 << 20  # posts at once, at most; more than any sensible maxconn
_LOOKS = 8  # at places that are being taken, in one audit

# A note of a worker's: how many places it holds, and above that how many notes there were.
_NOTE = 1 << 20
_HELD = _NOTE - 1
_TAKES = _NOTE + 1
_GIVES = _NOTE - 1


class Semaphore(Protocol):
    """What `multiprocessing`'s have."""

    def acquire(self, block: bool, /) -> bool:
        """Take one, if there is any; whether there was."""

    def release(self) -> None:
        """Give one back."""

    def _get_value(self) -> int:
        """How many there are."""


class LibcSemaphore:
    """The same by ctypes, for an interpreter or a C library with which the other way isn't safe."""

    def __init__(self, address: int) -> None:
        self._address = ctypes.c_void_p(address)

    def acquire(self, block: bool, /) -> bool:
        """Take one; it never waits."""
        return bool(_libc.sem_trywait(self._address) == 0)

    def release(self) -> None:
        _libc.sem_post(self._address)

    def _get_value(self) -> int:
        value = ctypes.c_int()
        _libc.sem_getvalue(self._address, ctypes.byref(value))
        return value.value


def _glibc() -> bool:
    """Whether the C library is glibc. What the interpreter makes of an address it closes in the end, as if
    it had a name; to glibc that is nothing (EINVAL)."""
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False


_INTERPRETERS = hasattr(_SemLock, "_rebuild") and _glibc()


def semaphore(address: int, interpreters: bool = _INTERPRETERS) -> Semaphore:
    """The semaphore in shared memory at this address.

    Args:
        interpreters: by the interpreter's own methods, and not by ctypes.
    """
    if interpreters:
        counting = 1  # and no mutex
        made: Semaphore = _SemLock._rebuild(address, counting, _MOST, None)
        return made
    return LibcSemaphore(address)


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
            8 * count,  # whether any are owed
            8 * count,  # whether any request may wait
            8 * backends * int(Tally.END) * (rows + 1),
            8 * count * rows,  # notes, by row
        ]
        starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
        self._map = mmap.mmap(-1, starts[-1])
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for at in range(0, sizes[0], _SEMAPHORE):
            _libc.sem_init(ctypes.c_void_p(self._base + at), 1, 0)
        views = [memoryview(self._map)[start:end] for start, end in zip(starts, starts[1:], strict=False)]
        self.free = views[0].cast("I")[:: 3 * _SEMAPHORE // 4]
        """By place, not 0 while some are free."""
        self._first = views[1].cast("q")
        self._first_bytes = views[1]
        self.owed = views[2].cast("q")
        self.waited = views[3].cast("q")
        """By place of a backend, 1 while requests may wait, for it or for one of its servers. All workers
        write here: 1 after it has told of one that waits, and again with each tick; 0 before it looks for any
        and finds none. So a 0 that shouldn't be there is gone with the next tick."""
        self._tallies = views[4].cast("q")
        self._notes = views[5].cast("q")
        self._semaphores: dict[int, tuple[Semaphore, Semaphore, Semaphore]] = {}
        self._surplus: dict[int, int] = {}  # of places, as the last look found it
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

    def semaphores(self, place: int) -> tuple[Semaphore, Semaphore, Semaphore]:
        """Those of the free places, of the owed ones, and of those on their way to another worker."""
        found = self._semaphores.get(place)
        if found is None:
            at = self._base + 3 * _SEMAPHORE * place
            free, owed, moving = (semaphore(at + number * _SEMAPHORE) for number in range(3))
            found = self._semaphores[place] = free, owed, moving
        return found

    def moving(self, place: int) -> int:
        """How many are on their way from one worker to another (`Holder.part`)."""
        return self.semaphores(place)[2]._get_value()

    def lost(self, place: int) -> None:
        """One that was on its way doesn't arrive."""
        self.semaphores(place)[2].acquire(False)

    def notes(self, row: int) -> memoryview:
        """A worker's notes, by place: what it holds, and what makes each note another one than the last."""
        return self._notes[row * self.count : (row + 1) * self.count]

    def held(self, place: int) -> list[int]:
        """By row, how many each worker holds of it."""
        return [note & _HELD for note in self._notes[place :: self.count].tolist()]

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
        self.notes(row)[:] = memoryview(bytes(8 * self.count)).cast("q")
        for place in range(self.count):
            if self._first[place * self.rows + row]:
                self._first[place * self.rows + row] = 0
        for backend in range(self.count - self._servers):
            cells = self.tally(backend, row)
            if any(cells):
                kept = self.tally(backend, self.rows)
                for field in range(Tally.QUEUED, Tally.END):
                    kept[field] += cells[field]
                cells[:] = memoryview(bytes(8 * int(Tally.END))).cast("q")

    def audit(self, place: int, capacity: int, beside: int = 0) -> int | None:
        """Put the number of free places right; the one process that may do so is the supervisor.

        Places too many are taken away when two looks have found them: the first may have seen a worker
        between two steps.

        Args:
            beside: requests there that hold no place, since there was no limit when they came.

        Returns:
            By how many more are free now; None where that can't be said yet: try again.
        """
        found = self._there(place)
        if found is None:
            return None
        free, owed, _ = self.semaphores(place)
        surplus = found + beside - capacity
        paid = 0
        for _ in range(min(-surplus, _NOW)):
            if not owed.acquire(False):
                free.release()
                paid += 1
        before = self._surplus.pop(place, 0)
        if surplus > 0 and not before:
            self._surplus[place] = surplus
            return None
        surplus = min(surplus, before, _NOW)
        while surplus > 0 and free.acquire(False):
            surplus -= 1
        if surplus > 0:
            self.owed[place] = 1
            for _ in range(surplus):
                owed.release()
        elif self.owed[place]:
            self.owed[place] = int(owed._get_value() > 0)
        return paid

    def _there(self, place: int) -> int | None:
        """Places that are free, and not owed, or held, or on their way; None while workers take and give
        them."""
        free, owed, moving = self.semaphores(place)
        notes = self._notes[place :: self.count]
        before = notes.tolist()
        for _ in range(_LOOKS):
            there = free._get_value() - owed._get_value() + moving._get_value()
            after = notes.tolist()
            if after == before:
                return there + sum([note & _HELD for note in after])
            before = after
        return None


Take = Callable[[], bool]
Give = Callable[[], None]


class Holder:
    """One worker's end, of which it has one: takes places and gives them back."""

    __slots__ = ("_places", "_row", "_last")

    def __init__(self, places: Places, row: int) -> None:
        self._places = places
        self._row = row
        self._last = places.notes(row).tolist()

    def ends(self, place: int, behind: int, then: Callable[[int], None]) -> tuple[Take, Give]:
        """Two functions with all that they need at hand, as each request calls both: one takes a place, and
        says whether one was free; one gives one back.

        Args:
            behind: a backend's place, by which `Places.waited` says whether somebody waits.
            then: called, where somebody does, with the place that was given back.
        """
        places, last = self._places, self._last
        notes, owing, waited = places.notes(self._row), places.owed, places.waited
        free, owed, _ = places.semaphores(place)
        acquire, release, pay = free.acquire, free.release, owed.acquire

        def take() -> bool:
            notes[place] = last[place] = last[place] + _TAKES
            if acquire(False):
                return True
            notes[place] = last[place] = last[place] + _GIVES
            return False

        def give() -> None:
            if not owing[place] or not pay(False):
                release()
            notes[place] = last[place] = last[place] + _GIVES
            if waited[behind]:
                then(place)

        return take, give

    def part(self, place: int) -> None:
        """One goes to another worker, with the request that has it."""
        self._places.semaphores(place)[2].release()
        self._note(place, _GIVES)

    def arrive(self, place: int) -> None:
        """One has come from another worker."""
        self._note(place, _TAKES)
        self._places.lost(place)  # it isn't: it is here

    def _note(self, place: int, change: int) -> None:
        self._places.notes(self._row)[place] = self._last[place] = self._last[place] + change


def row_before(first: Sequence[int], rank: int) -> int:
    """The row whose request is before one of this rank, and before all others; -1 where none is."""
    least, row = rank, -1
    for number, other in enumerate(first):
        if other and other < least:
            least, row = other, number
    return row
