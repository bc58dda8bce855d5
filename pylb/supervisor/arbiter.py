"""The supervisor's process: it makes the parts, and its loop gives each its turn.

The top floor of `pylb.supervisor`: it knows every part, and none of them knows it; what they need of each
other they get as arguments and callbacks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

from setproctitle import setproctitle

from controller.sources.quota import possible_cores
from pylb import log as logging_
from pylb.config.address import Address
from pylb.config.identity import ignored
from pylb.config.model import Config
from pylb.control.context import ControlContext
from pylb.log import log
from pylb.net import messages
from pylb.net.adminsocket import AdminSocket
from pylb.net.listeners import BindError, Listeners
from pylb.scoreboard import Scoreboard, SupervisorField
from pylb.supervisor import privileges, signals, statefile
from pylb.supervisor.accesslogs import AccessLogs
from pylb.supervisor.channels import Channels
from pylb.supervisor.controlplane import ControlPlane
from pylb.supervisor.firstchecks import FirstChecks
from pylb.supervisor.fleet import Fleet
from pylb.supervisor.generations import Generation, admin_address_of, binds_of
from pylb.supervisor.guard import Guard
from pylb.supervisor.inboxes import Inboxes
from pylb.supervisor.indices import backends_for, room_for
from pylb.supervisor.kept import Kept
from pylb.supervisor.pins import Pins
from pylb.supervisor.places import PlaceKeeper
from pylb.supervisor.processes import Child, Worker, reap
from pylb.supervisor.reload import Reload
from pylb.supervisor.roster import Roster
from pylb.supervisor.secrets import read_secrets
from pylb.supervisor.servers import Servers
from pylb.supervisor.signals import Signals
from pylb.supervisor.slots import descriptors_for, rows_for
from pylb.supervisor.starting import Starter
from pylb.supervisor.statefile import StateFile
from pylb.supervisor.stopping import Stop
from pylb.worker.context import WorkerContext

FAST_TICK = 0.1
SLOW_TICK = 0.5


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
        file: the configuration's, for the operator; absolute.
        hangup_ends: HUP says that the terminal was closed, and ends it; otherwise it is the order to reload.

    Raises:
        BindError: an address can't be listened on.
        OSError: a file can't be used, or a process can't become the user.
    """

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        worker_entry: Callable[[WorkerContext], None] = _real_worker,
        control_entry: Callable[[ControlContext], None] = _real_control,
        hangup_ends: bool = False,
        file: str | None = None,
    ) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        slots = max(config.workers.max, possible_cores())
        binds = binds_of(config)
        rows = rows_for(slots, config.drain.generations, hard)
        needed = descriptors_for(slots, len(binds), rows)
        if needed > hard > 0:
            raise BindError(
                f"{slots} workers on {len(binds)} addresses need {needed} descriptors, but the limit "
                f"(ulimit -Hn) is {hard}: raise it or lower workers.max"
            )
        self._hangup_ends = hangup_ends
        self._real = (worker_entry is _real_worker, control_entry is _real_control)
        self.guard = Guard()
        self.identities = privileges.Identities()
        who = self.identities.look_up(config)
        secrets = read_secrets(config)
        self.access_logs = AccessLogs()
        opened = self.access_logs.open(config)
        self.board = Scoreboard(slots, room_for(config), rows, backends_for(config))
        logging_.count_lost(self._count_lost)
        self.servers = Servers(self.board, config, statefile.read(config.state_file))
        self.servers.serves(config)
        self.state_file = StateFile()
        self.kept = Kept()
        listeners = Listeners(binds, slots, config.backlog)
        try:
            admin = AdminSocket(
                *(admin_address_of(config), secrets.admin_token is not None, listeners.all()),
                folder_mode=privileges.folder_mode(who),
            )
        except BaseException:
            listeners.close()
            raise
        listeners.set_options(config.tcp)
        for _, address in (*binds, ("", admin.address)):
            privileges.give(address, who)
        self.inboxes = Inboxes(rows)
        self.first_checks = FirstChecks(self.board, self.servers, self._in_first_checks)
        self.fleet = Fleet(
            Generation(1, config, secrets, listeners, opened),
            self.board,
            self.servers,
            self.inboxes,
            Starter(self.board, self.inboxes, self.servers, worker_entry, self._in_worker),
            self.guard,
            self.first_checks,
            flipped=self._flipped,
            started=lambda worker: self.channels.watch(worker),
        )
        self.control = ControlPlane(
            admin,
            self.board,
            self.servers,
            self.kept.values,
            file,
            control_entry,
            self._in_control,
            served=lambda: self.fleet.served,
            started=lambda child: self.channels.watch(child),
        )
        self.board.places.open_wakes()
        self.places = PlaceKeeper(self.board, self.servers.lists)
        self.pins = Pins(self.fleet)
        self.roster = Roster(
            *(self.board, self.servers, self.fleet, self.control), changed=self.state_file.changed
        )
        self.stop = Stop(self.board, self._drain, self.fleet.kill)
        self.reload = Reload(
            *(reload, self.fleet, self.control, self.identities, self.access_logs, self.guard),
            announced=lambda: self.stop.announced,
            room_comes=lambda: self.servers.indices.waiting,
        )

    def _flipped(self) -> None:
        self.reload.flipped()
        self.roster.flipped()

    @property
    def admin_address(self) -> Address:
        """Where the admin socket is."""
        return self.control.admin.address

    def _count_lost(self, lines: int) -> None:
        self.board.supervisor[SupervisorField.LOG_LOST] += lines

    # -- in a child, after the fork --------------------------------------------------------------

    def _in_child(self, generation: Generation) -> None:
        self.signals.reset_in_child()
        self.channels.close()
        pending = self.reload.pending
        if pending is not None:
            for sock in pending.removed:
                sock.close()
            if pending.admin is not None:  # its control plane is forked when the reload has succeeded
                pending.admin.sock.close()
        privileges.drop(self.identities.of(generation.config))

    def _in_worker(self, generation: Generation) -> None:
        self._in_child(generation)
        self.control.admin.sock.close()
        if self.control.child is not None:
            self.control.child.channel.close()
        logging_.setup(generation.config.log.format, generation.config.log.level)

    def _in_control(self, generation: Generation) -> None:
        self._in_child(generation)
        for worker in self.fleet.workers.values():
            worker.channel.close()
        self.inboxes.close()
        self.board.places.close_wakes()
        self.fleet.newest.listeners.close(unlink=False)
        logging_.setup(generation.config.log.format, generation.config.log.level)

    def _in_first_checks(self, generation: Generation) -> None:
        self._in_control(generation)
        self.control.admin.sock.close()
        if self.control.child is not None:
            self.control.child.channel.close()

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        for real, module in zip(self._real, ("pylb.worker.process", "pylb.control.main"), strict=True):
            if real:
                importlib.import_module(module)
        privileges.warm()
        if ignored(self.fleet.newest.config):
            log.warning("user and group are ignored: only root can become somebody else")
        elif os.geteuid() == 0 and self.fleet.newest.config.user is None:
            log.warning(
                "all processes run as root: set user, so that those which read what clients send don't"
            )
        setproctitle("pylb: supervisor")
        self.signals = Signals()
        self.channels = Channels(self.signals.reader, self.guard, self._heard)
        gc.collect()
        gc.freeze()
        try:
            self._keep_places(0.0)
            self.fleet.start()
            self.control.start()
            self._loop()
        finally:
            for part, end in (
                ("ending the children", self._kill_all),
                ("closing a reload under way", self.reload.close),
                ("closing the binds", self.fleet.newest.listeners.close),
                ("closing the admin address", self.control.admin.close),
                ("closing the inboxes", self.inboxes.close),
                ("closing the eventfds", self.board.places.close_wakes),
            ):
                with self.guard(part):
                    end()
            self.channels.close()
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
            for child in self.channels.wait(max(0.0, tick_due - now)):
                if child is None:
                    with guard("signals"):
                        for number in self.signals.pending():
                            with guard(f"signal {signals.name(number)}"):
                                self._signal(number)
                    self._reap()
                else:
                    with guard("messages of a child"):
                        self.channels.read(child)
            now = time.monotonic()
            with guard("the stop"):
                self.stop.tick(now)
            if now >= tick_due:
                tick_due = now + SLOW_TICK
                self._reap()
                with guard("the workers' tick"):
                    self.fleet.tick(now)
                with guard("the control plane's tick"):
                    self.control.tick(now)
                with guard("the reload's tick"):
                    if self.first_checks.late(now):
                        self.fleet.reconcile()
                    self.reload.check()
                with guard("the roster of servers"):
                    self.roster.tick()
                with guard("the state file"):
                    self.state_file.tick(self.fleet.served.config.state_file)
                with guard("the access logs"):
                    self.access_logs.tick()
                with guard("the log"):
                    logging_.tick(self.board.log_lost())
                    guard.tick(now)
                with guard("ticking"):
                    if self.control.doubtful or self.fleet.busy() or self.servers.indices.waiting:
                        tick_due = now + FAST_TICK
            with guard("the places"):
                if self._keep_places(now):
                    tick_due = min(tick_due, now + FAST_TICK)
            with guard("the state's message"):
                self.control.tell(self._state(), now)

    def _keep_places(self, now: float) -> bool:
        """See to the places at servers; whether that has to be done again soon."""
        self.places.follow(self.servers.version, self.fleet.served.config, self.fleet.newest.config)
        return self.places.tick(now)

    # -- what comes from outside -----------------------------------------------------------------

    def _heard(self, child: Child, message: dict[str, Any]) -> None:
        op, count = message["op"], message.get("n")
        if op == "ready" and isinstance(child, Worker):
            self.fleet.ready(child)
        elif op == "ready":
            child.ready = True
        elif isinstance(child, Worker):
            return
        elif op == "scale" and isinstance(count, int):
            self.pins.policy(count, message["reason"][: messages.REASON_LENGTH])
        elif op == "pin":
            self.pins.order(message["id"], count)
        elif op == "changed":
            self.roster.look()
        elif op == "discovered":
            self.roster.discovered(message["backend"], message["source"], message["servers"])
        elif op == "change":
            self.roster.change(message["id"], message["backend"], message["server"], message["what"])
        elif op == "keep":
            self.kept.keep(message["key"], message["value"])

    def _signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT) or number == signal.SIGHUP and self._hangup_ends:
            announce = self.fleet.newest.config.drain.announce
            self.stop.order(signal.Signals(number).name, announce, time.monotonic())
        elif number == signal.SIGQUIT:
            self.stop.now()
        elif number == signal.SIGHUP:
            self.reload.start()
        elif number == signal.SIGTTIN:
            self.pins.pin(self.fleet.wanted.count + 1)
        elif number == signal.SIGTTOU:
            self.pins.pin(self.fleet.wanted.count - 1)
        elif number == signal.SIGUSR1:
            workers = self.fleet.workers.values()
            served = [self.fleet.newest.config, self.fleet.served.config]
            self.access_logs.reopen([*served, *(worker.config for worker in workers)], workers)
        elif number in signals.IGNORED:
            log.warning("%s: ignored; %s", signals.name(number), signals.IGNORED[signal.Signals(number)])

    def _reap(self) -> None:
        gone: list[tuple[int, int]] = []
        with self.guard("reaping"):
            gone = reap()
        for pid, status in gone:
            with self.guard("the end of a child"):
                self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        """A process has ended: the control plane, a worker, or an orphan that PID 1 has to reap."""
        child = self.control.child
        if child is not None and pid == child.pid:
            self.channels.forget(child)
            self.control.ended(status)
            return
        if self.first_checks.ended(pid):
            self.fleet.reconcile()
            return
        for worker in list(self.fleet.workers.values()):
            if worker.pid == pid:
                with self.guard("the last messages of a worker"):
                    self.channels.read(worker)
                self.channels.forget(worker)
                self.fleet.gone(worker, status)
                self.places.look()

    def _state(self) -> dict[str, Any]:
        """What the control plane is to know."""
        return {
            "target": self.fleet.wanted.count, "pinned": self.fleet.wanted.pinned,
            "generation": self.fleet.served.number,
            "workers": [
                {"slot": worker.slot, "row": worker.row, "pid": worker.pid, "state": worker.state,
                 "generation": worker.generation}
                for worker in self.fleet.workers.values()
            ],
            "reload": self.reload.result, "pin": self.pins.done, "stopping": self.fleet.stopping,
        }  # fmt: skip

    # -- stop ------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """The final stop begins."""
        self.fleet.stop()
        # The workers have copies; once they have emptied and closed theirs, the kernel refuses new
        # connections instead of queueing those that would never be accepted.
        self.reload.close()
        self.fleet.newest.listeners.close()
        self.control.free_address()

    def _kill_all(self) -> None:
        """Whatever still runs goes: workers at once, the control plane after a chance to leave."""
        for worker in self.fleet.workers.values():
            worker.signal(signal.SIGKILL)
        control = self.control.child
        if control is not None:
            control.signal(signal.SIGTERM)
            control.channel.close()
        deadline = time.monotonic() + 2.0
        while control is not None or self.fleet.workers:
            for pid, _ in reap():
                if control is not None and pid == control.pid:
                    control = None
                for row in [row for row, worker in self.fleet.workers.items() if worker.pid == pid]:
                    del self.fleet.workers[row]
            if control is not None and time.monotonic() > deadline:
                control.signal(signal.SIGKILL)
            time.sleep(0.01)
