"""The control plane's process: started, started again when it dies, replaced at a reload.

Its listening socket, the admin socket, is kept here while the process comes and goes. It knows nothing of
workers; the generation that serves, and what is told to the process, are handed to it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from pylb.config.model import Config
from pylb.control.context import ControlContext
from pylb.control.sources import registry
from pylb.log import log
from pylb.net import channel
from pylb.net.adminsocket import AdminSocket
from pylb.scoreboard import ControlField, Scoreboard
from pylb.supervisor.generations import Generation
from pylb.supervisor.processes import Backoff, Child, describe, fork
from pylb.supervisor.readings import reading
from pylb.supervisor.servers import Servers
from pylb.supervisor.watchdog import DOUBTFUL, START_TIMEOUT, STUCK

_STATE_EVERY = 1.0  # seconds after which a state that hasn't changed is sent again
_REPLACED = 5.0  # seconds that a replaced process has to leave
_AGAIN = 1.0  # seconds until the next try where no process can be had


class ControlPlane:
    """At most one process.

    Args:
        admin: what it serves the admin address on.
        board: the scoreboard.
        servers: their lists.
        kept: what earlier ones have left.
        file: the configuration's.
        entry: what the process runs.
        in_child: there first: closes what only the supervisor needs, and drops its rights.
        served: gives the generation that serves.
        started: called with each new process.
    """

    def __init__(
        self,
        admin: AdminSocket,
        board: Scoreboard,
        servers: Servers,
        kept: Mapping[str, Any],
        file: str | None,
        entry: Callable[[ControlContext], None],
        in_child: Callable[[Generation], None],
        served: Callable[[], Generation],
        started: Callable[[Child], None],
    ) -> None:
        self.admin = admin
        self.child: Child | None = None
        self.config: Config = served().config
        """The child's, or the last one's."""
        self._board = board
        self._servers = servers
        self._kept = kept
        self._file = file
        self._entry = entry
        self._in_child = in_child
        self._served = served
        self._started = started
        self._started_at = time.time()  # about when the supervisor started
        self._backoff = Backoff()
        self._due = 0.0
        self._sent: Mapping[str, Any] = {}
        self._state_due = 0.0

    @property
    def doubtful(self) -> bool:
        """It has been silent for a while."""
        return self.child is not None and self.child.watch.silence >= DOUBTFUL

    def start(self) -> None:
        """Start the process, or try later."""
        try:
            self._fork()
        except OSError as error:  # no process or descriptor to be had: traffic goes on without it
            log.error("cannot start the control plane: %s", error)
            self._due = time.monotonic() + _AGAIN

    def _fork(self) -> None:
        ours, theirs = channel.pair()
        served = self._served()
        secrets = served.secrets
        registry.load(served.config)
        context = ControlContext(
            served.config, self._board, theirs, self._servers.lists(served.config), self._servers.version,
            dict(self._kept), self.admin.sock if self.admin.sock.fileno() >= 0 else None, self.admin.address,
            secrets.admin_token, secrets.admin_read_token, self._file, served.number, self._started_at,
            secrets.checks, secrets.controller_token, secrets.controller_tls, secrets.sources,
        )  # fmt: skip

        def prepare() -> None:
            self._in_child(served)
            ours.close()

        try:
            pid = fork("pylb: control", "control", prepare, lambda: self._entry(context))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.child, self.config = Child(pid, ours, time.monotonic()), served.config
        self._started(self.child)
        self._sent = {}

    def ended(self, status: int) -> None:
        """The process has gone, and its channel is closed."""
        child, self.child = self.child, None
        assert child is not None
        now = time.monotonic()
        delay = 0.0
        if not child.retiring:
            delay = self._backoff.died("control", now - child.started)
            log.error("control plane died: %s; restart in %.1f s", describe(status), delay)
        self._due = now + delay

    def replace(self) -> None:
        """Have the process leave; the next one is of the generation that serves."""
        if self.child is not None:
            self.child.retiring = True
            self.child.kill_at = time.monotonic() + _REPLACED
            self.child.signal(signal.SIGTERM)

    def tick(self, now: float) -> None:
        """Start it if it is due, kill it if it doesn't leave, doesn't begin or shows no sign of life."""
        self._judge(now)
        if self.child is not None:
            self.child.flush()
        if self.child is None:
            if now >= self._due:  # at a stop, too: who drains wants to see how it goes
                self.start()
        elif self.child.kill_at is not None and now >= self.child.kill_at:
            self.child.kill_at = None
            self.child.signal(signal.SIGKILL)

    def _judge(self, now: float) -> None:
        child = self.child
        if child is None or child.killed:
            return
        beat = self._board.control[ControlField.HEARTBEAT_NS]
        if beat < child.started * 1e9:
            beat = 0  # it is its predecessor's
        silence = child.watch.look(now, beat, lambda: reading(child.pid))
        late = not child.ready and now - child.started >= START_TIMEOUT
        if late or silence >= max(STUCK, self._served().config.workers.watchdog):
            child.killed = True
            log.error(
                "control plane (pid %d) %s: killing it",
                child.pid,
                "does not start" if late else f"has shown no sign of life for {silence:.1f} s",
            )
            child.signal(signal.SIGKILL)

    def tell(self, state: Mapping[str, Any], now: float) -> None:
        """Send it the supervisor's state, if that has changed or was sent a while ago."""
        if self.child is None or state == self._sent and now < self._state_due:
            return
        self._state_due = now + _STATE_EVERY
        # Only the newest state matters: what there is no room for is not kept.
        if channel.send(self.child.channel, {"op": "state", **state}):
            self._sent = state

    def free_address(self) -> None:
        """The next instance may start while this one drains, and its admin address is the same."""
        before = self.admin.address
        aside = self.admin.step_aside()
        if aside is not None:
            log.info("the admin socket is now at %s", aside)
        elif not before.is_unix:
            log.info("the admin address %s is given up", before)
