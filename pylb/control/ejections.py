"""Ejections: servers that answer badly are taken out, decided once for all workers, and brought back.

What workers count in the scoreboard is read up to ten times a second, judged by `pylb.health.outlier`, and
written to the table of servers. The moments are those of the machine's clock since it started, so that the
next control plane goes on with what was kept. Panic is told here, too, once for all workers.

Below `main`, above `servers` and `observations`. Knows no check.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pylb.config.model import Backend
from pylb.control.observations import Observations
from pylb.control.servers import Server, Servers
from pylb.health import panic
from pylb.health.outlier import Counts, Event, Outliers, Settings, State
from pylb.log import log
from pylb.scoreboard import Scoreboard, ServerField, SupervisorField
from pylb.servers import Admin, Column, Ejected, Forced, Health, members

_LOOK = 0.1  # seconds, as often as workers write; a look costs 5 µs for each server that is judged
_LOOK_AT_MANY = 0.25  # where more than `_MANY` are
_MANY = 200
_KEY = "outliers "
_CELL = {State.IN: Ejected.IN, State.EJECTED: Ejected.OUT, State.TRIED: Ejected.TRIED}
_ADMIN = {Admin.READY: "ready", Admin.DRAIN: "draining", Admin.MAINTENANCE: "maintenance"}
_HEALTH = {Health.UNKNOWN: "unchecked", Health.UP: "up", Health.DOWN: "down"}


class Ejections:
    """The judges of all backends that have outliers, and what changes in the table beside their verdicts.

    Args:
        observations: where each change is noted.
        keep: leaves a value by a key to the next control plane.
        changed: called after the table was written to.
        kept: what the last control plane has left.
        reason: gives why a server's checks say what they do, if that is known.
    """

    def __init__(
        self,
        board: Scoreboard,
        servers: Servers,
        observations: Observations,
        keep: Callable[[str, Any], None],
        changed: Callable[[], None],
        kept: Mapping[str, Any],
        reason: Callable[[int], str] = lambda index: "",
    ) -> None:
        self._board = board
        self._servers = servers
        self._table = servers.table
        self._observations = observations
        self._keep = keep
        self._changed = changed
        self._kept = kept
        self._reason = reason
        self._judges: dict[str, Outliers[int]] = {}
        self._panicking: set[str] = set()
        self._seen = -1
        self.counts: dict[int, int] = {}
        """Ejections by index, since this process began."""
        self.change(list(servers), [])
        servers.on_change.append(self.change)

    async def run(self) -> None:
        """Look again and again."""
        while True:
            self.look(time.monotonic())
            await asyncio.sleep(_LOOK if len(self.counts) <= _MANY else _LOOK_AT_MANY)

    # Servers come and go

    def change(self, come: Sequence[Server], gone: Sequence[Server]) -> None:
        """Servers have come and gone; of one among both, something has changed."""
        stay = {server.index for server in come}
        for server in gone:
            if server.index not in stay:
                self._keep(_KEY + " ".join(server.key), None)
                self._observations.forget(server.key)
                self.counts.pop(server.index, None)
        for server in come:
            self._begin(server)
        self._seen = -1

    def _begin(self, server: Server) -> None:
        judge = self._judge_of(server.backend)
        if judge is not None and server.index not in self.counts:
            kept = self._kept.get(_KEY + " ".join(server.key))
            with contextlib.suppress(ValueError, IndexError, TypeError):  # of what was never kept so
                judge.take_back(server.index, self._counts(server.index), list(kept or [0, 0, 0]))
            self.counts[server.index] = 0
        state = State.IN if judge is None else judge.state(server.index)
        self._write(server.index, state)

    def _judge_of(self, backend: Backend) -> Outliers[int] | None:
        section = backend.outliers
        if section is None:
            return None
        judge = self._judges.get(backend.name)
        if judge is None:
            fields = {name: getattr(section, name) for name in Settings.__dataclass_fields__}
            judge = self._judges[backend.name] = Outliers(Settings(**fields))
        return judge

    def _write(self, index: int, state: State) -> None:
        if self._table.get(Column.EJECTED, index) != _CELL[state]:
            self._table.control_set(Column.EJECTED, index, _CELL[state])
            self._changed()

    # Looks

    def look(self, now: float) -> None:
        """Judge by what has been counted until ``now`` (monotonic seconds)."""
        if not self._judges and self._table.version == self._seen:
            return
        by_backend: dict[str, list[Server]] = {}
        for server in self._servers:
            by_backend.setdefault(server.backend.name, []).append(server)
        for name, judge in self._judges.items():
            servers = {server.index: server for server in by_backend.get(name, ())}
            counts = {index: self._counts(index) for index in servers}
            usable = {index for index in servers if self._usable(index)}
            for event in judge.look(now, counts, usable):
                self._happened(servers[event.server], judge, event)
        if self._table.version != self._seen:
            self._seen = self._table.version
            for servers_ in by_backend.values():
                self._panic(servers_)
            self._note_all()

    def _counts(self, index: int) -> Counts:
        good, bad, errors = (
            self._total(field, index) for field in (ServerField.GOOD, ServerField.BAD, ServerField.ERRORS)
        )
        return Counts(good, bad + errors)

    def _total(self, field: ServerField, index: int) -> int:
        """Over the rows in use; with many workers allowed most are not."""
        column = self._board.server_column(field, index)
        used = self._board.supervisor[SupervisorField.ROWS]
        return sum(column[:used]) + column[self._board.rows] if used else sum(column)

    def _usable(self, index: int) -> bool:
        return self._table.ready(index) and self._table.checked(index)

    def _happened(self, server: Server, judge: Outliers[int], event: Event[int]) -> None:
        who = f"server {server.backend.name}/{server.config.name} at {server.config.address}"
        if event.spared:
            log.warning("%s stays: %s", who, event.why)
            self._observations.seen(server.key, "spared", event.why, time.time())
            return
        self._write(server.index, event.state)
        said = {State.EJECTED: "is ejected", State.TRIED: "is tried again", State.IN: "is back"}[event.state]
        log.warning("%s %s: %s", who, said, event.why)
        self.counts[server.index] = self.counts.get(server.index, 0) + (event.state is State.EJECTED)
        self._observations.changed(server.key, "outliers", event.state.value, event.why, time.time())
        self._keep(_KEY + " ".join(server.key), judge.kept(server.index))

    # What the table says

    def panics(self, backend: str) -> bool:
        """Whether all servers of a backend are used, healthy or not."""
        return backend in self._panicking

    def _panic(self, servers: Sequence[Server]) -> None:
        backend = servers[0].backend
        of = ((server.index, server.config.weight, server.config.backup) for server in servers)
        found = members(self._table, of)
        panics = panic.panics(found, backend.panic)
        if panics is (backend.name in self._panicking):
            return
        usable, wanted = panic.usable(found), sum(member.wanted for member in found)
        if panics:
            self._panicking.add(backend.name)
            text = "all are used, healthy or not (panic)"
        else:
            self._panicking.discard(backend.name)
            text = "only these are used again"
        log.warning("backend %s: %d of %d servers are healthy: %s", backend.name, usable, wanted, text)

    def _note_all(self) -> None:
        """Note what checks and the operator have changed, whoever wrote it."""
        now = time.time()
        for server in self._servers:
            index, key = server.index, server.key
            admin, health = self._table.get(Column.ADMIN, index), self._table.get(Column.HEALTH, index)
            forced = self._table.get(Column.FORCED, index)
            self._note(key, "admin", _ADMIN.get(Admin(admin), "ready"), "by an operator", now, "ready")
            forced_ = "" if forced == Forced.NONE else f"forced {'up' if forced == Forced.UP else 'down'}"
            self._note(key, "operator's health", forced_ or "none", "by an operator", now, "none")
            why = self._reason(index) or "by its checks"
            self._note(key, "health", _HEALTH[Health(health)], why, now, "unchecked")

    def _note(
        self, key: tuple[str, str, str], aspect: str, state: str, why: str, now: float, usual: str
    ) -> None:
        """Note a change; what is as it usually is from the beginning is none."""
        if self._observations.state(key, aspect) is not None or state != usual:
            self._observations.changed(key, aspect, state, why, now)
