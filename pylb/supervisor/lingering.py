"""Bounding the replaced generations that linger (``drain.generations``): the oldest one above is closed.

It is told which workers linger, and knows nothing of those that serve.
"""

from __future__ import annotations

from collections.abc import Iterable

from pylb.log import log
from pylb.scoreboard import Field, Scoreboard
from pylb.supervisor.processes import Worker

GRACE = 5.0
"""Seconds that a worker has beyond the time in which it is to be gone."""


def close_oldest(
    lingering: Iterable[Worker], board: Scoreboard, most: int, settled: float, now: float
) -> None:
    """Have the workers of the oldest generations close what they still hold.

    Args:
        lingering: the workers of replaced generations.
        most: how many generations may linger.
        settled: a generation counts if it was replaced by then (monotonic seconds).
        now: monotonic seconds.
    """
    generations: dict[int, list[Worker]] = {}
    for worker in lingering:
        generations.setdefault(worker.generation, []).append(worker)
    old = [
        generation
        for generation in sorted(generations)
        if min(worker.replaced_at for worker in generations[generation]) <= settled
    ]
    for generation in old[: max(0, len(old) - most)]:
        workers = [worker for worker in generations[generation] if not worker.cut]
        if not workers:
            continue
        rows = [board.row(worker.row) for worker in workers]
        log.warning(
            "generation %d is closed, as more than %d linger (drain.generations): "
            "it held %d connections and %d tunnels",
            *(generation, most),
            *(sum(cells[field] for cells in rows) for field in (Field.CONNECTIONS, Field.TUNNELS)),
        )
        for worker in workers:
            worker.cut = True
            worker.kill_at = now + GRACE
            worker.send({"op": "cut", "reason": "drain.generations"})
