"""What the scoreboard says, as plain values: the one place where its cells get names for people.

The lowest floor of `pylb.control`, above the scoreboard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import add
from typing import Any

from pylb import latency
from pylb.config.model import ServerKey
from pylb.scoreboard import (
    NO_BACKEND,
    OTHER_BACKENDS,
    Field,
    RowField,
    Scoreboard,
    ServerField,
    SlotField,
    State,
)
from pylb.servers import Table

_PATIENCE = 12
"""Looks, four a second, after which a worker that shows no sign of life counts as idle."""


class Busy:
    """Shares of wall time in which workers ran, and could have run but waited for a CPU.

    A worker that exists at the first sample has no share before it has been compared with itself.
    """

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._before: dict[int, tuple[int, int, int, int]] = {}
        self._looks = 0
        self.fractions: dict[int, float] = {}
        self.waiting: dict[int, float] = {}

    def sample(self) -> None:
        """Take the times now; a worker is compared with itself at the last sample."""
        for row in range(self._board.rows):
            cells = self._board.row(row)
            pid, beat = cells[Field.PID], cells[Field.HEARTBEAT_NS]
            cpu, waited = cells[Field.CPU_NS], cells[Field.WAITED_NS]
            if cells[Field.STATE] == State.FREE or not beat:
                self._before.pop(row, None)
                self.fractions.pop(row, None)
                self.waiting.pop(row, None)
                continue
            before = self._before.get(row)
            if before is None or before[0] != pid:
                self._before[row] = (pid, beat, cpu, waited)
                if self._looks:  # begun since the last sample, it has done next to nothing
                    self.fractions[row] = self.waiting[row] = 0.0
            elif (wall := beat - before[1]) >= 200_000_000:
                self.fractions[row] = busy = min(1.0, max(0.0, (cpu - before[2]) / wall))
                self.waiting[row] = min(1.0 - busy, max(0.0, (waited - before[3]) / wall))
                self._before[row] = (pid, beat, cpu, waited)
            elif self._looks >= _PATIENCE:  # it hangs; the others are known all the same
                self.fractions.setdefault(row, 0.0)
                self.waiting.setdefault(row, 0.0)
        self._looks += 1

    @property
    def known(self) -> bool:
        """Whether all workers that are there have been compared with themselves."""
        return self._before.keys() == self.fractions.keys()


class Percentiles:
    """Response times since the last look, from the latency buckets."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._before = self._counts()

    def _counts(self) -> list[int]:
        counts = [0] * latency.BUCKETS
        for backend in (NO_BACKEND, OTHER_BACKENDS, *self._board.backends.values()):
            counts = list(map(add, counts, self._board.times_total(backend)))
        return counts

    def sample(self, quantile: float) -> float:
        """An upper bound of the quantile in milliseconds (`latency`); 0 when nothing was answered."""
        counts = self._counts()
        delta = [max(0, after - before) for after, before in zip(counts, self._before, strict=True)]
        self._before = counts
        return latency.quantile(delta, quantile)


def state(board: Scoreboard, row: int) -> str:
    """A worker's state in one word: its own, or ``stuck`` where the supervisor has found that it hangs."""
    if board.note(row)[RowField.STUCK]:
        return "stuck"
    return State(board.row(row)[Field.STATE]).name.lower()


def workers(board: Scoreboard, busy: Mapping[int, float]) -> list[dict[str, Any]]:
    """One entry per worker process, by slot and generation."""
    found = []
    for row in board.live_rows():
        cells = board.row(row)
        found.append(
            {
                "slot": cells[Field.SLOT],
                "pid": cells[Field.PID],
                "state": state(board, row),
                "generation": cells[Field.GENERATION],
                "connections": cells[Field.CONNECTIONS],
                "tunnels": cells[Field.TUNNELS],
                "fixed": cells[Field.FIXED],
                "in_flight": cells[Field.IN_FLIGHT],
                "requests": cells[Field.REQUESTS],
                "busy": round(busy.get(row, 0.0), 3),
                "lag_ms": cells[Field.LAG_US] / 1000,
                "accepted": cells[Field.ACCEPTED],
                "adopted": cells[Field.ADOPTED],
                "handed_over": cells[Field.HANDED_OVER],
                "log_lost": cells[Field.LOG_LOST],
            }
        )
    return sorted(found, key=lambda worker: (worker["slot"], worker["generation"]))


def servers(
    board: Scoreboard,
    index: Mapping[ServerKey, int],
    check: Callable[[int], dict[str, Any] | None] = lambda index: None,
) -> list[dict[str, Any]]:
    """One entry per server; ``check`` gives what is known of one by its checks."""
    table = Table(board)
    return [
        {
            "backend": backend,
            "name": name,
            "address": address,
            "state": table.state(number),
            "active": board.server_total(ServerField.ACTIVE, number),
            "requests": board.server_total(ServerField.REQUESTS, number),
            "errors": board.server_total(ServerField.ERRORS, number),
            "check": check(number),
        }
        for (backend, name, address), number in index.items()
    ]


def totals(board: Scoreboard) -> dict[str, int]:
    """Sums over all workers, gone ones included."""
    names = (
        *(Field.CONNECTIONS, Field.IN_FLIGHT, Field.ACCEPTED, Field.ADOPTED, Field.HANDED_OVER),
        *(Field.REQUESTS, Field.RETRIES, Field.BYTES_IN, Field.BYTES_OUT, Field.STATUS_1XX),
        *(Field.STATUS_2XX, Field.STATUS_3XX, Field.STATUS_4XX, Field.STATUS_5XX, Field.REFUSED),
        *(Field.TIMEOUTS, Field.ABORTED, Field.INTERNAL, Field.PAUSES, Field.ACCESS_LOST),
    )
    return {field.name.lower(): board.total(field) for field in names}


def serving(board: Scoreboard) -> Sequence[int]:
    """Rows of the workers that take new connections."""
    return [row for row in board.live_rows() if state(board, row) == "serving"]


def accept_queue(board: Scoreboard) -> int:
    """Connections that wait to be accepted, over all slots."""
    return sum(board.slot(slot)[SlotField.ACCEPT_QUEUE] for slot in range(board.slots))
