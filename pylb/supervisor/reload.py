"""Reloads: when one begins, which one is under way, and how the last one ended.

What it changes, and how that is undone, `pylb.supervisor.pending` knows. It knows the fleet and the control
plane, which are handed to it, and not from where an order to reload comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pylb.config.files import fingerprint
from pylb.config.load import ConfigError, with_files
from pylb.config.model import Config
from pylb.log import log
from pylb.net.listeners import BindError
from pylb.net.messages import shortened
from pylb.supervisor.accesslogs import AccessLogs
from pylb.supervisor.controlplane import ControlPlane
from pylb.supervisor.fleet import EARLY_DEATHS, Fleet
from pylb.supervisor.guard import Guard
from pylb.supervisor.indices import NoRoom
from pylb.supervisor.pending import Pending
from pylb.supervisor.privileges import Identities

_ROOM = 5.0  # seconds that a reload waits for room for its servers
_LOOK_EVERY = 2.0  # seconds between looks at the certificates' files
_CLOSING = 1.0  # seconds after which workers that leave have closed listeners that a reload has removed


class Reload:
    """One reload at a time: `start`, then `flipped` when all new workers are ready, or given up.

    Args:
        read: reads the configuration again; raises ``ConfigError``.
        fleet: whose generation is replaced.
        control: whose process is replaced.
        identities: of the users that processes run as.
        logs: opens the access logs' files.
        guard: of what could fail at its end.
        announced: whether a stop is announced, so that none may begin.
        room_comes: whether room for servers will be free, once all processes have forgotten others.
    """

    def __init__(
        self,
        read: Callable[[], Config],
        fleet: Fleet,
        control: ControlPlane,
        identities: Identities,
        logs: AccessLogs,
        guard: Guard,
        announced: Callable[[], bool],
        room_comes: Callable[[], bool],
    ) -> None:
        self.pending: Pending | None = None
        self.result: dict[str, Any] = {"ok": True, "errors": []}
        """Of the last one, for the operator."""
        self._read = read
        self._fleet = fleet
        self._control = control
        self._identities = identities
        self._logs = logs
        self._guard = guard
        self._announced = announced
        self._room_comes = room_comes
        self._no_room_since = 0.0
        self._last_generation = fleet.newest.number
        self._renewal = False
        """Whether the pending one is of certificates alone; the operator has not asked for it."""
        self._again = False
        self._in_use = self._last_seen = fingerprint(fleet.newest.config)
        self._next_look = 0.0
        self._closing_until = 0.0  # workers still have removed listeners, whose addresses may be wanted again

    def _refuse(self, problems: list[str]) -> None:
        """Keep the reasons, shortened for the message to the control plane; the log has all of them."""
        self.result = {"ok": False, "errors": shortened(problems)}
        for problem in problems:
            log.error("reload refused: %s", problem)

    # -- beginning -------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the configuration again and start a generation of workers with it, or say why not."""
        if self._fleet.stopping:
            return
        if self._announced():
            self._again = False
            self._refuse(["a stop was ordered"])
            return
        if self.pending is not None:
            log.info("a reload is under way; another one follows it")
            self._again = True
            return
        if time.monotonic() < self._closing_until:
            self._again = True
            return
        self._again = False
        try:
            config = self._read()
        except Exception as error:  # ConfigError, or a file that can't be read: keep running
            self._refuse(_reasons(error))
            return
        self._begin(config, renewal=False)

    def _renew(self) -> None:
        """Begin a generation with the configuration in force and the new certificates. The configuration's
        file isn't read: it may be half edited."""
        config = self._fleet.served.config
        try:
            with_files(config)
        except Exception as error:
            self._refuse(_reasons(error))
            return
        self._begin(config, renewal=True)

    def _begin(self, config: Config, renewal: bool) -> None:
        self.pending = Pending(self._fleet, self._control, self._identities, self._logs, self._guard)
        self._renewal = renewal
        try:
            self.pending.prepare(config)
            self._in_use = fingerprint(config)
            self._last_generation += 1
            self.pending.begin(self._last_generation)
            self._no_room_since = 0.0
        except Exception as error:
            if isinstance(error, NoRoom) and not renewal and self._waits_for_room():
                return
            if not isinstance(error, BindError | ConfigError | OSError):
                self._guard.note("reload", error)
            self._give_up(_reasons(error))

    def _waits_for_room(self) -> bool:
        """Have this reload begin once more a little later, if there may be room by then."""
        now = time.monotonic()
        since = self._no_room_since = self._no_room_since or now
        if not self._room_comes() or now - since >= _ROOM:
            self._no_room_since = 0.0
            return False
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.abandon()
        self._again = True
        return True

    # -- its end ---------------------------------------------------------------------------------

    def flipped(self) -> None:
        """The new generation serves; called before the old one is retired."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        if not self._renewal:  # one that was refused before stays so
            self.result = {"ok": True, "errors": []}
        pending.commit()
        if pending.removed:
            self._closing_until = time.monotonic() + _CLOSING

    def _give_up(self, reasons: list[str]) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            self._refuse(reasons)
            pending.abandon()

    def close(self) -> None:
        """At the stop: one that is under way ends."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.close()

    # -- every now and then ----------------------------------------------------------------------

    def check(self) -> None:
        """Give a reload up whose workers don't start; begin one that was asked for meanwhile."""
        if self.pending is None:
            if self._again:
                self.start()
            elif not self._fleet.stopping and self._files_changed():
                self._renew()
        elif self._fleet.short:
            self.result = {"ok": False, "errors": [self._fleet.short]}
        elif self._fleet.failed_starts >= EARLY_DEATHS:
            self._give_up(["workers with the new configuration don't start; the old one stays"])

    def _files_changed(self) -> bool:
        """Whether certificates were renewed, and are not being written just now."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_EVERY
        seen = fingerprint(self._fleet.newest.config)
        settled = seen == self._last_seen
        self._last_seen = seen
        if not settled or seen == self._in_use:
            return False
        self._in_use = seen  # if it is refused, once is enough
        log.info("certificates have changed")
        return True


def _reasons(error: Exception) -> list[str]:
    """One line per mistake, for the log and the admin address."""
    if isinstance(error, OSError) and error.strerror:
        return [f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror]
    if isinstance(error, ConfigError) and error.problems:
        return error.located
    return [str(error) or type(error).__name__]
