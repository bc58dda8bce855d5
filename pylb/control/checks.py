"""Health checks: whether servers work, found out once for all workers, and what follows from it.

Above `watch`, below `main`. The verdict is a cell of the table of servers, which workers compare at each
pick. Servers of several backends with the same address and the same check are checked together. Without the
control plane the last verdicts hold; the next one goes on from them, and from what was kept.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pylb.config import checked
from pylb.config.model import Check, ServerKey
from pylb.control.poll import Poll
from pylb.control.servers import Server as Known
from pylb.control.watch import Places, Plan, Watch
from pylb.health.exchange import Verdict
from pylb.health.protocols import PROTOCOLS
from pylb.health.state import Phase, Tracker, restored
from pylb.log import log
from pylb.net.proxyprotocol import build_v1, build_v2
from pylb.servers import Admin, Column, Health, Table

_AT_A_TIME = 1000
"""Checks under way, where the limit of descriptors allows it; further ones wait in turn."""


@dataclass(slots=True)
class _Checked:
    """Servers with one address and one check."""

    watch: Watch
    check: Check
    type: str
    sharing: str
    members: dict[int, ServerKey] = field(default_factory=dict)
    """By index."""
    since: float = 0.0
    """When its state began (`time.time`); 0 before the first check."""
    reason: str = ""
    """What the check said that began it."""
    changes: int = 0
    kept: list[int] = field(default_factory=list)
    """Of the tracker, what the next control plane would be given."""


class Checks:
    """The checks of all servers.

    Args:
        table: the table of servers.
        contexts: for checks by TLS, by backend.
        kept: what the last control plane has kept.
        keep: keeps a value by a key for the next one.
        changed: called after the table was written to.
        unsafe_regex: as the configuration says.
        silent: nothing is logged.
    """

    def __init__(
        self,
        table: Table,
        contexts: Mapping[str, ssl.SSLContext],
        kept: Mapping[str, Any],
        keep: Callable[[str, Any], None],
        changed: Callable[[], None],
        unsafe_regex: bool = False,
        silent: bool = False,
    ) -> None:
        self._table = table
        self._contexts = contexts
        self._kept = kept
        self._keep = keep
        self._changed = changed
        self._unsafe_regex = unsafe_regex
        self._silent = silent
        self._places = Places(_room())
        self._poll: Poll | None = None
        self._checked: dict[str, _Checked] = {}
        """By what is the same for all that share a check."""
        self._of: dict[int, _Checked] = {}
        """By index."""
        self._unknown = 0  # servers that were unknown when they came

    def change(self, come: Sequence[Known], gone: Sequence[Known]) -> None:
        """Servers have come and gone; of one among both, with the same index, something has changed."""
        stay = {server.index for server in come}
        for server in gone:
            if server.index not in stay:
                self._keep(_name(server.key), None)
                self._forget(server.index)
        indices = [(server.backend.name, server.index) for server in come]
        indices += [(one.members[index][0], index) for index, one in self._of.items()]
        up = {name for name, index in indices if self._table.get(Column.HEALTH, index) == Health.UP}
        for server in come:
            try:
                self._add(server, server.backend.name in up)
            except Exception:  # the others are to be checked all the same
                log.exception("server %s/%s can't be checked", *server.key[:2])

    def _add(self, known: Known, others_up: bool) -> None:
        """Check a server; ``others_up``: some of its backend have passed their checks."""
        backend, server, index, key = known.backend, known.config, known.index, known.key
        check = checked.check_of(backend, server)
        if check is None:
            self._forget(index)
            wrote = self._set(index, Column.HEALTH, Health.UNKNOWN)
            if self._set(index, Column.SHARE, -1) or wrote:
                self._changed()
            return
        address = checked.target(server, check)
        type_ = checked.type_of(backend, check)
        proxy = checked.sends_proxy(backend, check)
        tls = backend.tls if checked.has_tls(backend, check) else None
        sharing = f"{address} {check!r} {type_} {proxy} {tls!r} {checked.is_http2(backend, check)}"
        one = self._of.get(index)
        if one is not None and one.sharing == sharing:
            return
        self._forget(index)
        one = self._checked.get(sharing)
        if one is None:
            context = self._contexts.get(backend.name)
            settings = checked.settings(backend, check, server, self._unsafe_regex)
            protocol = PROTOCOLS[type_]
            plan = Plan(
                address, lambda: protocol(settings), checked.pace(check), check.timeout, _header(proxy),
                context, checked.server_name(backend, server) if context is not None else None,
            )  # fmt: skip
            one = self._new(plan, check, type_, sharing, key, index)
        one.members[index] = key
        self._of[index] = one
        up = one.watch.tracker.up
        if up is None and (check.init == "up" or check.init == "check" and not others_up):
            return
        if self._set(index, Column.HEALTH, Health.UP if up else Health.DOWN):
            self._changed()

    def _forget(self, index: int) -> None:
        """A server is no longer checked, or not in this way."""
        one = self._of.pop(index, None)
        if one is not None:
            del one.members[index]
            if not one.members:
                one.watch.stop()
                del self._checked[one.sharing]

    def _new(
        self, plan: Plan, check: Check, type_: str, sharing: str, key: ServerKey, index: int
    ) -> _Checked:
        """Begin with the checks of a server that nobody else shares yet."""
        was = self._kept.get(_name(key))
        was = was if isinstance(was, dict) else {}
        tracker = restored(checked.bounds(check), was.get("phase"))
        known = self._table.get(Column.HEALTH, index)
        if tracker.up is not (None if known == Health.UNKNOWN else known == Health.UP):
            # Nothing was kept, or of a server that had this key before. (One may be down unchecked: `init`.)
            tracker = Tracker(tracker.bounds, Phase.UP if known == Health.UP else Phase.UNKNOWN)
        loop = asyncio.get_running_loop()
        if self._poll is None:
            self._poll = Poll(loop)
        watch = Watch(
            *(loop, self._poll, plan, tracker, self._places),
            came=lambda watch, verdict, changed: self._came(one, verdict, changed),
            paused=lambda: self._in_maintenance(one),
        )
        one = self._checked[sharing] = _Checked(watch, check, type_, sharing)
        if tracker.phase is not Phase.UNKNOWN:
            since, reason = was.get("since"), was.get("reason")
            one.since = since if isinstance(since, float | int) else 0.0
            one.reason = reason if isinstance(reason, str) else ""
        watch.begin(self._unknown)
        self._unknown += tracker.phase is Phase.UNKNOWN
        return one

    def stop(self) -> None:
        """End all checks; what was found out stays."""
        for one in self._checked.values():
            one.watch.stop()

    def status(self, index: int) -> dict[str, Any] | None:
        """What is known of a server by its checks; None of one that isn't checked."""
        one = self._of.get(index)
        if one is None:
            return None
        watch = one.watch
        last = watch.last
        return {
            "type": one.type,
            "phase": watch.tracker.phase.name.lower(),
            "row": watch.tracker.row,
            "since": round(one.since, 3) or None,
            "reason": one.reason or None,
            "last": None
            if last is None
            else {
                "passed": last.passed,
                "reason": last.reason,
                "at": round(watch.last_at, 3),
                "took_ms": round(watch.took * 1000, 2),
            },
            "checks": watch.checks,
            "failures": watch.failures,
            "changes": one.changes,
        }

    def _came(self, one: _Checked, verdict: Verdict, changed: bool) -> None:
        """A check has ended."""
        wrote = False
        if verdict.weight is not None:
            for index in one.members:
                wrote |= self._set(index, Column.SHARE, verdict.weight)
            if wrote:
                log.info("health: %s: %s", _named(one), verdict.reason)
        tracker = one.watch.tracker
        if changed:
            before = one.since
            one.since, one.reason = time.time(), verdict.reason
            one.changes += 1
            for index in one.members:
                wrote |= self._set(index, Column.HEALTH, Health.UP if tracker.up else Health.DOWN)
            if not self._silent:
                self._say(one, verdict, before)
        if wrote:
            self._changed()
        if tracker.kept() != one.kept:
            one.kept = tracker.kept()
            for key in one.members.values():
                kept = {"phase": one.kept, "since": one.since, "reason": one.reason}
                self._keep(_name(key), kept)

    def _say(self, one: _Checked, verdict: Verdict, before: float) -> None:
        """Log that a server's state has changed; that it is up at its first check goes without saying."""
        check, up = one.check, one.watch.tracker.up
        who = _named(one)
        if not up:
            row = f"{check.fall} checks in a row failed" if before and not verdict.at_once else ""
            log.warning("health: %s is down: %s%s", who, verdict.reason, f" ({row})" if row else "")
            for backend in dict.fromkeys(key[0] for key in one.members.values()):
                if not any(self._up(other) for other in self._indices(backend)):
                    log.error("health: backend %s has no server whose checks pass", backend)
        elif before:
            gone = time.time() - before
            log.warning("health: %s is up again, after %.1f s: %s", who, gone, verdict.reason)

    def _indices(self, backend: str) -> list[int]:
        return [index for index, one in self._of.items() if one.members[index][0] == backend]

    def _up(self, index: int) -> bool:
        return self._table.get(Column.HEALTH, index) != Health.DOWN

    def _in_maintenance(self, one: _Checked) -> bool:
        """Whether no server of those that share a check is to get requests: then it isn't checked, either."""
        return all(self._table.get(Column.ADMIN, index) == Admin.MAINTENANCE for index in one.members)

    def _set(self, index: int, column: Column, value: int) -> bool:
        """Write a cell where it has another value; whether it had."""
        if self._table.get(column, index) == value:
            return False
        self._table.control_set(column, index, value)
        return True


def _room() -> int:
    """How many checks may be under way: half of the descriptors are for other things."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _AT_A_TIME if soft == resource.RLIM_INFINITY else max(1, min(_AT_A_TIME, soft // 2))


def _header(version: str) -> bytes:
    """The PROXY header of a connection that is no client's."""
    return {"v1": build_v1(None, None), "v2": build_v2(None, None)}.get(version, b"")


def _name(key: ServerKey) -> str:
    """Under which a server's checks are kept."""
    return "check " + " ".join(key)


def _named(one: _Checked) -> str:
    """The servers of a check, for the log."""
    names = [f"{backend}/{server}" for backend, server, _ in one.members.values()]
    address = next(iter(one.members.values()))[2]
    return f"server{'s' if len(names) > 1 else ''} {', '.join(names)} at {address}"
