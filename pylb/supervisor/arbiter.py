"""The supervisor's loop: signals, messages of the children, reload, stop."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from setproctitle import setproctitle

from pylb import log as logging_
from pylb.config.address import Address
from pylb.config.files import admin_token
from pylb.config.identity import ignored
from pylb.config.model import Config, ServerKey, server_keys
from pylb.control.context import ControlContext
from pylb.log import log
from pylb.net import channel, messages
from pylb.net.adminsocket import AdminSocket
from pylb.net.listeners import BindError, Listeners
from pylb.scoreboard import ControlField, Scoreboard, SupervisorField
from pylb.supervisor import privileges, signals
from pylb.supervisor.fleet import START_TIMEOUT, Fleet, rows_for
from pylb.supervisor.guard import Guard
from pylb.supervisor.processes import Backoff, Child, Worker, describe, fork, reap
from pylb.supervisor.readings import reading
from pylb.supervisor.reload import Reload, admin_address_of, binds_of
from pylb.supervisor.secrets import read_secrets
from pylb.supervisor.signals import Signals
from pylb.supervisor.watchdog import DOUBTFUL, STUCK
from pylb.worker.context import WorkerContext

FAST_TICK = 0.1
SLOW_TICK = 0.5
MESSAGES_PER_TURN = 200  # of one child, so that the others, signals and the tick get their turn, too
MAX_SERVERS = 512
AGAIN = 0.5
"""Seconds from which a second stop signal counts: timeout(1) sends one twice, to us and to our group."""


def _real_worker(context: WorkerContext) -> None:
    importlib.import_module("pylb.worker.process").run(context)


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
        OSError: a file can't be used any more, or the user can't be had.
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
        self.guard = Guard()
        self.config = self.served_config = config
        self.reload = Reload(self, reload)
        self._control_entry = control_entry
        self._hangup_ends = hangup_ends
        self._real = (worker_entry is _real_worker, control_entry is _real_control)
        slots = max(config.workers.max, len(os.sched_getaffinity(0)))
        binds = len(binds_of(config))
        rows = rows_for(slots, config.drain.generations, hard)
        needed = slots * binds + 2 * rows + 2 * slots + 64  # listening sockets, inboxes, channels
        if needed > hard > 0:
            raise BindError(
                f"{slots} workers on {binds} addresses need {needed} descriptors, but the limit (ulimit -Hn) "
                f"is {hard}: raise it or lower workers.max"
            )
        self.identities = privileges.Identities()
        who = self.identities.look_up(config)
        secrets = read_secrets(config)
        self.servers: dict[ServerKey, int] = {}
        self.board = Scoreboard(slots, max(MAX_SERVERS, 2 * len(server_keys(config))), rows)
        logging_.count_lost(self._count_lost)
        self.add_servers(config)  # there is room
        self.listeners = Listeners(binds_of(config), slots, config.backlog)
        try:
            self.admin_token = admin_token(config)
            self.admin = AdminSocket(
                *(admin_address_of(config), self.admin_token is not None, self.listeners.all()),
                folder_mode=privileges.folder_mode(who),
            )
        except BaseException:
            self.listeners.close()
            raise
        for _, address in (*binds_of(config), ("", self.admin.address)):
            privileges.give(address, who)
        self.fleet = Fleet(
            config, slots, self.board, self.listeners, self.servers, worker_entry, self._in_worker, secrets
        )
        self.fleet.guard = self.guard
        self.fleet.on_flip = self.reload.flipped
        self.fleet.on_start = lambda worker: self._watch(worker)
        self.pinned: int | None = None
        self._pin_done: list[Any] = [0, 200, ""]  # of the last order: its number, a status, what was done
        self.control: Child | None = None
        self._control_backoff = Backoff()
        self._control_due = 0.0
        self._state_sent: dict[str, Any] = {}
        self._state_due = 0.0
        self._stopping_since = 0.0
        self._stop_at = 0.0  # while a stop is announced: when it begins

    @property
    def admin_address(self) -> Address:
        """Where the admin socket is."""
        return self.admin.address

    @property
    def admin_socket(self) -> socket.socket:
        """What the control plane serves the admin address on."""
        return self.admin.sock

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
        workers = self.fleet.workers.values() if hasattr(self, "fleet") else ()
        configs = [self.served_config, *(worker.config for worker in workers)]
        self.board.add_backends(
            [backend.name for backend in config.backends],
            [backend.name for known in configs for backend in known.backends],
        )
        return True

    def _count_lost(self, lines: int) -> None:
        self.board.supervisor[SupervisorField.LOG_LOST] += lines

    def _forget_servers(self, kept: set[ServerKey]) -> None:
        """Free the indices of servers that no worker's configuration has any more."""
        kept |= {key for worker in self.fleet.workers.values() for key in server_keys(worker.config)}
        for key in self.servers.keys() - kept:
            self.board.forget_server(self.servers.pop(key))

    def _in_child(self, config: Config) -> None:
        self.signals.reset_in_child()
        self.selector.close()
        for sock in self.reload.removed:
            sock.close()
        if self.reload.admin is not None:  # its control plane is forked when the reload has succeeded
            self.reload.admin.sock.close()
        privileges.drop(self.identities.of(config))

    def _in_worker(self) -> None:
        self._in_child(self.fleet.config)
        self.admin.sock.close()
        if self.control is not None:
            self.control.channel.close()
        settings = self.fleet.config.log
        logging_.setup(settings.format, settings.level)

    def _watch(self, child: Child) -> None:
        # Should an earlier one have been closed without being unregistered, its number may come again.
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(child.channel)
        self.selector.register(child.channel, selectors.EVENT_READ, child)

    def _start_control(self) -> None:
        try:
            self._fork_control()
        except OSError as error:  # no process or descriptor to be had: traffic goes on without it
            log.error("cannot start the control plane: %s", error)
            self._control_due = time.monotonic() + 1.0

    def _fork_control(self) -> None:
        ours, theirs = channel.pair()
        secrets = self.fleet.secrets[self.fleet.serving_generation]
        context = ControlContext(
            self.served_config, self.board, theirs, self.servers,
            self.admin.sock if self.admin.sock.fileno() >= 0 else None, self.admin.address, self.admin_token,
            self.fleet.serving_generation, self.started_at,
            secrets.controller_token, secrets.controller_tls,
        )  # fmt: skip

        def prepare() -> None:
            self._in_child(self.served_config)
            ours.close()
            for worker in self.fleet.workers.values():
                worker.channel.close()
            self.fleet.close()
            self.listeners.close(unlink=False)
            logging_.setup(context.config.log.format, context.config.log.level)

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
        for real, module in zip(self._real, ("pylb.worker.process", "pylb.control.main"), strict=True):
            if real:
                importlib.import_module(module)
        privileges.warm()
        if ignored(self.config):
            log.warning("user and group are ignored: only root can become somebody else")
        elif os.geteuid() == 0 and self.config.user is None:
            log.warning(
                "all processes run as root: set user, so that those which read what clients send don't"
            )
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
            for part, end in (
                ("ending the children", self._kill_all),
                ("closing a reload under way", self.reload.close),
                ("closing the binds", self.listeners.close),
                ("closing the admin address", self.admin.close),
                ("closing the inboxes", self.fleet.close),
            ):
                with self.guard(part):
                    end()
            self.selector.close()
            self.signals.close()
        log.info("stopped")
        logging_.tick(self.board.log_lost())
        return 0

    def _loop(self) -> None:
        """Until all workers have left after a stop.

        Nothing else ends it: what fails is logged, and the next part has its turn.
        """
        guard = self.guard
        tick_due = 0.0
        while not (self.fleet.stopping and not self.fleet.workers):
            now = time.monotonic()
            for child in self._events(max(0.0, tick_due - now)):
                if child is None:
                    with guard("signals"):
                        for number in self.signals.pending():
                            with guard(f"signal {signals.name(number)}"):
                                self._signal(number)
                    self._reap()
                else:
                    with guard("messages of a child"):
                        self._messages(child)
            now = time.monotonic()
            if self.announcing and now >= self._stop_at:
                with guard("the stop"):
                    self._stop()
            if now >= tick_due:
                tick_due = now + SLOW_TICK
                self._reap()
                with guard("the workers' tick"):
                    self.fleet.tick(now)
                with guard("the control plane's tick"):
                    self._judge_control(now)
                    self._control_tick(now)
                with guard("the reload's tick"):
                    self.reload.check()
                with guard("the log"):
                    logging_.tick(self.board.log_lost())
                with guard("ticking"):
                    doubtful = self.control is not None and self.control.watch.silence >= DOUBTFUL
                    if doubtful or self.fleet.busy():
                        tick_due = now + FAST_TICK
            with guard("the state's message"):
                self._send_state(now)

    def _events(self, timeout: float) -> list[Child | None]:
        """Wait; who has something to say, None standing for signals."""
        failed = self.guard.caught
        with self.guard("waiting for events"):
            return [key.data for key, _ in self.selector.select(timeout)]
        assert self.guard.caught > failed
        time.sleep(FAST_TICK)  # instead of the wait that has failed
        return [None]

    def _messages(self, child: Child) -> None:
        for _ in range(MESSAGES_PER_TURN):
            if child.channel.fileno() < 0:  # an earlier event of this turn may have closed it
                return
            try:
                message = channel.recv(child.channel)
            except BlockingIOError:
                return
            except ValueError as error:
                self._passed_over(child, str(error))
                continue
            if message is None:  # it is gone or about to be; SIGCHLD says the rest
                with contextlib.suppress(KeyError, ValueError):
                    self.selector.unregister(child.channel)
                return
            wrong = messages.wrong(message, messages.TO_SUPERVISOR)
            if wrong:
                self._passed_over(child, wrong)
                continue
            with self.guard("a message of a child"):
                self._message(child, message)

    def _passed_over(self, child: Child, why: str) -> None:
        """A message that can't be understood; a child that has gone mad may send many, so the first one is
        told."""
        child.nonsense += 1
        if child.nonsense == 1:
            log.error("messages of pid %d are passed over: %.200s", child.pid, why)

    def _message(self, child: Child, message: dict[str, Any]) -> None:
        op, count = message["op"], message.get("n")
        if op == "ready" and isinstance(child, Worker):
            self.fleet.ready(child)
        elif op == "ready":
            child.ready = True
        elif isinstance(child, Worker):
            return
        elif op == "scale" and isinstance(count, int):
            if self.pinned is None and not self.fleet.stopping:
                self.fleet.scale(count, message["reason"][: messages.REASON_LENGTH])
        elif op == "pin":
            self._pin_done = [message["id"], *self._pin(count)]

    def _pin(self, count: int | None) -> tuple[int, str]:
        """Fix the number of workers, or release it; an HTTP status, and a sentence that says what was
        done."""
        if self.fleet.stopping:
            return 409, "pylb is stopping; the number of workers stays"
        if count is None:
            self.pinned = None
            log.info("worker count is automatic again")
            return 200, "the number of workers follows the idle cores again"
        low, high = self.config.workers.min, min(self.config.workers.max, self.fleet.slots)
        self.pinned = max(min(low, high), min(high, count))
        why = ""
        if self.pinned < count:
            limit = "workers.max" if high == self.config.workers.max else "the start's workers.max"
            why = f" ({count} were asked for, but {limit} is {high})"
        elif self.pinned > count:
            why = f" ({count} were asked for, but workers.min is {low})"
        log.info("worker count pinned to %d%s", self.pinned, why)
        self.fleet.scale(self.pinned, "pinned by the operator")
        return 200, f"pinned to {self.pinned} workers until 'scale auto'{why}"

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
        elif number in signals.IGNORED:
            log.warning("%s: ignored; %s", signals.name(number), signals.IGNORED[signal.Signals(number)])

    def _free_admin(self) -> None:
        """The next instance may start while this one drains, and its admin address is the same."""
        before = self.admin.address
        aside = self.admin.step_aside()
        if aside is not None:
            log.info("the admin socket is now at %s", aside)
        elif not before.is_unix:
            log.info("the admin address %s is given up", before)

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
        self._free_admin()

    def _reap(self) -> None:
        gone: list[tuple[int, int]] = []
        with self.guard("reaping"):
            gone = reap()
        for pid, status in gone:
            with self.guard("the end of a child"):
                self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        """A process ended: the control plane, a worker, or one that was given to us as to PID 1."""
        if self.control is not None and pid == self.control.pid:
            control, self.control = self.control, None
            self._forget(control)
            now = time.monotonic()
            delay = 0.0
            if not control.retiring:
                delay = self._control_backoff.died("control", now - control.started)
                log.error("control plane died: %s; restart in %.1f s", describe(status), delay)
            self._control_due = now + delay
            return
        for worker in list(self.fleet.workers.values()):
            if worker.pid == pid:
                with self.guard("the last messages of a worker"):
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

    def _judge_control(self, now: float) -> None:
        """Kill a control plane that shows no sign of life, or doesn't begin."""
        control = self.control
        if control is None or control.killed:
            return
        beat = self.board.control[ControlField.HEARTBEAT_NS]
        if beat < control.started * 1e9:
            beat = 0  # it is its predecessor's
        silence = control.watch.look(now, beat, lambda: reading(control.pid))
        late = not control.ready and now - control.started >= START_TIMEOUT
        if late or silence >= max(STUCK, self.config.workers.watchdog):
            control.killed = True
            log.error(
                "control plane (pid %d) %s: killing it",
                control.pid,
                "does not start" if late else f"has shown no sign of life for {silence:.1f} s",
            )
            control.signal(signal.SIGKILL)

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
            "reload": self.reload.result, "pin": self._pin_done, "stopping": self.fleet.stopping,
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
