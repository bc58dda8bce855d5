"""The supervisor's loop: signals, messages of the children, reload, stop."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any

from setproctitle import setproctitle

from pylb.config.model import Config, ServerKey, server_keys
from pylb.control.context import ControlContext
from pylb.log import log
from pylb.net import channel
from pylb.net.listeners import BindError, Listeners, listen_admin
from pylb.scoreboard import Scoreboard, SupervisorField
from pylb.supervisor.fleet import Fleet
from pylb.supervisor.processes import Backoff, Child, Worker, describe, fork, reap
from pylb.supervisor.reload import Reload, admin_address_of, binds_of, unlink_admin
from pylb.supervisor.signals import Signals
from pylb.worker.context import WorkerContext

FAST_TICK = 0.1
SLOW_TICK = 0.5
MAX_SERVERS = 512
AGAIN = 0.5
"""Seconds from which a second stop signal counts: timeout(1) sends one twice, to us and to our group."""


def _real_worker(context: WorkerContext) -> None:
    importlib.import_module("pylb.worker.main").run(context)


def _real_control(context: ControlContext) -> None:
    importlib.import_module("pylb.control.main").run(context)


class Arbiter:
    """Owns the sockets, forks the processes, and carries out what is asked of it.

    Args:
        config: what to run.
        reload: reads the configuration again; raises ``ConfigError``.
        worker_entry: what a worker process runs (for tests).
        control_entry: what the control plane's process runs (for tests).
        hangup_ends: HUP says that the terminal was closed, and ends it; otherwise it is the order to reload.

    Raises:
        BindError: an address can't be listened on.
    """

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        worker_entry: Callable[[WorkerContext], None] = _real_worker,
        control_entry: Callable[[ControlContext], None] = _real_control,
        hangup_ends: bool = False,
    ) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.config = self.served_config = config
        self.reload = Reload(self, reload)
        self._control_entry = control_entry
        self._hangup_ends = hangup_ends
        self._real = (worker_entry is _real_worker, control_entry is _real_control)
        slots = max(config.workers.max, len(os.sched_getaffinity(0)))
        binds = len(binds_of(config))
        needed = slots * binds + 10 * slots + 64  # listening sockets, inboxes, channels
        if needed > hard > 0:
            raise BindError(
                f"{slots} workers on {binds} addresses need {needed} descriptors, but the limit (ulimit -Hn) "
                f"is {hard}: raise it or lower workers.max"
            )
        self.servers: dict[ServerKey, int] = {}
        self.board = Scoreboard(slots, max(MAX_SERVERS, 2 * len(server_keys(config))))
        self.add_servers(config)  # there is room
        self.listeners = Listeners(binds_of(config), slots, config.backlog)
        self.admin_address = admin_address_of(config)
        try:
            self.admin_socket = listen_admin(self.admin_address)
        except BindError:
            self.listeners.close()
            raise
        self.fleet = Fleet(
            config, slots, self.board, self.listeners, self.servers, worker_entry, self._in_worker
        )
        self.fleet.on_flip = self.reload.flipped
        self.fleet.on_start = lambda worker: self._watch(worker)
        self.pinned: int | None = None
        self.control: Child | None = None
        self._control_backoff = Backoff()
        self._control_due = 0.0
        self._state_sent: dict[str, Any] = {}
        self._state_due = 0.0
        self._stopping_since = 0.0
        self._stop_at = 0.0  # while a stop is announced: when it begins

    # -- set-up ----------------------------------------------------------------------------------

    def add_servers(self, config: Config) -> bool:
        """Give new servers an index; False when the scoreboard has no room for them."""
        wanted = server_keys(config)
        fresh = [key for key in dict.fromkeys(wanted) if key not in self.servers]
        if len(self.servers) + len(fresh) > self.board.servers:
            self._forget_servers({*wanted, *server_keys(self.served_config)})
        free = iter(sorted(set(range(self.board.servers)) - set(self.servers.values())))
        found = dict(zip(fresh, free, strict=False))
        if len(found) < len(fresh):
            return False
        self.servers.update(found)
        return True

    def _forget_servers(self, kept: set[ServerKey]) -> None:
        """Free the indices of servers that no worker's configuration has any more."""
        kept |= {key for worker in self.fleet.workers.values() for key in server_keys(worker.config)}
        for key in self.servers.keys() - kept:
            self.board.forget_server(self.servers.pop(key))

    def _in_child(self) -> None:
        self.signals.reset_in_child()
        self.selector.close()
        for sock in self.reload.removed:
            sock.close()

    def _in_worker(self) -> None:
        self._in_child()
        self.admin_socket.close()
        if self.control is not None:
            self.control.channel.close()

    def _watch(self, child: Child) -> None:
        self.selector.register(child.channel, selectors.EVENT_READ, child)

    def _start_control(self) -> None:
        try:
            self._fork_control()
        except OSError as error:  # no process or descriptor to be had: traffic goes on without it
            log.error("cannot start the control plane: %s", error)
            self._control_due = time.monotonic() + 1.0

    def _fork_control(self) -> None:
        ours, theirs = channel.pair()
        context = ControlContext(
            self.served_config, self.board, theirs, self.servers, self.admin_socket,
            self.fleet.serving_generation, self.started_at,
        )  # fmt: skip

        def prepare() -> None:
            self._in_child()
            ours.close()
            for worker in self.fleet.workers.values():
                worker.channel.close()
            self.fleet.close()
            self.listeners.close(unlink=False)

        try:
            pid = fork("pylb: control", "control", prepare, lambda: self._control_entry(context))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.control = Child(pid, ours, time.monotonic())
        self._watch(self.control)
        self._state_sent = {}

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        for real, module in zip(self._real, ("pylb.worker.main", "pylb.control.main"), strict=True):
            if real:
                importlib.import_module(module)
        setproctitle("pylb: supervisor")
        self.started_at = time.time()
        self.signals = Signals()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.signals.reader, selectors.EVENT_READ)
        gc.collect()
        gc.freeze()
        try:
            wanted = self.fleet.target
            self.fleet.attach([1 if slot < wanted else 0 for slot in range(self.fleet.slots)])
            self.fleet.reconcile()
            self._start_control()
            self._loop()
        finally:
            self._kill_all()
            self.reload.close()
            self.listeners.close()
            self.admin_socket.close()
            unlink_admin(self.admin_address)
            self.fleet.close()
            self.selector.close()
            self.signals.close()
        log.info("stopped")
        return 0

    def _loop(self) -> None:
        tick_due = 0.0
        while not (self.fleet.stopping and not self.fleet.workers):
            now = time.monotonic()
            for key, _ in self.selector.select(max(0.0, tick_due - now)):
                if key.data is None:
                    for number in self.signals.pending():
                        self._signal(number)
                    self._reap()
                else:
                    self._messages(key.data)
            now = time.monotonic()
            if self.announcing and now >= self._stop_at:
                self._stop()
            if now >= tick_due:
                self._reap()
                self.fleet.tick(now)
                self._control_tick(now)
                self.reload.check()
                tick_due = now + (FAST_TICK if self.fleet.busy() else SLOW_TICK)
            self._send_state(now)

    def _messages(self, child: Child) -> None:
        while child.channel.fileno() >= 0:  # an earlier event of this turn may have closed it
            try:
                message = channel.recv(child.channel)
            except BlockingIOError:
                return
            except (OSError, ValueError) as error:
                log.error("bad message from pid %d: %s", child.pid, error)
                return
            if message is None:  # it is gone or about to be; SIGCHLD says the rest
                with contextlib.suppress(KeyError, ValueError):
                    self.selector.unregister(child.channel)
                return
            op, count = message.get("op"), message.get("n")
            if op == "ready" and isinstance(child, Worker):
                self.fleet.ready(child)
            elif op == "ready":
                child.ready = True
            elif op == "scale" and isinstance(count, int) and not isinstance(child, Worker):
                if self.pinned is None and not self.fleet.stopping:
                    self.fleet.scale(count, str(message.get("reason", "")))
            elif op == "pin" and not isinstance(child, Worker):
                self._pin(count if isinstance(count, int) else None)

    def _pin(self, count: int | None) -> None:
        if self.fleet.stopping:
            return
        if count is None:
            self.pinned = None
            log.info("worker count is automatic again")
            return
        high = min(self.config.workers.max, self.fleet.slots)
        self.pinned = max(self.config.workers.min, min(high, count))
        log.info("worker count pinned to %d", self.pinned)
        self.fleet.scale(self.pinned, "pinned by the operator")

    def _signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT) or number == signal.SIGHUP and self._hangup_ends:
            now = time.monotonic()
            name, announce = signal.Signals(number).name, self.config.drain.announce
            if self.fleet.stopping or self.announcing:
                if now - self._stopping_since >= AGAIN:
                    self._kill_now()
            elif announce:
                self._stopping_since = now
                self._stop_at = now + announce
                self.board.supervisor[SupervisorField.ANNOUNCING] = 1
                log.info("%s: health paths say so for %g s, then draining, then quitting", name, announce)
            else:
                self._stopping_since = now
                log.info("%s: draining, then quitting", name)
                self._stop()
        elif number == signal.SIGQUIT:
            self._kill_now()
        elif number == signal.SIGHUP:
            self.reload.start()
        elif number == signal.SIGTTIN:
            self._pin(self.fleet.target + 1)
        elif number == signal.SIGTTOU:
            self._pin(self.fleet.target - 1)

    @property
    def announcing(self) -> bool:
        """A stop was ordered, and all goes on for a while so that those who ask can hear of it."""
        return bool(self._stop_at) and not self.fleet.stopping

    def _stop(self) -> None:
        self.fleet.stop()
        # The workers have copies; once they have emptied and closed theirs, the kernel refuses new
        # connections instead of queueing what nobody would accept.
        self.reload.close()
        self.listeners.close()

    def _reap(self) -> None:
        for pid, status in reap():
            if self.control is not None and pid == self.control.pid:
                control, self.control = self.control, None
                self._forget(control)
                now = time.monotonic()
                delay = 0.0
                if not control.retiring:
                    delay = self._control_backoff.died("control", now - control.started)
                    log.error("control plane died: %s; restart in %.1f s", describe(status), delay)
                self._control_due = now + delay
                continue
            for worker in list(self.fleet.workers.values()):
                if worker.pid == pid:
                    self._messages(worker)
                    self._forget(worker)
                    self.fleet.gone(worker, status)

    def _forget(self, child: Child) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(child.channel)
        child.channel.close()

    def _control_tick(self, now: float) -> None:
        if self.control is None:
            if now >= self._control_due:  # at a stop, too: who drains wants to see how it goes
                self._start_control()
        elif self.control.kill_at is not None and now >= self.control.kill_at:
            self.control.kill_at = None
            self.control.signal(signal.SIGKILL)

    def _send_state(self, now: float) -> None:
        if self.control is None:
            return
        state = {
            "op": "state", "target": self.fleet.target, "pinned": self.pinned,
            "generation": self.fleet.serving_generation,
            "workers": [
                {"slot": worker.slot, "row": worker.row, "pid": worker.pid, "state": worker.state,
                 "generation": worker.generation}
                for worker in self.fleet.workers.values()
            ],
            "reload": self.reload.result,
        }  # fmt: skip
        if state != self._state_sent or now >= self._state_due:
            self._state_due = now + 1.0
            # Only the newest state matters: what there is no room for is not kept.
            if channel.send(self.control.channel, state):
                self._state_sent = state

    # -- stop ------------------------------------------------------------------------------------

    def _kill_now(self) -> None:
        log.warning("quitting now")
        self.fleet.stopping = True
        for worker in self.fleet.workers.values():
            worker.retiring = True
            worker.signal(signal.SIGKILL)

    def _kill_all(self) -> None:
        """Whatever still runs goes: workers at once, the control plane after a chance to leave."""
        for worker in self.fleet.workers.values():
            worker.signal(signal.SIGKILL)
        if self.control is not None:
            self.control.signal(signal.SIGTERM)
            self.control.channel.close()
        deadline = time.monotonic() + 2.0
        while self.control is not None or self.fleet.workers:
            for pid, _ in reap():
                if self.control is not None and pid == self.control.pid:
                    self.control = None
                for row in [row for row, worker in self.fleet.workers.items() if worker.pid == pid]:
                    del self.fleet.workers[row]
            if self.control is not None and time.monotonic() > deadline:
                self.control.signal(signal.SIGKILL)
            time.sleep(0.01)
