"""The scoreboard: one anonymous shared mapping through which the processes see each other.

Known to all processes; of pylb it knows `latency` only. It is made by the supervisor before the first fork
and never grows. Everything in it is a signed 64-bit integer, but for active requests, which have 32 bits and
no sign, so that many can be added at once. There are no locks: each *row* is written by exactly one process
(promise I5), and readers accept that two fields of a row may be a moment apart.

A **row** belongs to one worker process for its life. Rows are not slots: a slot is a listening
socket that outlives workers, and during a reload two generations of workers (hence two rows) serve
the same slot. When a worker has gone, the supervisor (then the only writer) folds the row's counters into
the *retired* row and zeroes it, so that totals never go back.

Per-server counters lie in columns: for one server the values of all rows are adjacent. Active requests lie in
rows: those of a worker at all servers are adjacent, for whom picks by load (`pylb.balance.loads`), and no two
workers write to the same cache line. What is true of a server for all workers (its health, its weight) is in
the table of servers, whose cells `pylb.servers` knows.
"""

from __future__ import annotations

import mmap
import sys
from array import array
from collections.abc import Collection, Iterable
from enum import IntEnum
from operator import add

from pylb import latency
from pylb.places import Places

REASONS = (
    "syntax",
    "request_line",
    "line_bytes",
    "header_bytes",
    "header_count",
    "body_bytes",
    "version",
    "method",
    "target",
    "host",
    "content_length",
    "transfer_encoding",
    "content_length_and_transfer_encoding",
    "chunk",
    "expect",
    "timeout",
    "connections",
    "http2",
    "path",
    "regex",
)
"""Why a request can be refused."""
BAD_RESPONSES = (
    "status_line",
    "field_line",
    "content_length",
    "transfer_encoding",
    "header_bytes",
    "syntax",
    "chunk",
    "upgrade",
)
"""Why a server's response can be one that is not passed on."""


class Field(IntEnum):
    """What a worker's row holds. Counters only grow while the worker lives; gauges are marked."""

    PID = 0  # gauge: 0 when the row is free or its worker has not begun
    SLOT = 1  # gauge
    GENERATION = 2  # gauge: number of the reload that made this worker
    STATE = 3  # gauge: see State
    HEARTBEAT_NS = 4  # gauge: time.monotonic_ns() of the worker's last tick
    CPU_NS = 5  # process CPU time (user + system) in nanoseconds, as of the last tick
    WAITED_NS = 6  # nanoseconds for which it was ready to run and got no CPU, as of the last tick
    LAG_US = 7  # gauge: how late the last tick came, microseconds
    CONNECTIONS = 8  # gauge: open client connections
    IN_FLIGHT = 9  # gauge: requests read and not yet answered
    ACCEPTED = 10  # connections accepted from a listening socket
    ADOPTED = 11  # connections received from another worker
    HANDED_OVER = 12  # connections given to another worker
    REQUESTS = 13  # requests answered, by any status, pylb's own errors included
    RETRIES = 14  # requests sent again on another connection or server
    BYTES_IN = 15  # bytes read from clients
    BYTES_OUT = 16  # bytes written to clients
    STATUS_1XX = 17
    STATUS_2XX = 18
    STATUS_3XX = 19
    STATUS_4XX = 20
    STATUS_5XX = 21
    REFUSED = 22  # requests refused as malformed or too large (a subset of 4xx)
    TIMEOUTS = 23  # client and server timeouts
    ABORTED = 24  # requests whose client or server left in the middle
    INTERNAL = 25  # requests and connections that an error of pylb's own has ended
    PAUSES = 26  # times that accepting was stopped, since descriptors ran short
    LOG_LOST = 27  # log lines for which there was no room
    TUNNELS = 28  # gauge: upgraded connections, and those of TCP mode
    FIXED = 29  # gauge: client connections that don't level workers (TLS, HTTP/2, tunnels)
    LIVELY = 30  # gauge: those of FIXED that had a request lately, without tunnels
    ACCESS_LOST = 31  # lines of the access log that were dropped, or could not be written
    LISTS = 32  # gauge: version of the lists of servers that it goes by; the supervisor's until it has begun
    REFUSED_FOR = 33  # first of len(REASONS) counters
    BAD_RESPONSE_FOR = 33 + len(REASONS)  # first of len(BAD_RESPONSES) counters
    END = 33 + len(REASONS) + len(BAD_RESPONSES)


GAUGES = frozenset(
    {
        Field.PID,
        Field.SLOT,
        Field.GENERATION,
        Field.STATE,
        Field.HEARTBEAT_NS,
        Field.LAG_US,
        Field.CONNECTIONS,
        Field.IN_FLIGHT,
        Field.TUNNELS,
        Field.FIXED,
        Field.LIVELY,
        Field.LISTS,
    }
)


class State(IntEnum):
    """Life of a worker. FREE and STARTING are written by the supervisor, the rest by the worker."""

    FREE = 0
    STARTING = 1
    SERVING = 2
    RETIRING = 3


class ServerField(IntEnum):
    """What is kept per (server, row)."""

    ACTIVE = 0  # gauge: requests now at the server
    REQUESTS = 1  # requests sent to it
    ERRORS = 2  # connect failures, timeouts, broken or malformed responses
    GOOD = 3  # good answers, where the backend has outliers
    BAD = 4  # answers with a status that is a failure there


class SlotField(IntEnum):
    """What the supervisor notes per slot; only the supervisor writes these."""

    ACCEPT_QUEUE = 0  # gauge: connections the kernel completed and no worker accepted yet
    WEIGHT = 1  # gauge: steering weight now in force, 0..65536


class RowField(IntEnum):
    """What the supervisor notes about a worker; only the supervisor writes these."""

    STUCK = 0  # 1 while the worker shows no sign of life: it gets no connections


class SupervisorField(IntEnum):
    """What the supervisor tells everybody; only the supervisor writes these."""

    ANNOUNCING = 0  # 1 from the beginning of a stop: health paths answer 503
    ROWS = 1  # all rows in use are below this one
    LOG_LOST = 2  # log lines for which there was no room


class ControlField(IntEnum):
    """The control plane's own cells, which outlive it; only the control plane writes these."""

    HEARTBEAT_NS = 0  # time.monotonic_ns() of its last tick
    LOG_LOST = 1  # log lines for which there was no room
    # State of scaling, with which the next control plane goes on. Moments are monotonic nanoseconds, or 0.
    USED_NS = 2  # when USED_MICROCORES was computed
    USED_MICROCORES = 3  # CPU that the workers use, smoothed
    CHANGED_NS = 4  # when the worker count was changed last
    GREW_NS = 5  # when it grew last, unless that was claimed back
    PAYS_MS = 6  # milliseconds that this growth has to last to be worth its cost
    OWED_NS = 7  # when the time will have passed that growth is owed (pylb.scaling.policy)
    LISTS = 8  # version of the lists of servers that it goes by


_CACHE_LINE = 128  # bytes; some processors fetch two of 64

RECORD = 8
"""Cells of a server's record in the table of servers (`pylb.servers`)."""

NO_BACKEND, OTHER_BACKENDS = 0, 1
"""Two histograms of response times beside those of backends: for requests without a backend (redirects,
refusals), and for all backends for which there was no room."""


class Scoreboard:
    """The mapping and typed views of it.

    Args:
        slots: number of worker slots (the most workers that may serve at once).
        servers: how many servers can be told apart at once, those of leaving workers included.
        backends: how many backends' response times are told apart at once.
        rows: how many workers may exist at once, those that leave included; at least ``4 * slots + 4``.
    """

    def __init__(self, slots: int, servers: int = 512, rows: int = 0, backends: int = 256) -> None:
        self.slots = slots
        self.rows = max(4 * slots + 4, rows)
        self.servers = servers
        width = int(Field.END)
        rows_size = (self.rows + 1) * width  # the last one is the retired row
        servers_size = (len(ServerField) - 1) * servers * (self.rows + 1)
        slots_size = len(SlotField) * slots
        notes_size = len(RowField) * self.rows
        singles = len(SupervisorField) + len(ControlField)
        self._times = 2 + backends
        times_size = (
            self._times * (self.rows + 1) * latency.WIDTH
        )  # most pages of it are never touched, and take no memory
        size = 8 * (rows_size + servers_size + slots_size + notes_size + singles + times_size)
        size = -(-size // _CACHE_LINE) * _CACHE_LINE
        # The table's version has a cache line of its own: it is read at each pick, and hardly ever written.
        table_at, version_at = size + _CACHE_LINE, size
        size = table_at - (-4 * RECORD * servers // _CACHE_LINE) * _CACHE_LINE
        # Cells from one row's active requests to the next one's.
        self._apart = -(-4 * servers // _CACHE_LINE) * _CACHE_LINE // 4
        self._map = mmap.mmap(-1, size + 4 * self._apart * (self.rows + 1))
        self.table = memoryview(self._map)[table_at : table_at + 4 * RECORD * servers]
        """The table of servers as bytes: for each a record of `RECORD` cells of 32 bits (`pylb.servers`)."""
        self.table_version = memoryview(self._map)[version_at : version_at + 8]
        """The bytes of its version."""
        self.active_at = size
        """Where active requests begin in the mapping, in bytes."""
        self._cells = memoryview(self._map)[:size].cast("q")
        self._active = memoryview(self._map)[size:].cast("I")
        self._active_bytes = memoryview(self._map)[size:]
        self._server_base = rows_size
        self._slot_base = rows_size + servers_size
        self._note_base = self._slot_base + slots_size
        singles_base = self._note_base + notes_size
        self.supervisor = self._cells[singles_base : singles_base + len(SupervisorField)]
        """Cells indexed by `SupervisorField`."""
        self.control = self._cells[singles_base + len(SupervisorField) : singles_base + singles]
        """Cells indexed by `ControlField`."""
        self._times_base = singles_base + singles
        self.places = Places(self.rows, servers, self._times)
        """Of servers and backends with ``maxconn``."""
        self.backends: dict[str, int] = {}
        """Index for `times`, by backend. Only the supervisor changes it; a child has it as of its fork."""

    def row(self, row: int) -> memoryview:
        """The cells of one row, indexed by `Field`. `rows` itself is the retired row."""
        width = int(Field.END)
        return self._cells[row * width : (row + 1) * width]

    def server_column(self, field: ServerField, server: int) -> memoryview:
        """One server's value of every row (``rows + 1`` cells, the last being the retired row's)."""
        if not 0 <= server < self.servers:
            raise IndexError(f"server {server} of {self.servers}")
        if field is ServerField.ACTIVE:
            return self._active[server :: self._apart]
        start = self._server_base + ((field - 1) * self.servers + server) * (self.rows + 1)
        return self._cells[start : start + self.rows + 1]

    def active(self, row: int) -> memoryview:
        """A worker's active requests at all servers, as bytes: 4 for each."""
        begin = 4 * row * self._apart
        return self._active_bytes[begin : begin + 4 * self.servers]

    def active_total(self, row: int) -> int:
        """A worker's active requests at all servers together."""
        # 2^32 is 1 modulo 2^32 - 1, so that the cells of 32 bits add up.
        return int.from_bytes(self.active(row), sys.byteorder) % 0xFFFFFFFF

    def times(self, backend: int, row: int) -> memoryview:
        """A backend's response times by one worker: `latency.WIDTH` cells."""
        start = self._times_base + (backend * (self.rows + 1) + row) * latency.WIDTH
        return self._cells[start : start + latency.WIDTH]

    def add_backends(
        self, wanted: Collection[str], kept: Iterable[str], bounded: Collection[str] = ()
    ) -> None:
        """Make room for backends (supervisor only); ``kept`` are others that workers still know.

        Those for which there is none share one histogram. The ``bounded`` ones can't, since they have places.

        Raises:
            OverflowError: there is no room for all of these; nothing was changed.
        """
        known, room = self.backends, self._times - 2
        fresh = [name for name in dict.fromkeys(wanted) if name not in known]
        if len(known) + len(fresh) > room:
            gone = known.keys() - {*wanted, *kept}
            fresh.sort(key=lambda name: name not in bounded)
            if sum(name in bounded for name in fresh) > room - len(known) + len(gone):
                raise OverflowError(f"more than {room} backends")
            for name in gone:
                self.times(known.pop(name), self.rows)[:] = memoryview(array("q", bytes(8 * latency.WIDTH)))
        free = iter(sorted(set(range(2, self._times)) - set(known.values())))
        known.update(zip(fresh, free, strict=False))

    def times_total(self, backend: int) -> list[int]:
        """A backend's response times over all workers, gone ones included."""
        total = self.times(backend, self.rows).tolist()
        for row in self.live_rows():
            times = self.times(backend, row)
            if any(times):
                total = list(map(add, total, times))
        return total

    def slot(self, slot: int) -> memoryview:
        """The cells of one slot, indexed by `SlotField`."""
        start = self._slot_base + slot * len(SlotField)
        return self._cells[start : start + len(SlotField)]

    def note(self, row: int) -> memoryview:
        """The supervisor's cells about one row, indexed by `RowField`."""
        start = self._note_base + row * len(RowField)
        return self._cells[start : start + len(RowField)]

    def free_row(self) -> int | None:
        """The lowest row that no process uses, or None when all are taken."""
        for row in range(self.rows):
            if self.row(row)[Field.STATE] == State.FREE:
                return row
        return None

    def live_rows(self) -> list[int]:
        """Rows of workers that exist (starting, serving or retiring)."""
        used = self.supervisor[SupervisorField.ROWS] or self.rows  # 0 without a supervisor (in tests)
        return [row for row in range(used) if self.row(row)[Field.STATE] != State.FREE]

    def retire(self, row: int) -> None:
        """Fold a gone worker's counters into the retired row and free the row (supervisor only)."""
        cells, retired = self.row(row), self.row(self.rows)
        for index in range(Field.END):
            if index not in GAUGES:
                retired[index] += cells[index]
            cells[index] = 0
        self.active(row)[:] = bytes(4 * self.servers)
        self.places.retire(row)
        for server in range(self.servers):
            for field in (ServerField.REQUESTS, ServerField.ERRORS, ServerField.GOOD, ServerField.BAD):
                column = self.server_column(field, server)
                if column[row]:
                    column[self.rows] += column[row]
                    column[row] = 0
        for backend in (NO_BACKEND, OTHER_BACKENDS, *self.backends.values()):
            self._fold_times(backend, row)

    def _fold_times(self, backend: int, row: int) -> None:
        times, retired = self.times(backend, row), self.times(backend, self.rows)
        if any(times):
            retired[:] = memoryview(array("q", map(add, retired, times)))
            times[:] = memoryview(array("q", bytes(8 * latency.WIDTH)))

    def forget_server(self, server: int) -> None:
        """Clear whatever is noted of a server that no process knows, for another one to come (supervisor
        only, which is the one process left that may write to these cells)."""
        for field in ServerField:
            self.server_column(field, server)[self.rows] = 0
        self.table[4 * RECORD * server : 4 * RECORD * (server + 1)] = bytes(4 * RECORD)

    def total(self, field: Field) -> int:
        """Sum of a field over all rows, gone workers included."""
        return sum(self.row(row)[field] for row in range(self.rows + 1))

    def log_lost(self) -> int:
        """Log lines that all processes had to drop, gone ones included."""
        everywhere = self._cells[: (self.rows + 1) * int(Field.END)]
        workers = sum(everywhere[int(Field.LOG_LOST) :: int(Field.END)])
        return workers + self.control[ControlField.LOG_LOST] + self.supervisor[SupervisorField.LOG_LOST]

    def server_total(self, field: ServerField, server: int) -> int:
        """Sum of a server's field over all rows, gone workers included."""
        return sum(self.server_column(field, server))
