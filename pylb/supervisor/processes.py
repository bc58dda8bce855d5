"""Children: forking, reaping, and how long to wait before one that died is started again.

Below everything that decides which processes there are to be; it knows none of that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from setproctitle import setproctitle

from pylb import log as logging_
from pylb.config.model import Config
from pylb.log import log
from pylb.net import channel
from pylb.supervisor.watchdog import Watch


@dataclass(eq=False)
class Child:
    """A forked process and the supervisor's end of its channel."""

    pid: int
    channel: socket.socket
    started: float
    ready: bool = False
    retiring: bool = False
    kill_at: float | None = None
    """When it is killed if it still runs (monotonic seconds)."""
    nonsense: int = 0
    """Messages from it that could not be understood."""
    watch: Watch = field(default_factory=Watch)
    stuck: bool = False
    """It shows no sign of life."""
    killed: bool = False
    """By the watchdog; it is gone as soon as the kernel is done with it."""
    outbox: deque[dict[str, Any]] = field(default_factory=deque)
    """Messages its channel had no room for."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, or keep it for `flush` so that the order is kept."""
        self.outbox.append(message)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self.outbox and channel.send(self.channel, self.outbox[0]):
            self.outbox.popleft()

    def signal(self, number: int) -> None:
        """Send a signal; it not being there any more is no error."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


@dataclass(eq=False, kw_only=True)
class Worker(Child):
    """A worker process."""

    row: int
    slot: int
    generation: int
    config: Config
    """With which it was started."""
    listening: list[int] = field(default_factory=list)
    """The slots whose listeners it was told to read."""
    successors: list[int] = field(default_factory=list)
    """The rows to which it was told to move its connections."""
    replaced_at: float = 0.0
    """When it was told so first, in monotonic seconds."""
    cut: bool = False
    """It was told to close what it still has."""

    @property
    def state(self) -> str:
        """One word for the control plane."""
        if self.stuck:
            return "stuck"
        return "retiring" if self.retiring else "serving" if self.ready else "starting"


class Backoff:
    """How long to wait before the next start: none at first, then doubling while deaths come early."""

    FIRST = 0.1
    LONGEST = 5.0
    EARLY = 1.0

    def __init__(self) -> None:
        self._delay: dict[Any, float] = {}

    def died(self, key: Any, lived: float) -> float:
        """Note a death after ``lived`` seconds; returns the seconds to wait."""
        if lived >= self.EARLY or key not in self._delay:
            self._delay[key] = self.FIRST
            return 0.0
        delay = self._delay[key]
        self._delay[key] = min(self.LONGEST, delay * 2)
        return delay

    def forget(self) -> None:
        """Start afresh, for instance with a new configuration."""
        self._delay.clear()


def fork(title: str, role: str, prepare: Callable[[], None], entry: Callable[[], None]) -> int:
    """Fork a child that runs ``entry`` and never returns; the parent gets its pid.

    Args:
        title: process title.
        role: for the log.
        prepare: in the child first: reset signals, close what is not its own. Signals are blocked
            until it is done, so that none is handled with the parent's handlers.
        entry: the child's work. Returning means exit code 0, an exception 1.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _child(title, role, prepare, entry, blocked)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _child(
    title: str, role: str, prepare: Callable[[], None], entry: Callable[[], None], mask: set[Any]
) -> NoReturn:
    code = 1
    try:
        logging_.in_child(role)
        setproctitle(title)
        prepare()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        entry()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        with contextlib.suppress(Exception):
            log.exception("%s failed", role)
    finally:
        os._exit(code)


def reap() -> list[tuple[int, int]]:
    """(pid, wait status) of all children that ended."""
    gone: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return gone
        if pid == 0:
            return gone
        gone.append((pid, status))


def describe(status: int) -> str:
    """A wait status in words: ``exit code 1`` or ``SIGKILL``."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return signal.Signals(number).name
        except ValueError:
            return f"signal {number}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"
