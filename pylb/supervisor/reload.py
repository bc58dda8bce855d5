"""Reload: a new generation of workers with a new configuration, or the old one stays."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pylb import log as logging_
from pylb.config.address import Address
from pylb.config.files import admin_token, fingerprint
from pylb.config.load import ConfigError, with_files
from pylb.config.model import Config, ServerKey
from pylb.config.runtime import default_admin_path
from pylb.log import log
from pylb.net.adminsocket import AdminSocket
from pylb.net.listeners import BindError, Listeners
from pylb.net.messages import shortened
from pylb.supervisor import privileges
from pylb.supervisor.fleet import EARLY_DEATHS
from pylb.supervisor.secrets import read_secrets

_LOOK_EVERY = 2.0  # seconds between looks at the certificates' files

if TYPE_CHECKING:
    from pylb.supervisor.arbiter import Arbiter


def binds_of(config: Config) -> list[tuple[str, Address]]:
    """(frontend name, address) of every bind."""
    return [(frontend.name, address) for frontend in config.frontends for address in frontend.bind]


def admin_address_of(config: Config) -> Address:
    """Where the admin socket is to be."""
    if config.admin is not None:
        return config.admin
    return Address("", 0, default_admin_path())


@dataclass(frozen=True)
class _Before:
    """What a reload changes, as it was: to this the supervisor returns when the reload is given up."""

    config: Config
    listeners: Listeners
    generation: int
    wanted: frozenset[int]
    pinned: int | None
    not_before: dict[int, float]
    servers: dict[ServerKey, int]


@dataclass
class _Pending:
    """A reload under way."""

    before: _Before
    renewal: bool
    """Of certificates alone: nobody has asked for it."""
    listeners: Listeners | None = None
    removed: list[socket.socket] = field(default_factory=list)
    admin: AdminSocket | None = None
    """At a new address; None where the old one stays."""
    admin_token: str | None = None


class Reload:
    """One reload at a time: start, then `flipped` when all new workers are ready, or given up.

    Args:
        arbiter: whose configuration is exchanged.
        read: reads the configuration again; raises ``ConfigError``.
    """

    def __init__(self, arbiter: Arbiter, read: Callable[[], Config]) -> None:
        self._arbiter = arbiter
        self._read = read
        self._last_generation = 1
        self._pending: _Pending | None = None
        self._again = False
        self._in_use = self._last_seen = fingerprint(arbiter.config)
        self._next_look = 0.0
        self.result: dict[str, Any] = {"ok": True, "errors": []}

    @property
    def removed(self) -> list[socket.socket]:
        """Sockets of binds that the new configuration hasn't; new workers close their copies."""
        return [] if self._pending is None else self._pending.removed

    @property
    def admin(self) -> AdminSocket | None:
        """The admin socket of a reload under way, where it is another one."""
        return None if self._pending is None else self._pending.admin

    def _refuse(self, problems: list[str]) -> None:
        """Say why; the message to the control plane has an end, the log has it all."""
        self.result = {"ok": False, "errors": shortened(problems)}
        for problem in problems:
            log.error("reload refused: %s", problem)

    # -- beginning -------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the configuration again and start a generation of workers with it, or say why not."""
        if self._arbiter.fleet.stopping:
            return
        if self._arbiter.announcing:
            self._refuse(["a stop was ordered"])
            return
        if self._pending is not None:
            log.info("a reload is under way; another one follows it")
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
        """A generation with the configuration in force: the file may be half edited, and nobody has asked
        for it."""
        config = self._arbiter.served_config
        try:
            with_files(config)
        except Exception as error:
            self._refuse(_reasons(error))
            return
        self._begin(config, renewal=True)

    def _begin(self, config: Config, renewal: bool) -> None:
        arbiter, fleet = self._arbiter, self._arbiter.fleet
        self._pending = _Pending(
            _Before(
                *(
                    arbiter.config,
                    arbiter.listeners,
                    fleet.generation,
                    frozenset(fleet.wanted),
                    arbiter.pinned,
                ),
                *(dict(fleet.not_before), dict(arbiter.servers)),
            ),
            renewal,
        )
        try:
            self._change(self._pending, config)
        except Exception as error:
            if not isinstance(error, BindError | ConfigError | OSError):
                arbiter.guard.note("reload", error)
            self._give_up(_reasons(error))

    def _change(self, pending: _Pending, config: Config) -> None:
        """Everything that a reload needs, and that can fail; the caller undoes what was done by then."""
        arbiter, fleet = self._arbiter, self._arbiter.fleet
        who = arbiter.identities.look_up(config)
        secrets = read_secrets(config)
        pending.admin_token = admin_token(config)
        address = admin_address_of(config)
        listening = [*arbiter.listeners.all(), arbiter.admin.sock]
        pending.listeners, pending.removed = arbiter.listeners.updated(binds_of(config), [arbiter.admin.sock])
        if not arbiter.admin.is_at(address):
            pending.admin = AdminSocket(
                *(address, pending.admin_token is not None, listening),
                folder_mode=privileges.folder_mode(who),
            )
        if not arbiter.add_servers(config):
            room = arbiter.board.servers
            raise BindError(
                f"more than {room} servers, with those of workers that still drain; try later or restart"
            )
        if config.workers.max > fleet.slots:
            log.warning("workers.max %d is clamped to %d until restart", config.workers.max, fleet.slots)
        self._in_use = fingerprint(config)
        self._last_generation += 1
        for bind in [bind for _, bind in binds_of(config) if str(bind) not in arbiter.listeners.sockets]:
            privileges.give(bind, who)
        if pending.admin is not None:
            privileges.give(address, who)
        arbiter.config = config
        arbiter.listeners = fleet.listeners = pending.listeners
        fleet.begin(self._last_generation, config, secrets)
        fleet.failed_starts = 0
        fleet.backoff.forget()
        fleet.not_before.clear()
        log.info("reload: starting generation %d", self._last_generation)
        high = min(config.workers.max, fleet.slots)
        target = max(min(config.workers.min, high), min(high, fleet.target))
        if arbiter.pinned is not None and arbiter.pinned != target:
            log.info("pinned to %d workers now, not %d: limits changed by reload", target, arbiter.pinned)
            arbiter.pinned = target
        if target != fleet.target:
            log.info("scale from %d to %d: limits changed by reload", fleet.target, target)
        fleet.target = target
        fleet.attach(list(fleet.weights))
        fleet.reconcile()

    # -- its end ---------------------------------------------------------------------------------

    def flipped(self) -> None:
        """The new generation serves; called before the old one is retired.

        What is true from now on is noted first; then what could fail, each by itself.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        arbiter, guard = self._arbiter, self._arbiter.guard
        logs_otherwise = arbiter.config.log != arbiter.served_config.log
        arbiter.served_config = arbiter.config
        arbiter.admin_token = pending.admin_token
        old_admin = arbiter.admin if pending.admin is not None else None
        if pending.admin is not None:
            arbiter.admin = pending.admin
        if not pending.renewal:  # one that was refused before stays so
            self.result = {"ok": True, "errors": []}
        if logs_otherwise:
            with guard("the log's set-up"):
                logging_.setup(arbiter.config.log.format, arbiter.config.log.level)
        if old_admin is not None:
            with guard("closing the old admin address"):
                old_admin.close()
        with guard("giving sockets to the user"):  # those that stayed may have had another one
            for _, bind in (*binds_of(arbiter.config), ("", arbiter.admin.address)):
                privileges.give(bind, arbiter.identities.of(arbiter.config))
        with guard("closing removed binds"):
            # The old workers have copies of their own, which they empty before they leave.
            pending.before.listeners.close_others(arbiter.listeners)
        if arbiter.control is not None:
            arbiter.control.retiring = True
            arbiter.control.kill_at = time.monotonic() + 5.0
            with guard("replacing the control plane"):
                arbiter.control.signal(signal.SIGTERM)

    def _give_up(self, reasons: list[str]) -> None:
        """Back to what was before, however far it has come."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        arbiter, fleet, before = self._arbiter, self._arbiter.fleet, pending.before
        self._refuse(reasons)
        new = [worker for worker in fleet.workers.values() if worker.generation > before.generation]
        for worker in new:
            worker.retiring = True
            worker.signal(signal.SIGKILL)
        arbiter.listeners = fleet.listeners = before.listeners
        arbiter.config = fleet.config = before.config
        fleet.generation = before.generation
        fleet.wanted, arbiter.pinned = set(before.wanted), before.pinned
        fleet.not_before.clear()
        fleet.not_before.update(before.not_before)
        if not new:  # else their figures are still to be folded; `add_servers` frees what it needs
            for key in arbiter.servers.keys() - before.servers.keys():
                del arbiter.servers[key]
        self._close_new(pending)
        with arbiter.guard("going on after a refused reload"):
            fleet.reconcile()

    def _close_new(self, pending: _Pending) -> None:
        """Close what only a reload that is given up has."""
        if pending.listeners is not None:
            with self._arbiter.guard("closing new binds"):
                pending.listeners.close_others(pending.before.listeners)
        if pending.admin is not None:
            with self._arbiter.guard("closing the new admin address"):
                pending.admin.close()

    def close(self) -> None:
        """At the stop: close what only one of the two configurations of a reload under way has."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        with self._arbiter.guard("closing old binds"):
            pending.before.listeners.close_others(self._arbiter.listeners)
        if pending.admin is not None:
            with self._arbiter.guard("closing the new admin address"):
                pending.admin.close()

    # -- every now and then ----------------------------------------------------------------------

    def _files_changed(self) -> bool:
        """Whether certificates were renewed, and are not being written just now."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_EVERY
        seen = fingerprint(self._arbiter.config)
        settled = seen == self._last_seen
        self._last_seen = seen
        if not settled or seen == self._in_use:
            return False
        self._in_use = seen  # if it is refused, once is enough
        log.info("certificates have changed")
        return True

    def check(self) -> None:
        """Give a reload up whose workers don't start; begin one that was asked for meanwhile."""
        if self._pending is None:
            if self._again:
                self.start()
            elif not self._arbiter.fleet.stopping and self._files_changed():
                self._renew()
        elif self._arbiter.fleet.short:
            self.result = {"ok": False, "errors": [self._arbiter.fleet.short]}
        elif self._arbiter.fleet.failed_starts >= EARLY_DEATHS:
            self._give_up(["workers with the new configuration don't start; the old one stays"])


def _reasons(error: Exception) -> list[str]:
    """One line per mistake, for the log and the admin address."""
    if isinstance(error, OSError) and error.strerror:
        return [f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror]
    found = getattr(error, "problems", None)
    if isinstance(found, list) and found:
        return [str(one) for one in found]
    return [str(error) or type(error).__name__]
