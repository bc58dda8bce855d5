"""New servers of a reload are checked before its generation serves: the process that does it.

It knows the lists of servers and generations, neither the fleet nor the reload: the fleet begins it, and asks
whether it is to be waited for.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
from collections.abc import Callable

from pylb.config import checked
from pylb.config.model import Config
from pylb.control.context import FirstContext
from pylb.log import log
from pylb.scoreboard import Scoreboard
from pylb.supervisor.generations import Generation
from pylb.supervisor.processes import fork
from pylb.supervisor.servers import Servers

PATIENCE = 5.0
"""Seconds that a reload waits for the first checks; what isn't known by then, the control plane finds out."""


class FirstChecks:
    """At most one process.

    Args:
        in_child: there first: closes what only the supervisor needs, and drops its rights.
    """

    def __init__(self, board: Scoreboard, servers: Servers, in_child: Callable[[Generation], None]) -> None:
        self._board = board
        self._servers = servers
        self._in_child = in_child
        self._pid = 0
        self._until = 0.0

    @property
    def under_way(self) -> bool:
        """Whether the generation is to wait."""
        return self._pid != 0

    def late(self, now: float) -> bool:
        """Whether it has taken too long; then it is given up."""
        if not self._pid or now < self._until:
            return False
        log.warning("reload: not all new servers could be checked within %g s", PATIENCE)
        self.cancel()
        return True

    def begin(self, generation: Generation, serving: Config) -> None:
        """Check the servers that the serving configuration hasn't, unless their ``init`` is "up"."""
        self.cancel()
        known = {one.index for listed in self._servers.lists(serving).values() for one in listed}
        fresh = [
            (backend, one.config, one.index)
            for backend in generation.config.backends
            for one in self._servers.listed(backend)
            if one.index not in known
            and (check := checked.check_of(backend, one.config)) is not None
            and check.init != "up"
        ]
        if not fresh:
            return
        log.info("reload: checking %d new servers first", len(fresh))
        secrets, config = generation.secrets, generation.config
        context = FirstContext(fresh, self._board, secrets.checks, config.unsafe_regex)
        run = importlib.import_module("pylb.control.first").run  # here, since the child may not read files
        try:
            self._pid = fork(
                "pylb: first checks", "checks", lambda: self._in_child(generation), lambda: run(context)
            )
        except OSError as error:
            log.error("new servers can't be checked before they are used: %s", error)
        self._until = time.monotonic() + PATIENCE

    def ended(self, pid: int) -> bool:
        """A process has ended; whether it was this one."""
        if pid != self._pid:
            return False
        self._pid = 0
        return True

    def cancel(self) -> None:
        """Wait for it no longer. It has written its last when this returns."""
        if not self._pid:
            return
        pid, self._pid = self._pid, 0
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
