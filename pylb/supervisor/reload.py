"""Reload: a new generation of workers with a new configuration, or the old one stays."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pylb import log as logging_
from pylb.config.address import Address
from pylb.config.files import fingerprint
from pylb.config.load import default_admin_path
from pylb.config.model import Config
from pylb.log import log
from pylb.net.listeners import BindError, Listeners, listen_admin
from pylb.supervisor.fleet import EARLY_DEATHS

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


def unlink_admin(address: Address) -> None:
    """Remove the admin socket's file."""
    if address.is_unix:
        with contextlib.suppress(OSError):
            os.unlink(address.path)


def close_others(listeners: Listeners, kept: Listeners) -> None:
    """Close the binds that only the first one has."""
    for key in [key for key in listeners.sockets if key not in kept.sockets]:
        listeners.close_one(key)


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
        self._pending: tuple[Listeners, list[socket.socket], Address, socket.socket] | None = None
        self._old: tuple[Listeners, Address, socket.socket] | None = None
        self._old_count: tuple[int, int | None] = (1, None)
        self._again = False
        self._in_use = self._last_seen = fingerprint(arbiter.config)
        self._next_look = 0.0
        self.removed: list[socket.socket] = []
        """Sockets of binds that the new configuration hasn't; new workers close their copies."""
        self.result: dict[str, Any] = {"ok": True, "errors": []}

    def _refuse(self, problems: list[str]) -> None:
        self.result = {"ok": False, "errors": problems}
        for problem in problems:
            log.error("reload refused: %s", problem)

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
            self._refuse([str(text) for text in getattr(error, "problems", None) or [error]])
            return
        admin_address = admin_address_of(config)
        admin = self._arbiter.admin_socket
        try:
            listeners, removed = self._arbiter.listeners.updated(binds_of(config))
        except (BindError, OSError) as error:
            self._refuse([str(error)])
            return
        try:
            if admin_address != self._arbiter.admin_address:
                admin = listen_admin(admin_address)
            if not self._arbiter.add_servers(config):
                room = self._arbiter.board.servers
                raise BindError(
                    f"more than {room} servers, with those of workers that still drain; try later or restart"
                )
        except (BindError, OSError) as error:
            self._refuse([str(error)])
            close_others(listeners, self._arbiter.listeners)
            if admin is not self._arbiter.admin_socket:
                admin.close()
                unlink_admin(admin_address)
            return
        slots = self._arbiter.fleet.slots
        if config.workers.max > slots:
            log.warning("workers.max %d is clamped to %d until restart", config.workers.max, slots)
        self._in_use = fingerprint(config)
        self._last_generation += 1
        self._pending = (listeners, removed, admin_address, admin)
        self._old = (self._arbiter.listeners, self._arbiter.admin_address, self._arbiter.admin_socket)
        self._arbiter.config = self._arbiter.fleet.config = config
        self._arbiter.listeners = self._arbiter.fleet.listeners = listeners
        self.removed = removed
        self._arbiter.fleet.generation = self._last_generation
        self._arbiter.fleet.failed_starts = 0
        self._arbiter.fleet.backoff.forget()
        self._arbiter.fleet.not_before.clear()
        log.info("reload: starting generation %d", self._last_generation)
        self._old_count = self._arbiter.fleet.target, self._arbiter.pinned
        high = min(config.workers.max, self._arbiter.fleet.slots)
        target = max(min(config.workers.min, high), min(high, self._arbiter.fleet.target))
        if self._arbiter.pinned is not None:
            self._arbiter.pinned = target
        if target != self._arbiter.fleet.target:
            log.info("scale from %d to %d: limits changed by reload", self._arbiter.fleet.target, target)
        self._arbiter.fleet.target = target
        self._arbiter.fleet.attach(list(self._arbiter.fleet.weights))
        self._arbiter.fleet.reconcile()

    def flipped(self) -> None:
        """The new generation serves; called before the old one is retired."""
        if self._pending is None or self._old is None:
            return
        _, _, address, admin = self._pending
        old_listeners, old_address, old_admin = self._old
        self._pending = self._old = None
        self.removed = []
        if self._arbiter.config.log != self._arbiter.served_config.log:
            logging_.setup(self._arbiter.config.log.format, self._arbiter.config.log.level)
        self._arbiter.served_config = self._arbiter.config
        if admin is not old_admin:
            old_admin.close()
            unlink_admin(old_address)
            self._arbiter.admin_address, self._arbiter.admin_socket = address, admin
        # The old workers have copies of their own, which they empty before they leave.
        close_others(old_listeners, self._arbiter.listeners)
        self.result = {"ok": True, "errors": []}
        if self._arbiter.control is not None:
            self._arbiter.control.retiring = True
            self._arbiter.control.kill_at = time.monotonic() + 5.0
            self._arbiter.control.signal(signal.SIGTERM)

    def close(self) -> None:
        """At the stop: close what only one of the two configurations of a reload under way has."""
        if self._pending is None or self._old is None:
            return
        _, _, address, admin = self._pending
        old_listeners, _, old_admin = self._old
        self._pending = self._old = None
        close_others(old_listeners, self._arbiter.listeners)
        if admin is not old_admin:
            admin.close()
            unlink_admin(address)

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
        if self._pending is None and (self._again or self._files_changed()):
            self.start()
        if self._old is None or self._pending is None or self._arbiter.fleet.failed_starts < EARLY_DEATHS:
            return
        _, _, address, admin = self._pending
        old_listeners, _, old_admin = self._old
        self._pending = self._old = None
        self.removed = []
        self._refuse(["workers with the new configuration don't start; the old one stays"])
        for worker in self._arbiter.fleet.workers.values():
            if worker.generation == self._arbiter.fleet.generation:
                worker.retiring = True
                worker.signal(signal.SIGKILL)
        close_others(self._arbiter.listeners, old_listeners)
        if admin is not old_admin:
            admin.close()
            unlink_admin(address)
        self._arbiter.listeners = self._arbiter.fleet.listeners = old_listeners
        self._arbiter.config = self._arbiter.fleet.config = self._arbiter.served_config
        self._arbiter.fleet.generation = self._arbiter.fleet.serving_generation
        self._arbiter.fleet.target, self._arbiter.pinned = self._old_count
        self._arbiter.fleet.not_before.clear()
        self._arbiter.fleet.reconcile()
