"""Signals as events of the supervisor's loop: handlers do nothing, the wake-up descriptor says which came.

A bottom floor of the supervisor: what a signal means, the arbiter knows.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from types import FrameType

MEANT = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGCHLD,
)
"""Those that do something."""

IGNORED = {
    signal.SIGUSR2: "it will upgrade the program in a later version; restart instead",
    signal.SIGALRM: "it has no meaning here",
    signal.SIGVTALRM: "it has no meaning here",
    signal.SIGPROF: "it has no meaning here",
    signal.SIGIO: "it has no meaning here",
    signal.SIGPWR: "it has no meaning here",
    signal.SIGSTKFLT: "it has no meaning here",
}
"""Those that would end a process by default (man 7 signal) and are sent by mistake, or to another version,
with what the log says of them. Python ignores PIPE and XFSZ by itself. XCPU and what says that the program is
broken (SEGV, ABRT, …) keep their meaning."""

HANDLED = (*MEANT, *IGNORED)

_CAN_WAIT = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1)
"""Which do their work as well a moment later; a stop can't wait, since a start may hang in a name's
resolution."""


def _ignore(number: int, frame: FrameType | None) -> None:
    """Python must have a handler for the wake-up descriptor to be written."""


def survive(serving: bool) -> None:
    """At the very beginning of the program, before anything slow is imported.

    Args:
        serving: whether this process will be a supervisor: then an order that comes early waits until
            there is one to carry it out. Another command may be ended by a terminal's hang-up.
    """
    for number in (*IGNORED, signal.SIGUSR1):  # whoever rotates logs may send it to every pylb
        signal.signal(number, signal.SIG_IGN)
    if serving:
        signal.pthread_sigmask(signal.SIG_BLOCK, _CAN_WAIT)


class Signals:
    """Installed once by the supervisor; ``reader`` becomes readable when a signal arrives."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _ignore) for number in HANDLED}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CAN_WAIT)  # what `survive` has held back comes now

    def pending(self) -> list[int]:
        """The signals that arrived since the last call, in order."""
        numbers: list[int] = []
        while True:
            try:
                data = self.reader.recv(4096)
            except BlockingIOError:
                return numbers
            if not data:
                return numbers
            numbers.extend(data)

    def close(self) -> None:
        """Put back what was there before."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self.reader.close()
        self._writer.close()

    def reset_in_child(self) -> None:
        """Default handlers in a forked child, except for what is the supervisor's to decide.

        A terminal's Ctrl-C goes to the whole group, and so do kill(1)'s signals to a group and those of a
        service manager to every process: what the supervisor survives, its children do.
        """
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in HANDLED:
            if number not in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_IGN)
        self.reader.close()
        self._writer.close()


def name(number: int) -> str:
    """``HUP`` of SIGHUP."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name.removeprefix("SIG")
    return str(number)
