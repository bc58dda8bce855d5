"""The arithmetic of slots and rows. Pure: it knows numbers only."""

from __future__ import annotations

from collections.abc import Mapping

MOST_ROWS = 512
"""Of the scoreboard, unless even that is too few; each has three descriptors in every process."""


def rows_for(slots: int, generations: int, descriptors: int) -> int:
    """How many workers may exist at once.

    Args:
        slots: how many serve at most; during a reload twice as many.
        generations: replaced ones that may linger; there is room for as many workers again, that scaling
            has replaced.
        descriptors: that a process may have; 0 or less for any number.
    """
    most = min(MOST_ROWS, descriptors // 8) if descriptors > 0 else MOST_ROWS
    return max(4 * slots + 4, min(2 * slots * (1 + generations), most))


def descriptors_for(slots: int, binds: int, rows: int) -> int:
    """How many descriptors the supervisor needs: listening sockets, inboxes, eventfds, channels, and some
    for files."""
    return slots * binds + 3 * rows + 2 * slots + 64


def assign(slots: int, owners: Mapping[int, int]) -> dict[int, list[int]]:
    """Which slots each worker reads: its own, and the one of the lowest slot reads the ownerless ones.

    Args:
        slots: how many slots there are.
        owners: slot to worker (any integer that tells workers apart).
    """
    if not owners:
        return {}
    result: dict[int, list[int]] = {worker: [] for worker in owners.values()}
    lowest = owners[min(owners)]
    for slot in range(slots):
        result[owners.get(slot, lowest)].append(slot)
    return result
