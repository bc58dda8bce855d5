"""Which workers should hand client connections to which others, so that all hold about as many. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

TOLERANCE = 1.1
"""A worker acts when it holds more than this times the mean."""

LEAST_EXCESS = 2
"""And at least so many more than the mean: moving one connection to and fro would level nothing."""

PER_TICK = 400
"""The default limit of connections moved in one tick, over all workers."""


@dataclass(frozen=True, slots=True)
class Move:
    """``count`` connections should go from one row to another."""

    source: int
    target: int
    count: int


def plan(connections: Mapping[int, int], limit: int = PER_TICK) -> list[Move]:
    """The moves that bring overfull workers down to the mean.

    Args:
        connections: how many client connections each worker (row) holds.
        limit: how many connections may move at most.

    No worker is brought below the mean nor above it (rounded up), so a plan carried out in full yields an
    empty next plan, and a plan carried out in part never makes things worse.
    """
    if len(connections) < 2:
        return []
    total = sum(connections.values())
    mean = total / len(connections)
    floor, ceiling = total // len(connections), -(-total // len(connections))
    givers = [
        [row, count - ceiling]
        for row, count in sorted(connections.items(), key=lambda item: (-item[1], item[0]))
        if count > TOLERANCE * mean and count - mean >= LEAST_EXCESS
    ]
    takers = [
        [row, floor - count]
        for row, count in sorted(connections.items(), key=lambda item: (item[1], item[0]))
        if count < floor
    ]
    moves: list[Move] = []
    for giver in givers:
        for taker in takers:
            count = min(giver[1], taker[1], limit)
            if count <= 0:
                continue
            moves.append(Move(giver[0], taker[0], count))
            giver[1] -= count
            taker[1] -= count
            limit -= count
    return moves


def given(moves: Iterable[Move]) -> Counter[int]:
    """How many connections each row gives."""
    result: Counter[int] = Counter()
    for move in moves:
        result[move.source] += move.count
    return result
