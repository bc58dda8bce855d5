"""The order of those that wait. Pure.

Who waits has a *rank*, an integer; the least is served first. Its upper part is the priority, where a lower
class goes before a higher one (HAProxy's ``set-priority-class``). Below that, first come is first served: the
moment at which it came. Where those of equal keys are to take turns, it is a virtual time in place of that: a
key's first request gets the present one, and each further one that waits gets one more than the last of its
key (start-time fair queueing: Goyal, Vin, Cheng, 1996), so that who asks much waits behind himself.

Ranks of different workers can be compared, so that each knows whether another worker's request is before its
own.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

LOWEST, HIGHEST = -2047, 2047
"""Priorities."""
_BITS = 51
_MOMENT = (1 << _BITS) - 1
T = TypeVar("T")


def moment(rank: int) -> int:
    """A rank without its priority."""
    return rank & _MOMENT


class Entry(Generic[T]):
    """One that waits."""

    __slots__ = ("item", "key", "rank")

    def __init__(self, item: T, key: Any, rank: int) -> None:
        self.item: T | None = item
        """None when it doesn't wait any more."""
        self.key = key
        self.rank = rank


class Order(Generic[T]):
    """Those that wait for the same thing, in one worker.

    Args:
        fair: those of equal keys take turns.
    """

    __slots__ = ("_fair", "_heap", "_number", "_count", "_served", "_last", "_waiting")

    def __init__(self, fair: bool = False) -> None:
        self._fair = fair
        self._heap: list[tuple[int, int, Entry[T]]] = []
        self._number = 0
        self._count = 0
        # Of keys that take turns.
        self._served = 0  # the latest virtual time that was served
        self._last: dict[Any, int] = {}
        self._waiting: dict[Any, int] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, item: T, now: int, priority: int = 0, key: Any = None, others: int = 0) -> Entry[T]:
        """One more waits.

        Args:
            now: when it came, in microseconds.
            others: rank of the next one to be served in other workers; 0 where there is none.
        """
        at = now
        if self._fair:
            at = max(self._served, moment(others), 1)
            last = self._last.get(key)
            if last is not None:
                at = max(at, last + 1)
            self._last[key] = at
            self._waiting[key] = self._waiting.get(key, 0) + 1
        entry = Entry(item, key, (priority - LOWEST + 1) << _BITS | at & _MOMENT)
        self._number += 1
        self._count += 1
        heappush(self._heap, (entry.rank, self._number, entry))
        return entry

    def first(self) -> Entry[T] | None:
        """The next one to be served."""
        heap = self._heap
        while heap and heap[0][2].item is None:
            heappop(heap)
        return heap[0][2] if heap else None

    def some(self, count: int) -> list[Entry[T]]:
        """Up to so many, in their order."""
        first = self.first()
        if first is None or count == 1:
            return [first] if first is not None else []
        return [entry for _, _, entry in sorted(self._heap)[: 4 * count] if entry.item is not None][:count]

    @property
    def rank(self) -> int:
        """Of the next one to be served; 0 where there is none."""
        first = self.first()
        return first.rank if first is not None else 0

    def remove(self, entry: Entry[T], served: bool = False) -> None:
        """It is served, or doesn't want to wait any more."""
        if entry.item is None:
            return
        entry.item = None
        self._count -= 1
        if self._fair:
            if served:
                self._served = max(self._served, moment(entry.rank))
            left = self._waiting[entry.key] - 1
            if left:
                self._waiting[entry.key] = left
            else:
                del self._waiting[entry.key], self._last[entry.key]
        if not self._count:
            self._heap.clear()
        elif len(self._heap) > 2 * self._count + 64:  # those that have left cost memory, too
            self._heap = sorted(one for one in self._heap if one[2].item is not None)
