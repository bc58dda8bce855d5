"""Finding workers that show no sign of life: they get no connections, and after a time they are killed.

How silence is counted, `pylb.supervisor.watchdog` knows; what a change means for other workers, the caller
knows.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

from pylb.log import log
from pylb.scoreboard import Field, RowField, Scoreboard
from pylb.supervisor.processes import Worker
from pylb.supervisor.readings import reading
from pylb.supervisor.watchdog import STUCK


def judge(workers: Iterable[Worker], board: Scoreboard, watchdog: float, now: float) -> bool:
    """Look at each worker; gives whether one has become stuck, or has shown signs of life again.

    Args:
        watchdog: seconds of silence after which one is killed, `STUCK` at least.
        now: monotonic seconds.
    """
    limit = max(STUCK, watchdog)
    changed = False
    for worker in workers:
        beat = board.row(worker.row)[Field.HEARTBEAT_NS]
        silence = worker.watch.look(now, beat, lambda pid=worker.pid: reading(pid))  # type: ignore[misc]
        if worker.stuck != (silence >= STUCK):
            changed = True
            worker.stuck = silence >= STUCK
            board.note(worker.row)[RowField.STUCK] = worker.stuck
            log.warning(
                "worker %d (pid %d) shows no sign of life: no new connections for it"
                if worker.stuck
                else "worker %d (pid %d) shows signs of life again",
                *(worker.slot, worker.pid),
            )
        if silence >= limit and not worker.killed:
            worker.killed = True
            log.error(
                "worker %d (pid %d) has shown no sign of life for %.1f s: killing it",
                *(worker.slot, worker.pid, silence),
            )
            worker.signal(signal.SIGKILL)
    return changed
