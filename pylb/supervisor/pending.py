"""A reload under way, as one object: prepared, begun, and then committed or abandoned.

Everything that a reload changes is changed here and can be changed back. It has its parts handed to it, and
doesn't know why a reload was ordered nor who is told how it ended.
"""

from __future__ import annotations

import socket

from pylb import log as logging_
from pylb.config.logtarget import Destination, Target
from pylb.config.model import Config
from pylb.log import log
from pylb.net import steering
from pylb.net.adminsocket import AdminSocket
from pylb.net.listeners import Listeners
from pylb.supervisor import privileges
from pylb.supervisor.accesslogs import AccessLogs
from pylb.supervisor.controlplane import ControlPlane
from pylb.supervisor.fleet import Fleet
from pylb.supervisor.generations import Generation, admin_address_of, binds_of
from pylb.supervisor.guard import Guard
from pylb.supervisor.secrets import Secrets, read_secrets


class Pending:
    """`prepare`, `begin`, and then one of `commit`, `abandon` and `close`.

    Args:
        fleet: whose newest generation it will be.
        control: whose process and admin socket it may replace.
        identities: of the users that processes run as.
        logs: opens the access logs' files.
        guard: of each step of the end.
    """

    def __init__(
        self,
        fleet: Fleet,
        control: ControlPlane,
        identities: privileges.Identities,
        logs: AccessLogs,
        guard: Guard,
    ) -> None:
        self.removed: list[socket.socket] = []
        """Sockets of binds that the new configuration hasn't; new workers close their copies."""
        self.admin: AdminSocket | None = None
        """At a new address; None where the old one stays."""
        self._fleet = fleet
        self._control = control
        self._identities = identities
        self._logs = logs
        self._opened: dict[Target, int | Destination] = {}
        self._guard = guard
        self._before = fleet.before()
        self._listeners: Listeners | None = None
        self._secrets = Secrets()
        self._config = self._before.newest.config

    # -- beginning; whatever these raise, `abandon` undoes what was done by then ------------------

    def prepare(self, config: Config) -> None:
        """Read and open whatever the new generation needs.

        Raises:
            BindError: an address can't be listened on, or there is no room for the servers.
            OSError: a file can't be used, or the user can't be had.
        """
        who = self._identities.look_up(config)
        self._config = config
        self._secrets = read_secrets(config)
        self._opened = self._logs.open(config)
        self._fleet.index(config)  # before anything is listened on: it may be refused
        listeners = self._fleet.newest.listeners
        address, admin = admin_address_of(config), self._control.admin
        listening = [*listeners.all(), admin.sock]
        self._listeners, self.removed = listeners.updated(binds_of(config), [admin.sock])
        if not admin.is_at(address):
            self.admin = AdminSocket(
                *(address, self._secrets.admin_token is not None, listening),
                folder_mode=privileges.folder_mode(who),
            )
        most, slots = config.workers.max, self._fleet.slots
        if most > slots:
            log.warning("workers.max %d is clamped to %d until restart", most, slots)
        for bind in [bind for _, bind in binds_of(config) if str(bind) not in listeners.sockets]:
            privileges.give(bind, who)
        if self.admin is not None:
            privileges.give(address, who)

    def begin(self, number: int) -> None:
        """Start the generation's workers."""
        assert self._listeners is not None
        self._fleet.begin(Generation(number, self._config, self._secrets, self._listeners, self._opened))

    # -- its end ---------------------------------------------------------------------------------

    def commit(self) -> None:
        """The new generation serves, and the fleet knows it; called before the old one is retired.

        What is true from now on is noted first; then what could fail, each by itself.
        """
        config, listeners, before = self._config, self._listeners, self._before.newest
        assert listeners is not None
        old_admin = None
        if self.admin is not None:
            old_admin, self._control.admin = self._control.admin, self.admin
        if config.log != before.config.log:
            with self._guard("the log's set-up"):
                logging_.setup(config.log.format, config.log.level)
        if old_admin is not None:
            with self._guard("closing the old admin address"):
                old_admin.close()
        with self._guard("giving sockets to the user"):  # those that stayed may have had another one
            for _, bind in (*binds_of(config), ("", self._control.admin.address)):
                privileges.give(bind, self._identities.of(config))
        with self._guard("setting TCP options"):
            listeners.set_options(self._config.tcp)
        with self._guard("closing removed binds"):
            for sock in self.removed:
                if sock.family != socket.AF_UNIX:
                    steering.turn_away(sock)
            # The old workers have copies of their own, which they empty before they leave.
            before.listeners.close_others(listeners)
        with self._guard("replacing the control plane"):
            self._control.replace()

    def abandon(self) -> None:
        """Back to what was before, however far it has come."""
        self._fleet.back_to(self._before)
        if self._listeners is not None:
            with self._guard("closing new binds"):
                self._listeners.close_others(self._before.newest.listeners)
        self._close_admin()
        with self._guard("going on after a refused reload"):
            self._fleet.reconcile()

    def close(self) -> None:
        """At the stop: close what only one of the two configurations has."""
        with self._guard("closing old binds"):
            self._before.newest.listeners.close_others(self._fleet.newest.listeners)
        self._close_admin()

    def _close_admin(self) -> None:
        if self.admin is not None:
            with self._guard("closing the new admin address"):
                self.admin.close()
